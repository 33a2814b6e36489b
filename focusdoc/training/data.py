"""Training samples: chunks of real text with planted facts, and prompts about them.

A sample depends on the seed and the step alone, so a resumed run sees the same samples as an uninterrupted one.
Building one takes about 0.1 s of text processing. That is negligible next to a training step on a CPU, but on a GPU it
would take as long as the step itself, so worker processes prefetch samples there.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from focusdoc.container import num_cpus
from focusdoc.decoding.prompt import encode_text
from focusdoc.documents import load, tokenize
from focusdoc.errors import ConfigError, EmptyDocumentError, TrainingError
from focusdoc.training.asking import Passages, Question
from focusdoc.training.dense import TrainingPrompt
from focusdoc.training.facts import FACT_MAKERS
from focusdoc.training.planting import ChunkBuilder, PassageQuestions, Planting, group_by_passage
from focusdoc.training.settings import SampleShape

_log = logging.getLogger(__name__)

#: Default weights of the objectives.
DEFAULT_MIX: Mapping[str, float] = {
    "number": 0.2,
    "passkey": 0.1,
    "pair": 0.15,
    "words": 0.2,
    "files": 0.1,
    "continuation": 0.1,
    "reconstruction": 0.15,
}
#: Smallest chunk that facts are planted in; shorter ones get continuation and reconstruction only.
_MIN_PLANTED_CHUNK = 96
#: Objectives that ask no question and need no planted fact.
UNPLANTED = frozenset({"continuation", "reconstruction"})
#: Chunks may be reused from so many samples back.
REUSE_WINDOW = 24
#: Most workers next to a GPU, and samples that each prefetches.
_MAX_WORKERS, _PREFETCH = 8, 4


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """Chunks of one length, and prompts about them.

    Attributes:
        token_ids: the concatenated chunks, [num_chunks * chunk_size].
        number: the index of the sample in the run, and the cache key of its memory.
        answered: the wordings of all questions that the chunks answer.
        earlier: samples whose chunks, already read, are added to these; their prompts are not asked again.
    """

    token_ids: list[int]
    chunk_size: int
    prompts: tuple[TrainingPrompt, ...]
    number: int
    answered: frozenset[str] = frozenset()
    earlier: tuple[TrainingSample, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of the sample's own chunks."""
        return len(self.token_ids)

    @property
    def num_chunks(self) -> int:
        """The sample's own chunks, without those of earlier samples."""
        return len(self.token_ids) // self.chunk_size

    @property
    def num_losses(self) -> int:
        """One for each prompt."""
        return len(self.prompts)


