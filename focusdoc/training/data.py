"""Training samples: chunks of real text with planted facts, and the prompts asked of them.

Every sample is a function of the seed and the step alone, so a resumed run sees exactly what an uninterrupted one
would have seen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from focusdoc.decoding.prompt import encode_text
from focusdoc.documents import load, tokenize
from focusdoc.errors import ConfigError, TrainingError
from focusdoc.training.asking import Passages, Question
from focusdoc.training.dense import TrainingPrompt
from focusdoc.training.facts import FACT_MAKERS
from focusdoc.training.planting import PassageQuestions, Planting, Soil, by_passage
from focusdoc.training.settings import SampleShape

#: Shares of the objectives in the prompts of a run.
DEFAULT_MIX: Mapping[str, float] = {
    "number": 0.2,
    "passkey": 0.1,
    "pair": 0.15,
    "words": 0.2,
    "files": 0.1,
    "continuation": 0.1,
    "reconstruction": 0.15,
}
#: Room that any planted fact needs; shorter chunks get continuation and reconstruction only.
_SMALLEST_PLANTED = 96
#: Objectives that ask no question, so that nothing need be planted for them.
UNPLANTED = frozenset({"continuation", "reconstruction"})
#: How many samples back the chunks of an earlier sample may come from.
REACH = 24


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """Chunks of one length, and prompts asked of them.

    Attributes:
        token_ids: the chunks one behind the other, [num_chunks * chunk_size].
        chunk_size: tokens of one chunk.
        prompts: each with its own targets.
        number: which sample of the run this is; what is read for it is known by this number.
        told: the wordings of all questions that facts in the chunks answer.
        earlier: samples whose chunks, read before, stand beside these; their prompts are not asked again.
    """

    token_ids: list[int]
    chunk_size: int
    prompts: tuple[TrainingPrompt, ...]
    number: int
    told: frozenset[str] = frozenset()
    earlier: tuple[TrainingSample, ...] = ()

    @property
    def num_chunks(self) -> int:
        """Chunks of the sample's own."""
        return len(self.token_ids) // self.chunk_size


