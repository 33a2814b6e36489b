"""The evaluation modes: ours, and the baselines on the same base model.

All answer the same items with text, so they share the scorers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.decoding.answer import Generation, Usage
from focusdoc.decoding.generation import TokenLoop, complete
from focusdoc.decoding.prompt import bos_token, encode_text, with_passages
from focusdoc.engine import FocusEngine
from focusdoc.errors import ConfigError
from focusdoc.evaluation.engines import (
    asking_engine,
    engine_facts,
    focus_engine,
    look_engine,
    model_facts,
    paper_engine,
    prompt_ids,
    text_of,
    tokenizer_of,
)
from focusdoc.evaluation.item import Item, Mode, ModeSettings, Outcome, check_modes
from focusdoc.evaluation.reading_modes import AskMode, LastMemory, PlaceMode, RetrievalMode, memory_outcome
from focusdoc.evaluation.retrieval import FINDERS
from focusdoc.evaluation.streaming import streaming_decoder
from focusdoc.readers.reader import Reader

#: Positions reserved for the chat template.
TEMPLATE_ROOM = 64


class _TextMode:
    """What the modes of this module share: they feed an item's text, as a chat message or bare."""

    def __init__(self, engine: FocusEngine, settings: ModeSettings) -> None:
        self.engine = engine
        self._settings = settings

    def describe(self) -> dict[str, Any]:
        """See `Mode`."""
        return {**engine_facts(self.engine), "max_tokens": self._settings.max_tokens, "chat": self._settings.chat}

    def _ids(self, item: Item, text: str) -> list[int]:
        chat = item.chat if self._settings.chat is None else self._settings.chat
        return prompt_ids(self.engine, text, chat=chat)

    def _split(self, item: Item) -> tuple[str, str, int]:
        return split_prompt(tokenizer_of(self.engine), item.document, item.after, self._settings.max_tokens)

    def _generated(self, item: Item, ids: list[int], dropped: int) -> Outcome:
        output = self.engine.generate(ids, max_new_tokens=item.max_new_tokens, stop=item.stop)
        usage = output.usage
        tail = min(usage.prompt_tokens, self.engine.config.prompt_window) + usage.completion_tokens
        held = usage.document_tokens + usage.num_chunks * tail + usage.prompt_tokens + usage.completion_tokens
        return self._outcome(item, output, dropped, held)

    def _outcome(self, item: Item, output: Generation, dropped: int, held: int) -> Outcome:
        """The outcome of `output`, with `dropped` tokens of the prompt and `held` tokens in the KV cache at its end."""
        return Outcome(
            prediction=text_of(self.engine, output.token_ids, item.stop),
            document_tokens=output.usage.document_tokens,
            prompt_tokens=output.usage.prompt_tokens,
            new_tokens=output.usage.completion_tokens,
            dropped_tokens=dropped,
            num_chunks=output.usage.num_chunks,
            kv_bytes=held * self.engine.base.kv_bytes_per_token,
            first_token_seconds=output.timings.first_token,
            decode_seconds=output.timings.decode,
        )


class MemoryMode(_TextMode):
    """Ours: the context is read into a memory, which consecutive items share, and the rest is the local context.

    With `wide`, the prompt's last tokens fill the local context, except for the room that passages need; a prompt that
    fits is answered by the base model without a memory.
    """

    def __init__(self, engine: FocusEngine, settings: ModeSettings, *, wide: bool = False) -> None:
        super().__init__(engine, settings)
        self._plain = PlainMode(engine, settings, limit=None) if wide else None
        self._memory = LastMemory(engine)

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        engine = self.engine
        document, question, dropped = self._split(item)
        room = engine.config.local_window - TEMPLATE_ROOM
        if self._plain is not None:
            room -= engine.config.quote_tokens or 0
            document, question = "", document + question
        document, question = keep_local(tokenizer_of(engine), document, question, max(1, room))
        if self._plain is not None and not document:
            return self._plain.answer(item)
        memory, seconds = self._memory.of(document)
        # max_sources=0: sources are not scored here, and would take extra passes.
        *_, last = engine.stream_prompt(
            memory,
            self._ids(item, question),
            quoted=lambda text: self._ids(item, with_passages(question, text)),
            max_sources=0,
            max_new_tokens=item.max_new_tokens,
            stop=item.stop,
        )
        if last.answer is None:  # pragma: no cover - the last piece always carries the answer
            raise RuntimeError("the stream ended without an answer")
        return replace(memory_outcome(engine, memory, last.answer, seconds), dropped_tokens=dropped)


class SplitMode(_TextMode):
    """The paper's split: the last `local_window` tokens of the prompt are the local context (section 3.1).

    With `bare`, it is bare text even for chat models, as the authors have it, unless the settings override it.
    """

    def __init__(self, engine: FocusEngine, settings: ModeSettings, *, bare: bool) -> None:
        super().__init__(engine, settings)
        self._bare = bare

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        engine = self.engine
        document, question, dropped = self._split(item)
        ids = self._ids(replace(item, chat=False) if self._bare else item, document + question)
        if engine.config.uses_bos and ids[0] != (bos := bos_token(engine.base, engine.config)):
            ids = [bos, *ids]
        return self._generated(item, ids, dropped)


