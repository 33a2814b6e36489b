"""Settings of the engine and of one generation, as checked, frozen dataclasses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from focusdoc.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

LocalAttention = Literal["incremental", "refresh"]
Condensing = Literal["candidates", "look"]
#: "all", "auto", or a number of chunks.
ActiveChunks = Literal["all", "auto"] | int
CandidatePositions = Literal["sequential", "shared"]
#: Dtype of a chunk memory: as computed by the model, or 8-bit integers.
BlockDtype = Literal["model", "int8"]
MemoryDtype = Literal["auto"] | BlockDtype

#: Below this many tokens the authors' code uses no chunk at all (paper_mode section 1.1).
PAPER_DIRECT_THRESHOLD = 4096
#: Logits divided by less than this may overflow float32.
_COLDEST = 1e-4
#: Default chunk size in tokens, used to calibrate heads; an adapter or the model's context may require another.
CHUNK_SIZE = 1024
#: Default for `FocusConfig.quote_tokens` where quoting is on.
QUOTE_TOKENS = 384
#: The authors' cap on the length of the dynamic prompt, in tokens.
PAPER_PROMPT_WINDOW = 512


@dataclass(frozen=True, kw_only=True)
class FocusConfig:
    """How documents are cut into chunks, and how their candidates enter the local context.

    Attributes:
        local_attention: ``"incremental"`` keeps the local KV and gives candidates to the newest token only
            (the default, what our adapters are trained for); ``"refresh"`` re-encodes the local context at every
            step with the candidates in front of all of it, as the paper's authors do.
        condensing: ``"candidates"`` makes one candidate per chunk and needs an adapter; ``"look"`` needs no training:
            the model's own retrieval heads find passages, which it reads with ordinary attention; ``None`` for
            candidates if there is an adapter, else a look.
        heads: (layer, head) pairs of the model for a look; ``None`` for those found by `focusdoc calibrate`.
        local_window: tokens the decoder sees in full. ``generate`` cuts longer inputs: their last
            ``local_window`` tokens stay local, the rest becomes chunks (paper, section 3.1).
        chunk_size: tokens per chunk; ``None`` for the adapter's, else 1,024 (with which heads are calibrated), or
            less if the model's context length leaves less beside the dynamic prompt and the answer.
        prompt_window: maximum length of the dynamic prompt in tokens: the tail of the local context that runs behind
            every chunk.
        direct_threshold: inputs of ``generate`` shorter than this take the plain path, with no chunks;
            ``None`` means ``local_window``.
        prompt_bos: put the BOS token in front of the dynamic prompt and of the local context unless it is
            already there (the authors' rule); ``None`` for yes in ``"refresh"`` mode, else no.
        bos_token_id: the BOS token for ``prompt_bos``; ``None`` takes the model's.
        candidate_positions: ``"sequential"`` puts the candidates of k chunks at positions 0..k-1,
            ``"shared"`` all at position 0; ``None`` takes the adapter's, else sequential.
        active_chunks: which chunks take part after the first token: ``"all"``; a number, for those with most of the
            first token's attention; or ``"auto"``, for those with nearly all of it. Fewer is faster, but approximate.
        quote_tokens: for questions to a memory, the passages that the candidates attend to first are quoted verbatim
            in the local context, in at most this many tokens; 0 for none, ``None`` for 384 in incremental mode with a
            trained adapter or a look, else 0.
        chunk_batch: chunks decoded together; ``None`` for as many as the rows of a pass allow. Changes memory use and
            speed, never results.
        read_batch: chunks encoded together while reading.
        memory_dtype: dtype of a document's keys and values: ``"model"`` for the model's, ``"int8"`` for half the bytes,
            with a scale per channel of keys and per token of values; ``"auto"`` for the model's where they fit.
        allow_untrained: run with candidates that are copies of the base projections when there is no
            adapter. For experiments only: such candidates retrieve nothing.
    """

    local_attention: LocalAttention = "incremental"
    condensing: Condensing | None = None
    heads: tuple[tuple[int, int], ...] | None = None
    local_window: int = 2048
    chunk_size: int | None = None
    prompt_window: int = 512
    direct_threshold: int | None = None
    prompt_bos: bool | None = None
    bos_token_id: int | None = None
    candidate_positions: CandidatePositions | None = None
    active_chunks: ActiveChunks = "all"
    quote_tokens: int | None = None
    chunk_batch: int | None = None
    read_batch: int = 2
    memory_dtype: MemoryDtype = "auto"
    allow_untrained: bool = False

    def __post_init__(self) -> None:
        if self.local_attention not in ("incremental", "refresh"):
            raise ConfigError(f"local_attention is {self.local_attention!r}; choose 'incremental' or 'refresh'.")
        if self.condensing not in (None, "candidates", "look"):
            raise ConfigError(f"condensing is {self.condensing!r}; choose 'candidates' or 'look'.")
        if self.condensing == "look" and self.local_attention == "refresh":
            raise ConfigError("condensing is 'look', but only candidates can be refreshed; leave one out.")
        if self.heads is not None and not (self.heads and all(map(_is_head, self.heads))):
            raise ConfigError(f"heads is {self.heads!r}; give (layer, head) pairs, such as ((16, 2), (19, 1)).")
        counted = type(self.active_chunks) is int and self.active_chunks >= 1
        if self.active_chunks not in ("all", "auto") and not counted:
            raise ConfigError(f"active_chunks is {self.active_chunks!r}; use 'all', 'auto' or a number of at least 1.")
        if self.active_chunks != "all" and (self.looks or self.local_attention == "refresh"):
            raise ConfigError(
                f"active_chunks is {self.active_chunks!r}, but chunks can only sit out in incremental mode with "
                "candidates; use 'all'."
            )
        if self.candidate_positions not in (None, "sequential", "shared"):
            raise ConfigError(f"candidate_positions is {self.candidate_positions!r}; choose 'sequential' or 'shared'.")
        if self.memory_dtype not in ("auto", "model", "int8"):
            raise ConfigError(f"memory_dtype is {self.memory_dtype!r}; choose 'auto', 'model' or 'int8'.")
        at_least("local_window", self.local_window, 1)
        at_least("prompt_window", self.prompt_window, 1)
        at_least("read_batch", self.read_batch, 1)
        for name in ("prompt_bos", "allow_untrained"):
            if getattr(self, name) not in (None, True, False):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be True or False.")
        for name in ("chunk_size", "chunk_batch"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        if self.quote_tokens and self.local_attention == "refresh":
            raise ConfigError(
                f"quote_tokens is {self.quote_tokens}, but passages are quoted in incremental mode alone; use 0."
            )
        for name in ("direct_threshold", "bos_token_id", "quote_tokens"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 0)

    @classmethod
    def paper(
        cls,
        *,
        local_window: int = 2048,
        chunk_size: int = 2048,
        direct_threshold: int = PAPER_DIRECT_THRESHOLD,
        **overrides: Any,
    ) -> FocusConfig:
        """The settings of the paper's published code: refreshed local context, BOS rule, 4,096-token threshold."""
        settings: dict[str, Any] = {
            "local_attention": "refresh",
            "prompt_window": PAPER_PROMPT_WINDOW,
            "prompt_bos": True,
            "candidate_positions": "sequential",
        }
        settings.update(overrides)
        return cls(local_window=local_window, chunk_size=chunk_size, direct_threshold=direct_threshold, **settings)

    @property
    def threshold(self) -> int:
        """Inputs of ``generate`` shorter than this many tokens take the plain path."""
        return self.local_window if self.direct_threshold is None else self.direct_threshold

    @property
    def uses_bos(self) -> bool:
        """Whether the authors' BOS rule applies."""
        return self.local_attention == "refresh" if self.prompt_bos is None else self.prompt_bos

    @property
    def looks(self) -> bool:
        """Whether the model's retrieval heads are used, without candidates."""
        return self.condensing == "look"

    def with_defaults(
        self, *, chunk_size: int, candidate_positions: CandidatePositions, condensing: Condensing, quotes: bool
    ) -> FocusConfig:
        """This configuration with the unset settings filled in (from the adapter or the model).

        Args:
            quotes: whether there are trained candidates, which can locate passages to quote.
        """
        condensing = self.condensing or condensing
        quotes = condensing == "look" or (quotes and self.local_attention == "incremental")
        return replace(
            self,
            chunk_size=self.chunk_size or chunk_size,
            candidate_positions=self.candidate_positions or candidate_positions,
            condensing=condensing,
            quote_tokens=QUOTE_TOKENS if self.quote_tokens is None and quotes else self.quote_tokens or 0,
        )


class GrammarState(Protocol):
    """The state of one answer in its grammar."""

    @property
    def complete(self) -> bool:
        """Whether the answer is complete and no token may follow."""
        ...

    def mask(self, scores: Tensor) -> Tensor:
        """`scores` [1, vocab] with minus infinity for every token that may not follow."""
        ...

    def accept(self, token: int) -> None:
        """Advance past the chosen `token`."""
        ...


class Grammar(Protocol):
    """A grammar of answers, for constrained decoding; stateless, so answers may share it."""

    def start(self) -> GrammarState:
        """The state before the first token of one answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How the next tokens are chosen, and when to stop.

    Attributes:
        max_new_tokens: at most this many new tokens, at least 1.
        temperature: 0 for greedy decoding, else the softmax temperature.
        top_p: keep the most probable tokens that sum to this probability, in (0, 1].
        top_k: keep this many most probable tokens; 0 keeps all.
        repetition_penalty: above 1 makes tokens of the input (for `ask`, of the question) and of the answer less
            likely to recur.
        stop: texts that end the answer; the answer does not contain them. Needs a tokenizer.
        seed: makes sampling repeatable; ``None`` draws from the global generator.
        ignore_eos: continue past the model's end-of-text token (for benchmarks).
        grammar: constrains the answer, such as `focusdoc.chat.json_grammar.JsonGrammar`; made for the tokens of
            `FocusEngine.writer`.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: str | tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        at_least("max_new_tokens", self.max_new_tokens, 1)
        at_least("top_k", self.top_k, 0)
        if self.grammar is not None and not hasattr(self.grammar, "start"):
            raise ConfigError(f"grammar is {self.grammar!r}; give a grammar such as JsonGrammar, or None.")
        if self.seed is not None:
            at_least("seed", self.seed, 0)
            if self.seed >= 2**63:
                raise ConfigError(f"seed is {self.seed}; it must be below 2**63.")
        for name in ("temperature", "top_p", "repetition_penalty"):
            _finite(name, getattr(self, name))
        if self.temperature != 0 and not self.temperature >= _COLDEST:
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 (greedy) or at least {_COLDEST}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if not self.repetition_penalty > 0:
            raise ConfigError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0 (1 for none).")
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stops, Iterable):
            raise ConfigError(f"stop is {stops!r}; give a text or a list of texts.")
        object.__setattr__(self, "stop", tuple(stops))
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise ConfigError(f"stop is {self.stop!r}; every stop string must be a text of at least one character.")


def _is_head(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(type(each) is int and each >= 0 for each in pair)


def _finite(name: str, value: Any) -> None:
    """Refuse `value` unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; it must be a finite number.")


def at_least(name: str, value: Any, smallest: int) -> None:
    """Refuse `value` unless it is an integer of at least `smallest`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {smallest}.")
    if value < smallest:
        raise ConfigError(f"{name} is {value}; it must be at least {smallest}.")