@dataclass(slots=True)
class SampleMaker:
    """Draws the training samples of a run.

    Args:
        tokenizer: the base model's.
        texts: text files (anything `focusdoc.load` takes), the ground that facts are planted in.
        questions: (context, question, answer) triples from files.
        mix: weight of each objective: the names of `FACT_MAKERS`, "files" (left out where there are no questions),
            "continuation", "reconstruction".
        shape: the ranges of chunk sizes and counts.
        seed: of all draws.
        cache: the tokens of texts used so far; several makers may share one.
        stride: samples between two of one process, where several take turns; a process reuses its own.
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
        self._passages = by_passage(self.questions)
        if not self.mix:
            raise TrainingError("There is no question to train on; pass at least one file of questions.")
        largest = min(self.shape.max_chunk_size, self.shape.max_tokens)
        if largest < _SMALLEST_PLANTED and not UNPLANTED & set(self.mix):
            raise ConfigError(
                f"Chunks have at most {largest} tokens, but planted facts need {_SMALLEST_PLANTED}; raise "
                "max_chunk_size and max_tokens, or give weight to continuation or reconstruction."
            )

    def draw(self, step: int) -> TrainingSample:
        """The sample of one step."""
        sample = self._fresh(step)
        rng = random.Random(f"{self.seed}-{step}-earlier")
        earlier = tuple(self._earlier(rng, sample)) if self.shape.max_reused else ()
        told = frozenset().union(*(other.told for other in earlier))
        prompts = [prompt for prompt in sample.prompts if not prompt.questions & told]
        if not prompts:  # every question has another answer in an earlier sample
            prompts, earlier = list(sample.prompts), ()
        num_chunks = sum(one.num_chunks for one in (sample, *earlier))
        return replace(sample, prompts=tuple(self._within_rows(prompts, num_chunks)), earlier=earlier)

    def _earlier(self, rng: random.Random, sample: TrainingSample) -> Iterator[TrainingSample]:
        """Earlier samples whose chunks join those of `sample`.

        The square leans towards few chunks: a prompt takes rows in every chunk, so there is room for many prompts then,
        and telling chunks apart is learnt from fewer prompts than reading the right one is.
        """
        reach = min(sample.number // self.stride, REACH)
        room = self.shape.max_chunks ** rng.random() ** 2 - sample.num_chunks
        for back in rng.sample(range(1, reach + 1), min(reach, self.shape.max_reused)):
            other = self._fresh(sample.number - back * self.stride)
            if other.num_chunks <= room:
                room -= other.num_chunks
                yield other

    def _within_rows(self, prompts: Sequence[TrainingPrompt], num_chunks: int) -> Iterator[TrainingPrompt]:
        """The first of `prompts` that together keep to the rows a sample may take."""
        left = math.inf if self.shape.max_rows is None else self.shape.max_rows
        for number, prompt in enumerate(prompts):
            window = prompt.prompt_window or len(prompt.token_ids)
            left -= (min(len(prompt.token_ids), window + prompt.num_targets) + 2 * prompt.num_targets) * num_chunks
            if left < 0 and number:
                return
            yield prompt

    def _fresh(self, step: int) -> TrainingSample:
        """The chunks of one step, and all prompts that may be asked of them."""
        if step not in self._recent:
            self.hold(self.make(step))
        return self._recent[step]

    def hold(self, sample: TrainingSample) -> None:
        """Take a sample in that `make` made, maybe in another process, for the steps that will draw it."""
        if len(self._recent) > REACH * self.stride:
            del self._recent[min(self._recent)]
        self._recent[sample.number] = sample

    def make(self, step: int) -> TrainingSample:
        """The chunks of one step, and all prompts that may be asked of them, made anew."""
        rng = random.Random(f"{self.seed}-{step}")
        chunk_size, num_chunks = self.shape.draw(rng)
        names = [name for name in self.mix if chunk_size >= _SMALLEST_PLANTED or name in UNPLANTED]
        if not names:
            names, chunk_size = list(self.mix), _SMALLEST_PLANTED
            num_chunks = min(num_chunks, self.shape.max_tokens // chunk_size)
        ground, following = self.ground(rng, chunk_size * num_chunks)
        soil = Soil([ground[start : start + chunk_size] for start in range(0, len(ground), chunk_size)], rng)
        planting = Planting(self.tokenizer, soil, rng, self.questions, self._passages)
        chosen = rng.choices(names, [self.mix[name] for name in names], k=self.shape.prompts)
        prompts: list[Question | TrainingPrompt | None] = []
        for number, name in enumerate(chosen):
            if name == "files":
                prompts.append(planting.ask_passage())
            elif name in FACT_MAKERS:
                # There is one pass key, or its question is vague.
                again = name == "passkey" and "passkey" in chosen[:number]
                prompts.append(planting.ask_fact("number" if again else name))
            elif name == "continuation":
                prompts.append(self._continuation(rng, following))
            else:
                prompts.append(None)
        chunks = soil.chunks(_sentence_ends(self.tokenizer))
        # Reconstruction comes last, for it copies what the chunks hold in the end; it also stands in for a fact
        # that found no room.
        passages = Passages(chunks, planting.planted, self.tokenizer)
        filled = tuple(self._prompt(rng, prompt, chunks, passages) for prompt in prompts)
        ids = [token for chunk in chunks for token in chunk]
        return TrainingSample(ids, chunk_size, filled, step, frozenset(planting.told))

    def _prompt(
        self, rng: random.Random, asked: Question | TrainingPrompt | None, chunks: list[list[int]], passages: Passages
    ) -> TrainingPrompt:
        """What is asked as a prompt over the finished chunks."""
        if not isinstance(asked, Question):
            return asked or self._reconstruction(rng, chunks)
        return asked.asked(self.tokenizer, passages.draw(rng, asked) if rng.random() < self.shape.quoted else "")

    def ground(self, rng: random.Random, length: int) -> tuple[list[int], list[int]]:
        """`length` tokens of one text, and the tokens that follow them.

        Raises:
            TrainingError: no text is long enough.
        """
        following = self.shape.max_local + self.shape.targets
        drawn = (rng.choice(list(self.texts)) for _ in range(64))
        for path in chain(drawn, self.texts):  # where few texts are long enough, the draws may miss them
            tokens = self._text_tokens(path)
            room = len(tokens) - length - following
            if room >= 0:
                start = rng.randint(0, room)
                return tokens[start : start + length], tokens[start + length : start + length + following]
        raise TrainingError(
            f"No text found that is longer than {length + following} tokens; give longer texts or lower max_tokens."
        )

    def _text_tokens(self, path: Path) -> list[int]:
        if path not in self.cache:
            self.cache[path] = tokenize(self.tokenizer, load(path).text).token_ids
        return self.cache[path]

    def _continuation(self, rng: random.Random, following: list[int]) -> TrainingPrompt:
        """The text that follows the last chunk (paper, section 3.3)."""
        # The root leans towards long local contexts: at use, text to be gone on with mostly has much in front of it.
        length = round(16 * (self.shape.max_local / 16) ** rng.random() ** 0.5)
        # Every chunk runs the dynamic prompt: its cost is its length times the number of chunks, so it is kept short.
        window = rng.randint(16, 128)
        ids = tuple(following[: length + self.shape.targets])
        return TrainingPrompt(ids, self.shape.targets, "continuation", prompt_window=window)

    def _reconstruction(self, rng: random.Random, chunks: list[list[int]]) -> TrainingPrompt:
        """A stretch of one chunk, to be repeated from its beginning (paper, section 3.3)."""
        chunk = rng.choice(chunks)
        targets = min(self.shape.targets, len(chunk) // 2)
        length = rng.randint(min(8, len(chunk) - targets), min(64, len(chunk) - targets))
        start = rng.randint(0, len(chunk) - length - targets)
        return TrainingPrompt(tuple(chunk[start : start + length + targets]), targets, "reconstruction")


@lru_cache(maxsize=4)
def _sentence_ends(tokenizer: Any) -> frozenset[int]:
    """Tokens that end a sentence."""
    return frozenset(ids[-1] for ids in (encode_text(tokenizer, f"end{mark}") for mark in (".", "!", "?", '."', ".\n")))
