"""The evaluation modes that feed a prompt: ours, and the baselines on the same base model.

All modes answer the same items with text, so they share the scorers. Those of retrieval are in
`focusdoc.evaluation.retrieval`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.decoding.answer import Answer, Generation, Usage
from focusdoc.decoding.generation import TokenLoop, complete
from focusdoc.decoding.prompt import bos_token, encode_text, tokenizer_of, with_passages
from focusdoc.documents import Document
from focusdoc.engine import FocusEngine
from focusdoc.errors import ConfigError
from focusdoc.evaluation import engines
from focusdoc.evaluation.engines import LastDocument, engine_facts, model_facts, prompt_ids, text_of
from focusdoc.evaluation.item import Item, Mode, ModeSettings, Outcome, check_modes
from focusdoc.evaluation.retrieval import FINDERS, PlaceMode, RetrievalMode
from focusdoc.evaluation.streaming import streaming_decoder
from focusdoc.readers.reader import Reader

#: Positions reserved for the chat template.
TEMPLATE_ROOM = 64
#: Sources to return, more than are ever quoted.
MAX_SOURCES = 8


class _EngineMode(Mode):
    """What these modes share: an engine, and the memory of the last document."""

    def __init__(self, engine: FocusEngine, settings: ModeSettings, facts: dict[str, Any]) -> None:
        super().__init__(facts)
        self.engine, self._settings = engine, settings
        # No progress bar for reading, since the run has one.
        self._memories = LastDocument(
            lambda text: engine.read(Document.from_text(text), progress=lambda done, total: None)
        )

    def _ids(self, item: Item, text: str) -> list[int]:
        """The text as a chat message or bare."""
        chat = item.chat if self._settings.chat is None else self._settings.chat
        return prompt_ids(self.engine, text, chat=chat)

    def _generated(self, item: Item, ids: list[int], dropped: int) -> Outcome:
        output = self.engine.generate(ids, max_new_tokens=item.max_new_tokens, stop=item.stop)
        read = output.usage.document_tokens * self.engine.base.kv_bytes_per_token
        text = text_of(self.engine, output.token_ids, item.stop)
        return self._outcome(text, output, read, dropped_tokens=dropped)

    def _outcome(self, text: str, result: Generation | Answer, memory_bytes: int, **more: Any) -> Outcome:
        usage = result.usage
        tail = self.engine.num_tail_tokens(usage.prompt_tokens, usage.completion_tokens)
        beside = usage.num_chunks * tail + usage.prompt_tokens + usage.quoted_tokens + usage.completion_tokens
        kv_bytes = memory_bytes + beside * self.engine.base.kv_bytes_per_token
        return _outcome(text, result, kv_bytes=kv_bytes, **more)


class MemoryMode(_EngineMode):
    """Ours: the context is read into a memory, which consecutive items share, and the rest is the local context.

    With `wide`, the prompt's last tokens fill the local context, except for the room that passages need; a prompt that
    fits is answered by the base model without a memory.
    """

    def __init__(self, engine: FocusEngine, settings: ModeSettings, *, wide: bool = False) -> None:
        super().__init__(engine, settings, _own_facts(engine, settings))
        self._plain = PlainMode(engine, settings, limit=None) if wide else None

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        engine, tokenizer = self.engine, tokenizer_of(self.engine.base)
        document, question, dropped = split_prompt(tokenizer, item.document, item.after, self._settings.max_tokens)
        room = engine.config.local_window - TEMPLATE_ROOM
        if self._plain is not None:
            room -= engine.config.quote_tokens or 0
            document, question = "", document + question
        document, question = keep_local(tokenizer, document, question, max(1, room))
        if self._plain is not None and not document:
            return self._plain.answer(item)
        memory, seconds = self._memories.of(document)
        # max_sources=0: sources are not scored here, and would take extra passes.
        *_, last = engine.stream_prompt(
            memory,
            self._ids(item, question),
            quoted=lambda text: self._ids(item, with_passages(question, text)),
            max_sources=0,
            max_new_tokens=item.max_new_tokens,
            stop=item.stop,
        )
        assert last.answer is not None  # the last piece always carries it
        answer = last.answer
        return self._outcome(answer.text, answer, memory.num_bytes, read_seconds=seconds, dropped_tokens=dropped)


class AskMode(_EngineMode):
    """`FocusEngine.ask` with its sources, and with the engine's reader if it has one.

    The text after an item's document is the question.
    """

    def __init__(self, engine: FocusEngine, settings: ModeSettings) -> None:
        super().__init__(engine, settings, engine_facts(engine))

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        memory, seconds = self._memories.of(item.document)
        question, limit = item.after.strip(), item.max_new_tokens
        answer = self.engine.ask(memory, question, max_sources=MAX_SOURCES, max_new_tokens=limit, stop=item.stop)
        more = {"read_seconds": seconds, "passage_tokens": answer.usage.quoted_tokens}
        passages = [(source.start, source.end) for source in answer.sources]
        return self._outcome(answer.text, answer, memory.num_bytes, passages=passages, **more)


class SplitMode(_EngineMode):
    """The paper's split: the last `local_window` tokens of the prompt are the local context (section 3.1).

    With `bare`, it is bare text even for chat models, as the authors have it, unless the settings override it.
    """

    def __init__(self, engine: FocusEngine, settings: ModeSettings, *, bare: bool) -> None:
        super().__init__(engine, settings, _own_facts(engine, settings))
        self._bare = bare

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        engine = self.engine
        *parts, dropped = cut_middle(tokenizer_of(engine.base), item.prompt, self._settings.max_tokens)
        ids = self._ids(replace(item, chat=False) if self._bare else item, "".join(parts))
        if engine.config.uses_bos and ids[0] != (bos := bos_token(engine.base, engine.config)):
            ids = [bos, *ids]
        return self._generated(item, ids, dropped)


class PlainMode(_EngineMode):
    """The base model's full attention over a prompt truncated to `limit` tokens, in the middle or to its tail."""

    def __init__(self, engine: FocusEngine, settings: ModeSettings, *, limit: int | None, tail: bool = False) -> None:
        base = engine.base
        config = FocusConfig(condensing="look", local_window=base.context_length, chunk_size=1)
        cut = "tail" if tail else "middle"
        facts = {**model_facts(engine), "limit": limit, "cut": cut, "chat": settings.chat}
        super().__init__(FocusEngine(base, None, config), settings, facts)
        self._limit, self._cut = limit, cut_tail if tail else cut_middle

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        base = self.engine.base
        room = base.context_length - item.max_new_tokens - TEMPLATE_ROOM
        limit = room if self._limit is None else min(room, self._limit)
        *parts, dropped = self._cut(tokenizer_of(base), item.prompt, limit)
        return self._generated(item, self._ids(item, "".join(parts)), dropped)