@dataclass(slots=True)
class SampleMaker:
    """Draws the training samples of a run.

    Args:
        texts: text files (anything `focusdoc.load` accepts) that facts are planted in.
        questions: (context, question, answer) triples from files.
        mix: the weight of each objective: the names of `FACT_MAKERS`, "files" (dropped if there are no questions),
            "continuation", "reconstruction".
        cache: tokenized texts; several makers may share one.
        stride: the distance between two samples of one process when several take turns; each reuses its own samples.
    """

    tokenizer: Any
    texts: Sequence[Path]
    questions: Sequence[tuple[str, str, str]] = ()
    mix: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_MIX))
    shape: SampleShape = field(default_factory=SampleShape)
    seed: int = 0
    cache: dict[Path, list[int]] = field(default_factory=dict)
    stride: int = 1
    _recent: dict[int, TrainingSample] = field(default_factory=dict, init=False)
    _passages: PassageQuestions = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        known = {*FACT_MAKERS, "files", *UNPLANTED}
        if not set(self.mix) <= known or any(weight < 0 for weight in self.mix.values()) or not sum(self.mix.values()):
            raise ConfigError(f"mix is {dict(self.mix)}; give weights above 0 to some of {', '.join(sorted(known))}.")
        if not self.texts:
            raise TrainingError("There is no text to train on; pass at least one text file.")
        self.mix = {name: weight for name, weight in self.mix.items() if weight and (name != "files" or self.questions)}
        self._passages = group_by_passage(self.questions)
        if not self.mix:
            raise TrainingError("There is no question to train on; pass at least one file of questions.")
        largest = min(self.shape.max_chunk_size, self.shape.max_tokens)
        if largest < _MIN_PLANTED_CHUNK and not UNPLANTED & set(self.mix):
            raise ConfigError(
                f"Chunks have at most {largest} tokens, but planted facts need {_MIN_PLANTED_CHUNK}; raise "
                "max_chunk_size and max_tokens, or give weight to continuation or reconstruction."
            )

    def draw(self, step: int) -> TrainingSample:
        """The sample of one step."""
        sample = self._cached(step)
        rng = random.Random(f"{self.seed}-{step}-earlier")
        earlier = tuple(self._draw_earlier(rng, sample)) if self.shape.max_reused else ()
        answered = frozenset().union(*(other.answered for other in earlier))
        prompts = [prompt for prompt in sample.prompts if not prompt.questions & answered]
        if not prompts:  # every question has another answer in an earlier sample
            prompts, earlier = list(sample.prompts), ()
        num_chunks = sum(each.num_chunks for each in (sample, *earlier))
        return replace(sample, prompts=tuple(self._within_rows(prompts, num_chunks)), earlier=earlier)

    def _draw_earlier(self, rng: random.Random, sample: TrainingSample) -> Iterator[TrainingSample]:
        """Earlier samples whose chunks are added to those of `sample`.

        The square favours few chunks: a prompt takes rows in every chunk, so few chunks leave room for many prompts,
        and selecting the right chunk takes fewer prompts to learn than reading it.
        """
        window = min(sample.number // self.stride, REUSE_WINDOW)
        room = self.shape.max_chunks ** rng.random() ** 2 - sample.num_chunks
        for back in rng.sample(range(1, window + 1), min(window, self.shape.max_reused)):
            other = self._cached(sample.number - back * self.stride)
            if other.num_chunks <= room:
                room -= other.num_chunks
                yield other

    def _within_rows(self, prompts: Sequence[TrainingPrompt], num_chunks: int) -> Iterator[TrainingPrompt]:
        """The first of `prompts` that together stay within `max_rows`, at least one."""
        rows_left = math.inf if self.shape.max_rows is None else self.shape.max_rows
        for number, prompt in enumerate(prompts):
            window = prompt.prompt_window or len(prompt.token_ids)
            rows_left -= (min(len(prompt.token_ids), window + prompt.num_targets) + 2 * prompt.num_targets) * num_chunks
            if rows_left < 0 and number:
                return
            yield prompt

    def _cached(self, step: int) -> TrainingSample:
        if step not in self._recent:
            self.cache_sample(self.make(step))
        return self._recent[step]

    def cache_sample(self, sample: TrainingSample) -> None:
        """Keep a sample that `make` returned, possibly in another process, for the steps that draw it."""
        if len(self._recent) > REUSE_WINDOW * self.stride:
            del self._recent[min(self._recent)]
        self._recent[sample.number] = sample

    def make(self, step: int) -> TrainingSample:
        """Build the chunks of one step and all their prompts, without chunks of earlier samples."""
        rng = random.Random(f"{self.seed}-{step}")
        chunk_size, num_chunks = self.shape.draw(rng)
        names = [name for name in self.mix if chunk_size >= _MIN_PLANTED_CHUNK or name in UNPLANTED]
        if not names:
            names, chunk_size = list(self.mix), _MIN_PLANTED_CHUNK
            num_chunks = min(num_chunks, self.shape.max_tokens // chunk_size)
        text, following = self.draw_text(rng, chunk_size * num_chunks)
        builder = ChunkBuilder([text[start : start + chunk_size] for start in range(0, len(text), chunk_size)], rng)
        planting = Planting(self.tokenizer, builder, rng, self.questions, self._passages)
        chosen = rng.choices(names, [self.mix[name] for name in names], k=self.shape.prompts)
        drafts: list[Question | TrainingPrompt | None] = []
        for number, name in enumerate(chosen):
            if name == "files":
                drafts.append(planting.ask_passage())
            elif name in FACT_MAKERS:
                # A second pass key would make the question ambiguous.
                again = name == "passkey" and "passkey" in chosen[:number]
                drafts.append(planting.ask_fact("number" if again else name))
            else:
                drafts.append(self._continuation(rng, following) if name == "continuation" else None)
        chunks = builder.build(_sentence_ends(self.tokenizer))
        passages = Passages(chunks, planting.planted, self.tokenizer)
        filled: list[TrainingPrompt] = []
        for draft in drafts:
            if isinstance(draft, Question):
                quoted = passages.draw(rng, draft) if rng.random() < self.shape.quoted else ""
                filled.append(draft.to_training_prompt(self.tokenizer, quoted))
            else:  # a reconstruction copies from the finished chunks; it also replaces a fact that did not fit
                filled.append(draft or self._reconstruction(rng, chunks))
        ids = list(chain.from_iterable(chunks))
        return TrainingSample(ids, chunk_size, tuple(filled), step, frozenset(planting.answered))

    def draw_text(self, rng: random.Random, length: int) -> tuple[list[int], list[int]]:
        """`length` tokens of a random text, and the tokens behind them; TrainingError if no text is long enough."""
        following = self.shape.max_local + self.shape.targets
        drawn = (rng.choice(list(self.texts)) for _ in range(64))
        for path in chain(drawn, self.texts):  # if few texts are long enough, the draws may miss them
            tokens = self._text_tokens(path)
            room = len(tokens) - length - following
            if room >= 0:
                start = rng.randint(0, room)
                return tokens[start : start + length], tokens[start + length : start + length + following]
        raise TrainingError(
            f"No text has more than {length + following} tokens; give longer texts or lower max_tokens."
        )

    def _text_tokens(self, path: Path) -> list[int]:
        if path not in self.cache:
            try:
                self.cache[path] = tokenize(self.tokenizer, load(path).text).token_ids
            except EmptyDocumentError as error:
                if len(self.texts) == 1:
                    raise
                _log.warning("Left out of the training: %s", error)
                self.cache[path] = []
        return self.cache[path]

    def _continuation(self, rng: random.Random, following: list[int]) -> TrainingPrompt:
        """The text that follows the last chunk (paper, section 3.3)."""
        # The root favours long local contexts, as at inference.
        length = round(16 * (self.shape.max_local / 16) ** rng.random() ** 0.5)
        # Short, since the dynamic prompt runs behind every chunk.
        window = rng.randint(16, 128)
        ids = tuple(following[: length + self.shape.targets])
        return TrainingPrompt(ids, self.shape.targets, "continuation", prompt_window=window)

    def _reconstruction(self, rng: random.Random, chunks: list[list[int]]) -> TrainingPrompt:
        """A span of one chunk, whose start is the prompt and whose rest are the targets (paper, section 3.3)."""
        chunk = rng.choice(chunks)
        targets = min(self.shape.targets, len(chunk) // 2)
        length = rng.randint(min(8, len(chunk) - targets), min(64, len(chunk) - targets))
        start = rng.randint(0, len(chunk) - length - targets)
        return TrainingPrompt(tuple(chunk[start : start + length + targets]), targets, "reconstruction")


@lru_cache(maxsize=4)
def _sentence_ends(tokenizer: Any) -> frozenset[int]:
    """Ids of tokens that end a sentence."""
    return frozenset(ids[-1] for ids in (encode_text(tokenizer, f"end{mark}") for mark in (".", "!", "?", '."', ".\n")))


class _Samples(Dataset[TrainingSample]):
    def __init__(self, maker: SampleMaker) -> None:
        self.maker = maker

    def __getitem__(self, number: int) -> TrainingSample:
        return self.maker.make(number)


def default_workers(device: torch.device) -> int:
    """The default number of workers; 0 on a CPU, where they would compete with the training step."""
    return 0 if device.type == "cpu" else min(_MAX_WORKERS, max(1, num_cpus() - 1))


def prefetch_samples(samples: SampleMaker, numbers: Sequence[int], workers: int) -> Iterator[None]:
    """Yield once for each of `numbers`, as soon as `samples` has that sample cached.

    Without `workers`, `samples` builds each sample when it is drawn.
    """
    if workers == 0:
        yield from (None for _ in numbers)
        return
    context: Any = "spawn"
    if "forkserver" in multiprocessing.get_all_start_methods():
        # A fork of a process that uses a GPU is unsafe, and locks held by its threads stay locked. So workers are
        # forked from a fork server, which imports their modules once instead of once for each worker.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", __name__, type(samples.tokenizer).__module__])
    loader: DataLoader[Any] = DataLoader(
        _Samples(samples),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=_PREFETCH,
        multiprocessing_context=context,
        worker_init_fn=_ignore_interrupts,
    )
    for sample in loader:
        samples.cache_sample(sample)
        yield


def _ignore_interrupts(_: int) -> None:
    """Ignore Ctrl-C, which the terminal sends to every process; the training process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
