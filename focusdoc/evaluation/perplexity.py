"""Perplexity of the last tokens of long texts: by length (the paper's Table 1) and by chunk size (Figure 5).

The last `targets` of a text's first `length` tokens are predicted from all tokens before them (teacher forcing). Ours
has everything before the local window in chunks, split as by `FocusEngine.generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.decoding.prompt import bos_token, local_and_prompt
from focusdoc.documents import Document
from focusdoc.engine import FocusEngine
from focusdoc.errors import ConfigError, EvaluationError
from focusdoc.evaluation.engines import engine_facts, focus_engine, model_facts, paper_engine, prompt_ids
from focusdoc.evaluation.item import ModeSettings, check_modes
from focusdoc.evaluation.streaming import streaming_decoder
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from focusdoc.training.dense import TrainingPrompt, dense_logits

#: The lengths of Table 1 that are powers of two.
LENGTHS = (4096, 16_384, 32_768, 131_072)
#: Most candidates of one teacher-forced pass, to limit its memory.
_MAX_CANDIDATES = 16_384

#: Called with token ids and `targets`; returns the logits [targets, vocab] of the last `targets` tokens.
Predict = Callable[[list[int], int], Tensor]


@dataclass(frozen=True)
class Job:
    """One text at one length and chunk size: an item of a run."""

    name: str
    token_ids: tuple[int, ...]
    targets: int
    chunk_size: int | None
    task: str = "perplexity"

    @property
    def id(self) -> str:
        """The text's name, the length and the chunk size."""
        return f"{self.name}@{len(self.token_ids)}" + ("" if self.chunk_size is None else f"/{self.chunk_size}")

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `focusdoc.evaluation.item.Item`."""
        return {"length": len(self.token_ids), "chunk_size": self.chunk_size, "text": self.name}


def make_jobs(
    engine: FocusEngine,
    texts: Iterable[Document],
    lengths: Sequence[int],
    *,
    chunk_sizes: Sequence[int | None] = (None,),
    targets: int,
    limit: int | None = None,
) -> list[Job]:
    """A job for every length and every text that is long enough, shortest length first.

    At most `limit` texts of each length; no more are loaded.

    Raises:
        EvaluationError: no text is long enough for one of the lengths, or a length is at most twice `targets`.
    """
    known: list[tuple[str, list[int]]] = []
    for text in texts:
        known.append((text.name, prompt_ids(engine, text.text, chat=False)))
        fits = [sum(len(ids) >= length for _, ids in known) for length in lengths]
        if limit is not None and min(fits) >= limit:
            break
    jobs: list[Job] = []
    for length in sorted(lengths):
        if length <= 2 * targets:
            raise EvaluationError(f"The length {length} is too short to predict {targets} tokens; give more.")
        fitting = [(name, ids) for name, ids in known if len(ids) >= length][:limit]
        if not fitting:
            longest = max((len(ids) for _, ids in known), default=0)
            raise EvaluationError(f"No text has {length:,} tokens; the longest has {longest:,}. Give longer ones.")
        jobs += [Job(name, tuple(ids[:length]), targets, size) for size in chunk_sizes for name, ids in fitting]
    return jobs


#: The engines of the modes with chunks.
_CHUNKED = {"focus": focus_engine, "paper": paper_engine}


class PerplexityMode:
    """Measures the perplexity of one mode; `facts` are the settings that affect the results, as JSON values.

    Raises:
        ConfigError: the mode is unknown, or not available for perplexity. AdapterError: it needs an adapter.
    """

    def __init__(self, name: str, engine: FocusEngine, settings: ModeSettings) -> None:
        self._name, self._engine, self._settings = name, engine, settings
        self._size = settings.chunk_size
        window, half = settings.local_window, settings.local_window // 2
        whole: dict[str, Predict] = {
            "full": partial(full_logits, engine.base),
            "truncated": lambda ids, targets: full_logits(
                engine.base, ids if len(ids) <= window else ids[:half] + ids[-half:], targets
            ),
            "tail": lambda ids, targets: full_logits(engine.base, ids[-window:], targets),
            "streaming": lambda ids, targets: engine.base.logits(
                streaming_decoder(engine, settings).run(ids[:-1], keep=targets)
            ),
        }
        check_modes([name])
        if name not in (*_CHUNKED, *whole):
            raise ConfigError(f"Perplexity has no mode {name!r}; choose from {', '.join((*_CHUNKED, *whole))}.")
        self._chunked = None if name in whole else self._chunked_engine(self._size)
        self._predict = whole[name] if self._chunked is None else condensed_predictor(self._chunked)
        # Every job has its own chunk size.
        own = {} if self._chunked is None else {**engine_facts(self._chunked), "chunk_size": None}
        self.facts = {**model_facts(engine), **own, "local_window": window}

    def _chunked_engine(self, size: int | None) -> FocusEngine:
        return _CHUNKED[self._name](self._engine, replace(self._settings, chunk_size=size))

    def chunk_sizes(self, sizes: Sequence[int]) -> list[int | None]:
        """The chunk sizes to run in this mode; [None] for a mode without chunks."""
        return [None] if self._chunked is None else list(sizes) or [self._chunked.chunk_size]

    def lengths(self, lengths: Sequence[int]) -> list[int]:
        """The lengths that fit this mode; full attention is limited by the model's context."""
        limit = self._engine.base.context_length
        return [length for length in lengths if self._name != "full" or length <= limit]

    def work(self, job: Job) -> dict[str, Any]:
        """The fields of a job's row: mean cross entropy in nats, and the number of target tokens."""
        if self._chunked is not None and self._size != job.chunk_size:
            self._size, self._predict = job.chunk_size, condensed_predictor(self._chunked_engine(job.chunk_size))
        ids = list(job.token_ids)
        with torch.no_grad():
            logits = self._predict(ids, job.targets)
        gold = torch.tensor(ids[-job.targets :], device=logits.device)
        return {"nll": float(functional.cross_entropy(logits.float(), gold)), "targets": job.targets}