class PlainMode(_TextMode):
    """The base model's full attention over a prompt truncated to `limit` tokens, in the middle or to its tail."""

    def __init__(self, engine: FocusEngine, settings: ModeSettings, *, limit: int | None, tail: bool = False) -> None:
        base = engine.base
        config = FocusConfig(condensing="look", local_window=base.context_length, chunk_size=1)
        super().__init__(FocusEngine(base, None, config), settings)
        self._limit, self._tail = limit, tail

    def describe(self) -> dict[str, Any]:
        """See `Mode`."""
        cut = "tail" if self._tail else "middle"
        return {**model_facts(self.engine), "limit": self._limit, "cut": cut, "chat": self._settings.chat}

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        tokenizer = tokenizer_of(self.engine)
        room = self.engine.base.context_length - item.max_new_tokens - TEMPLATE_ROOM
        limit = room if self._limit is None else min(room, self._limit)
        if self._tail:
            text, dropped = cut_tail(tokenizer, item.prompt, limit)
        else:
            first, last, dropped = cut_middle(tokenizer, item.prompt, limit)
            text = first + last
        return self._generated(item, self._ids(item, text), dropped)


class StreamingMode(_TextMode):
    """StreamingLLM on the base model: attention sinks and a sliding window."""

    def __init__(self, engine: FocusEngine, settings: ModeSettings) -> None:
        super().__init__(engine, settings)
        self._window = streaming_decoder(engine, settings).window  # raises now if the settings do not fit

    def describe(self) -> dict[str, Any]:
        """See `Mode`."""
        settings = {"sinks": self._settings.sinks, "window": self._window, "chat": self._settings.chat}
        return {**model_facts(self.engine), **settings}

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        base, ids = self.engine.base, self._ids(item, item.prompt)
        decoder = streaming_decoder(self.engine, self._settings)
        settings = GenerationConfig(max_new_tokens=item.max_new_tokens, stop=item.stop)
        start = time.perf_counter()
        loop = TokenLoop(decoder, decoder.start(ids), settings, history=ids, eos_token_ids=base.eos_token_ids)
        usage = Usage(0, 0, len(ids), 0)
        output = complete(loop, settings, tokenizer_of(self.engine), started_at=start, usage=usage, keep_logits=False)
        return self._outcome(item, output, 0, decoder.num_cached)


def make_mode(name: str, engine: FocusEngine, settings: ModeSettings) -> Mode:
    """The mode called `name`, over the base model and adapter of `engine`.

    Raises:
        ConfigError: there is no such mode, a setting does not fit the model, or the mode needs a reader.
        AdapterError: the mode needs an adapter, and there is none.
    """
    check_modes([name])

    def reader() -> Reader:
        if engine.reader is None:
            raise ConfigError(f"The mode {name} needs a reader; name one with --reader; none measures only retrieval.")
        return engine.reader

    makers: dict[str, Callable[[], Mode]] = {
        "focus": lambda: MemoryMode(focus_engine(engine, settings), settings),
        "quoted": lambda: MemoryMode(focus_engine(engine, settings), settings, wide=True),
        "look": lambda: MemoryMode(look_engine(engine, settings), settings),
        "full": lambda: PlainMode(engine, settings, limit=None),
        "truncated": lambda: PlainMode(engine, settings, limit=settings.local_window),
        "tail": lambda: PlainMode(engine, settings, limit=settings.local_window, tail=True),
        "streaming": lambda: StreamingMode(engine, settings),
        "split": lambda: SplitMode(focus_engine(engine, settings), settings, bare=False),
        "paper": lambda: SplitMode(paper_engine(engine, settings), settings, bare=True),
        "ask": lambda: AskMode(asking_engine(engine, settings)),
        "read": lambda: AskMode(asking_engine(engine, settings, reader=reader())),
        "place": lambda: PlaceMode(reader()),
        **dict.fromkeys(FINDERS, lambda: RetrievalMode(FINDERS[name](), reader(), settings)),
    }
    return makers[name]()


def cut_middle(tokenizer: Any, text: str, limit: int) -> tuple[str, str, int]:
    """The first and last half of `limit` tokens of a text, and how many were dropped between them.

    A text that fits is returned whole as the first half.
    """
    ids = encode_text(tokenizer, text)
    if len(ids) <= limit:
        return text, "", 0
    half = limit // 2
    first, last = ids[:half], ids[len(ids) - half :]
    return _decoded(tokenizer, first), _decoded(tokenizer, last), len(ids) - 2 * half


def cut_tail(tokenizer: Any, text: str, limit: int) -> tuple[str, int]:
    """The last `limit` tokens of a text, and how many were dropped."""
    ids = encode_text(tokenizer, text)
    if len(ids) <= limit:
        return text, 0
    return _decoded(tokenizer, ids[-limit:]), len(ids) - limit


def split_prompt(tokenizer: Any, document: str, question: str, limit: int | None) -> tuple[str, str, int]:
    """Truncate document plus question to `limit` tokens, in the middle; returns both, and how many were dropped.

    The question stays whole unless it takes more than half of the tokens.
    """
    if limit is None:
        return document, question, 0
    first, last, dropped = cut_middle(tokenizer, document + question, limit)
    if dropped == 0:
        return document, question, 0
    if last.endswith(question):
        return first + last.removesuffix(question), question, dropped
    return first, last, dropped


def keep_local(tokenizer: Any, document: str, question: str, limit: int) -> tuple[str, str]:
    """Move the beginning of a question longer than `limit` tokens to the document.

    The last `limit` tokens of a prompt are its local context, as in the paper (section 3.1).
    """
    local, dropped = cut_tail(tokenizer, question, limit)
    if dropped == 0 or not question.endswith(local):
        return document, question
    return document + question.removesuffix(local), local


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