class StreamingMode(_EngineMode):
    """StreamingLLM on the base model: attention sinks and a sliding window."""

    def __init__(self, engine: FocusEngine, settings: ModeSettings) -> None:
        window = streaming_decoder(engine, settings).window  # raises now if the settings do not fit
        facts = {**model_facts(engine), "sinks": settings.sinks, "window": window, "chat": settings.chat}
        super().__init__(engine, settings, facts)

    def answer(self, item: Item) -> Outcome:
        """See `Mode`."""
        base, ids = self.engine.base, self._ids(item, item.prompt)
        decoder = streaming_decoder(self.engine, self._settings)
        settings = GenerationConfig(max_new_tokens=item.max_new_tokens, stop=item.stop)
        start = time.perf_counter()
        loop = TokenLoop(decoder, decoder.start(ids), settings, history=ids, eos_token_ids=base.eos_token_ids)
        usage = Usage(0, 0, len(ids), 0)
        output = complete(loop, settings, tokenizer_of(base), started_at=start, usage=usage, keep_logits=False)
        text = text_of(self.engine, output.token_ids, item.stop)
        return _outcome(text, output, kv_bytes=decoder.num_cached * base.kv_bytes_per_token)


def _own_facts(engine: FocusEngine, settings: ModeSettings) -> dict[str, Any]:
    return {**engine_facts(engine), "max_tokens": settings.max_tokens, "chat": settings.chat}


def _outcome(prediction: str, result: Generation | Answer, **more: Any) -> Outcome:
    """The outcome of an engine's result; `more` are the fields that it does not have."""
    usage, timings = result.usage, result.timings
    return Outcome(
        prediction=prediction,
        document_tokens=usage.document_tokens,
        prompt_tokens=usage.reader_tokens or usage.prompt_tokens,
        new_tokens=usage.completion_tokens,
        num_chunks=usage.num_chunks,
        first_token_seconds=timings.first_token,
        decode_seconds=timings.decode,
        **more,
    )


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

    window = settings.local_window
    makers: dict[str, Callable[[], Mode]] = {
        "focus": lambda: MemoryMode(engines.focus_engine(engine, settings), settings),
        "quoted": lambda: MemoryMode(engines.focus_engine(engine, settings), settings, wide=True),
        "look": lambda: MemoryMode(engines.look_engine(engine, settings), settings),
        "full": lambda: PlainMode(engine, settings, limit=None),
        "truncated": lambda: PlainMode(engine, settings, limit=window),
        "tail": lambda: PlainMode(engine, settings, limit=window, tail=True),
        "streaming": lambda: StreamingMode(engine, settings),
        "split": lambda: SplitMode(engines.focus_engine(engine, settings), settings, bare=False),
        "paper": lambda: SplitMode(engines.paper_engine(engine, settings), settings, bare=True),
        "ask": lambda: AskMode(engines.asking_engine(engine, settings), settings),
        "read": lambda: AskMode(engines.asking_engine(engine, settings, reader=reader()), settings),
        "place": lambda: PlaceMode(reader()),
        **dict.fromkeys(FINDERS, lambda: RetrievalMode(FINDERS[name](), reader(), settings)),
    }
    return makers[name]()


def cut_middle(tokenizer: Any, text: str, limit: int | None) -> tuple[str, str, int]:
    """The first and last half of `limit` tokens of a text, and how many were dropped between them.

    A text that fits is returned whole as the first half.
    """
    if limit is None or len(ids := encode_text(tokenizer, text)) <= limit:
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
