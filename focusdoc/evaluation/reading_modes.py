"""Modes that answer from passages: ours as in `FocusEngine.ask`, and retrieval with the same reader.

In all of them the text after an item's document is the question.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import Answer
from focusdoc.documents import Document
from focusdoc.engine import FocusEngine
from focusdoc.errors import ConfigError, EvaluationError
from focusdoc.evaluation.engines import engine_facts
from focusdoc.evaluation.item import NO_READER, Item, ModeSettings, Outcome, Span
from focusdoc.evaluation.retrieval import Finder, Rank, passages
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.modeling.estimate import estimate_tokens
from focusdoc.readers.drafts import DRAFT_TOKENS
from focusdoc.readers.reader import Messages, Reader, Written, collect, drafter_of, reading_prompt
from focusdoc.readers.reading import BUDGET
from focusdoc.readers.windows import cut

#: Sources to return, more than are ever quoted.
MAX_SOURCES = 8
#: Separates paragraphs.
_GAP = "\n\n"


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


@dataclass
class LastMemory:
    """The last document's memory, which consecutive items share."""

    engine: FocusEngine
    _known: tuple[str, DocumentMemory] | None = None

    def of(self, document: str) -> tuple[DocumentMemory, float]:
        """The memory of a document, read unless it is the last one, and the seconds that took."""
        start = time.perf_counter()
        if self._known is None or self._known[0] != document:
            self._known = None  # free the old memory before the next one is read
            # No progress bar for reading, since the run has one.
            self._known = document, self.engine.read(Document.from_text(document), progress=lambda done, total: None)
        return self._known[1], time.perf_counter() - start


class AskMode:
    """`FocusEngine.ask` with its sources, and with the engine's reader if it has one."""

    def __init__(self, engine: FocusEngine) -> None:
        self.engine = engine
        self._memory = LastMemory(engine)

    def describe(self) -> dict[str, Any]:
        """See `Mode`."""
        reader = self.engine.reader
        return {**engine_facts(self.engine), **({} if reader is None else _reader_facts(reader))}

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        memory, seconds = self._memory.of(item.document)
        question, limit = item.after.strip(), item.max_new_tokens
        answer = self.engine.ask(memory, question, max_sources=MAX_SOURCES, max_new_tokens=limit, stop=item.stop)
        passages = [(source.start, source.end) for source in answer.sources]
        outcome = memory_outcome(self.engine, memory, answer, seconds)
        return replace(outcome, passages=passages, passage_tokens=answer.usage.quoted_tokens)


class RetrievalMode:
    """Retrieval: a reader gets the passages that a finder ranks first, in document order and with our token budget.

    Raises:
        ConfigError: a setting of the passages is out of range.
    """

    def __init__(self, finder: Finder, reader: Reader, settings: ModeSettings) -> None:
        if settings.passages < 1 or settings.window < 2:
            raise ConfigError(
                f"passages is {settings.passages} and window {settings.window}; they must be at least 1 and 2."
            )
        self._finder, self._reader, self._settings = finder, reader, settings
        self._known: tuple[str, list[Span], Rank] | None = None

    def describe(self) -> dict[str, Any]:
        """See `Mode`."""
        settings = {"passages": self._settings.passages, "window": self._settings.window}
        return {**self._finder.describe(), **settings, **_reader_facts(self._reader)}

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        text, question = item.document, item.after.strip()
        start = time.perf_counter()
        if self._known is None or self._known[0] != text:
            spans = cut(text, self._settings.window)
            self._known = text, spans, self._finder.index([text[first:last] for first, last in spans])
        _, spans, rank = self._known
        indexed = time.perf_counter()
        ranked = (spans[number] for number in rank(question))
        found = passages(text, ranked, budget=BUDGET, count=self._reader.count, limit=self._settings.passages)
        retrieved = time.perf_counter()
        return _read(self._reader, item, found, indexed - start, retrieved - indexed)


@dataclass
class PlaceMode:
    """The reader gets only the paragraph with the answer (oracle retrieval), an upper bound."""

    reader: Reader

    def describe(self) -> dict[str, Any]:
        """See `Mode`."""
        return _reader_facts(self.reader)

    def answer(self, item: Item) -> Outcome:
        """See `Mode`; EvaluationError if the place of the answer is not known."""
        if not item.places:
            raise EvaluationError(f"The mode place needs the place of the answer, which {item.id} does not have.")
        text, (first, last) = item.document, item.places[0]
        before, after = text.rfind(_GAP, 0, first), text.find(_GAP, last)
        span = (before + len(_GAP) if before >= 0 else 0, after if after >= 0 else len(text))
        return _read(self.reader, item, [span], 0.0, 0.0)


def memory_outcome(engine: FocusEngine, memory: DocumentMemory, answer: Answer, read_seconds: float) -> Outcome:
    """The outcome of an answer of ours."""
    usage = answer.usage
    tail = engine.own_way.num_tail_tokens(usage.prompt_tokens, usage.completion_tokens)
    beside = memory.num_chunks * tail + usage.prompt_tokens + usage.quoted_tokens + usage.completion_tokens
    return Outcome(
        prediction=answer.text,
        document_tokens=memory.num_tokens,
        prompt_tokens=usage.reader_tokens or usage.prompt_tokens,
        new_tokens=usage.completion_tokens,
        num_chunks=memory.num_chunks,
        kv_bytes=memory.num_bytes + beside * engine.base.kv_bytes_per_token,
        read_seconds=read_seconds,
        first_token_seconds=answer.timings.first_token,
        decode_seconds=answer.timings.decode,
    )


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


def _reader_facts(reader: Reader) -> dict[str, Any]:
    lora = getattr(reader, "lora", None)
    return {"reader": reader.name, "budget": BUDGET, **({} if lora is None else {"lora": lora.fingerprint})}
