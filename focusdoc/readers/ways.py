"""Choosing how to answer: by the base model, or by a reader from passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import CHUNK_SIZE, FocusConfig, GenerationConfig
from focusdoc.decoding.answer import Usage
from focusdoc.decoding.answering import OwnWay, Way
from focusdoc.decoding.candidates import Candidates, Projections, Refreshed
from focusdoc.decoding.generation import StepDecoder
from focusdoc.decoding.look import Look
from focusdoc.decoding.plain import Plain, PlainDecoder
from focusdoc.decoding.prompt import Request, local_and_prompt
from focusdoc.decoding.quoting import Quoted
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.base import BaseModel
from focusdoc.readers.alone import Alone
from focusdoc.readers.finding import Finder
from focusdoc.readers.local import LocalReader
from focusdoc.readers.overview import Overview, asks_for_overview
from focusdoc.readers.reader import Reader, grammar_error
from focusdoc.readers.reading import Read

#: Tokens reserved for the answer when the chunk size is derived from the model's context length.
ANSWER_ROOM = 512


def resolve_config(config: FocusConfig | None, base: BaseModel, adapter: Adapter | None) -> FocusConfig:
    """The configuration with all settings resolved, from the adapter or the model.

    Raises:
        ConfigError: it does not fit the model.
    """
    trained = adapter.config if adapter is not None else None
    if config is None:
        config = FocusConfig.paper() if trained and trained.local_attention == "refresh" else FocusConfig()
    room = base.context_length - config.prompt_window - ANSWER_ROOM
    by_model = max(1, min(CHUNK_SIZE, room if room > 0 else base.context_length // 2))
    answers = adapter is not None and not adapter.only_finds
    candidates = answers or config.allow_untrained or config.local_attention == "refresh"
    config = config.with_defaults(
        chunk_size=trained.chunk_size or by_model if trained else by_model,
        candidate_positions=trained.candidate_positions if trained else "sequential",
        condensing="candidates" if candidates else "look",
        quotes=answers,
    )
    if adapter is not None and adapter.only_finds and not config.looks:
        raise ConfigError(
            "The candidates of this adapter only find passages; leave out allow_untrained and local_attention, and set "
            "condensing to None or 'look', which is how the base model answers without a reader."
        )
    if (config.chunk_size or 0) >= base.context_length:
        raise ConfigError(
            f"chunk_size is {config.chunk_size}, but {base.name} sees {base.context_length} tokens at once and a "
            "chunk must leave room for the question; choose a smaller chunk_size."
        )
    for layer, head in config.heads or ():
        if layer >= base.num_layers or head >= base.num_heads:
            raise ConfigError(
                f"heads names head {head} of layer {layer}, but {base.name} has {base.num_heads} heads in each of "
                f"{base.num_layers} layers; both are counted from 0."
            )
    return config


def own_way(
    base: BaseModel,
    config: FocusConfig,
    kernel: AttentionKernel,
    projections: Projections,
    heads: Callable[[], tuple[tuple[int, int], ...]],
) -> OwnWay[Any]:
    """How the base model answers without a reader.

    Args:
        config: with all settings resolved.
        heads: returns the base model's retrieval heads; called for a look only.
    """
    if config.looks:
        return Look(base, config, kernel, heads)
    refreshed = config.local_attention == "refresh"
    kind = Refreshed if refreshed else Quoted if config.quote_tokens else Candidates
    return kind(base, config, kernel, projections)


def choose_way(request: Request, own: OwnWay[Any], reader: Reader | None, finder: Callable[[], Finder]) -> Way:
    """How a request is answered.

    Args:
        own: how the base model answers without a reader.
        finder: returns the finder; called if a reader answers from documents.

    Raises:
        ConfigError: the base model would write this answer, but the grammar is for the reader's tokens.
    """
    if reader is not None and request.messages:
        if not request.has_documents:
            return Alone(reader)
        by_words = request.overview is None and asks_for_overview(request.messages[-1][1])
        return (Overview if request.overview or by_words else Read)(reader, finder())
    if reader is not None and request.settings.grammar is not None:
        raise ConfigError(
            f"{own.base.name} continues this prompt itself, but the grammar is for the tokens of the reader "
            f"{reader.name}; leave one of them out."
        )
    return own if request.has_documents else Plain(own.base)


def start_generation(
    own: OwnWay[Any], ids: list[int], settings: GenerationConfig, read: Callable[[Sequence[int]], Sequence[MemoryBlock]]
) -> tuple[StepDecoder, Tensor, Usage]:
    """Start to continue bare token ids, with chunks or, if they are few, on the plain path (paper, section 3.1).

    Args:
        read: encodes the tokens before the local context.

    Returns:
        The decoder, float32 logits [vocab] of the first new token, and the usage so far.

    Raises:
        PromptTooLongError, AdapterError, MemoryShortageError: see `OwnWay.check`.
    """
    base, config = own.base, own.config
    split = len(ids) - config.local_window
    if len(ids) < config.threshold or split <= 0:
        # All of it is the local context; the BOS rule applies without candidates too.
        local_ids, _ = local_and_prompt(base, config, ids)
        own.check_room([], len(local_ids), settings)
        plain = PlainDecoder(base)
        return plain, plain.start(local_ids), Usage(0, 0, len(local_ids), 0)
    own.check_ready()
    local_ids, prompt_ids = local_and_prompt(base, config, ids[split:])
    own.check_room([split], len(local_ids), settings)
    decoder = own.decoder(read(ids[:split]), settings.max_new_tokens)
    logits = own.start_from_tokens(decoder, ids[:split], local_ids, prompt_ids, settings.max_new_tokens)
    return decoder, logits, Usage(split, decoder.num_chunks, len(local_ids), 0, split)


def writer_of(base: BaseModel, reader: Reader | None) -> BaseModel:
    """The model whose tokenizer the answer's tokens belong to, and which grammars must be made for.

    Raises:
        ConfigError: the reader is not in this process.
    """
    if reader is None:
        return base
    if not isinstance(reader, LocalReader):
        raise grammar_error(reader.name)
    return reader.base