def condensed_predictor(engine: FocusEngine) -> Predict:
    """Ours: all targets in few passes, equal to decoding step by step.

    The last `local_window` tokens are the local context, targets included; shorter texts go to the base model alone.
    """
    if engine.config.local_attention == "refresh":
        return _stepped(engine)
    base, weights = engine.base, engine.require_adapter()

    def predict(ids: list[int], targets: int) -> Tensor:
        split = len(ids) - engine.config.local_window
        if split <= 0:
            return full_logits(base, ids, targets)
        blocks = read_chunks(base, ids[:split], engine.chunk_size, engine.kernel, batch=engine.config.read_batch)
        piece = max(1, min(targets, _MAX_CANDIDATES // sum(block.num_chunks for block in blocks)))
        parts = []
        for start in range(0, targets, piece):
            size = min(piece, targets - start)
            local = tuple(ids[split : len(ids) - targets + start + size])
            prompt = TrainingPrompt(local, size, "perplexity")
            parts += dense_logits(base, weights, blocks, [prompt], engine.config, engine.kernel)
        return torch.cat(parts)

    return predict


def _stepped(engine: FocusEngine) -> Predict:
    """The paper's decoding, one gold token per step."""
    base = engine.base

    def predict(ids: list[int], targets: int) -> Tensor:
        before, gold = ids[:-targets], ids[-targets:]
        if engine.config.uses_bos and before[0] != (bos := bos_token(base, engine.config)):
            before = [bos, *before]
        split = len(before) - engine.config.local_window
        if len(before) < engine.config.threshold or split <= 0:
            return full_logits(base, before + gold, targets)
        blocks = read_chunks(base, before[:split], engine.chunk_size, engine.kernel, batch=engine.config.read_batch)
        engine.check_ready()
        decoder = engine.own_way.decoder(blocks, targets)
        logits = [decoder.start(*local_and_prompt(base, engine.config, before[split:]))]
        logits += [decoder.step(token) for token in gold[:-1]]
        return torch.stack(logits)

    return predict


def full_logits(base: BaseModel, ids: list[int], targets: int) -> Tensor:
    """The base model's full attention."""
    output = base.model(input_ids=torch.tensor([ids], device=base.device), use_cache=False, logits_to_keep=targets + 1)
    logits: Tensor = output.logits[0, :-1]
    return logits
