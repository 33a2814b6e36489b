"""Which heads of a model look where an answer stands: found on facts that are planted in a text.

A head scores by how often the most that it takes anywhere in the text lies at the fact that was asked about (retrieval
heads, arXiv 2404.15574; QRHead, 2506.09944). Half of the facts choose heads, a quarter tells how few layers do, and the
last quarter how often the chosen heads together find a place. The result is kept in the cache, under the model's
fingerprint.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.attention import AttentionKernel
from focusdoc.config import CHUNK_SIZE
from focusdoc.decoding.attribution import SENTENCE_END
from focusdoc.decoding.look import LookDecoder, num_layers_for
from focusdoc.decoding.looking import POOL_WIDTH
from focusdoc.decoding.prompt import encode_text, question_prompt
from focusdoc.decoding.quoting import points
from focusdoc.decoding.state import question_rows
from focusdoc.errors import CalibrationError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from focusdoc.storage import atomic_write, cache_path
from focusdoc.terminal import progress_bar
from focusdoc.training.facts import number_fact, words_fact

#: Counted up with every change of what is looked for, so that no kept result outlives it.
VERSION = 1
#: Tokens of the text.
TOKENS = 6144
#: Facts that are asked about, at most; half of them numbers, half in words.
CASES = 48
#: Heads that are kept, at most.
NUM_HEADS = 16
#: A head that finds a smaller share of what the best one finds tells nothing.
_WORTH = 0.25
#: So few layers are taken that the heads in them have this share of all places that the chosen heads find one by one,
_KEPT = 0.6
#: and together lose at most this share of what all of them find at once.
_LOSS = 0.05
#: Tokens from the answer within which a look has found it.
_AWAY = 64
#: Below this share of places among four, a model is warned of.
ENOUGH = 0.5
Heads = tuple[tuple[int, int], ...]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The retrieval heads of a model, and how well they find.

    Attributes:
        heads: (layer, head) pairs, in order.
        first, among_four: how often the place is the one looked at most, and among the four looked at most.
        cases: facts that tell it.
    """

    heads: Heads
    first: float
    among_four: float
    cases: int

    def __str__(self) -> str:
        """In one line, such as "16 heads in the first 19 layers find ..."."""
        return (
            f"{len(self.heads)} heads in the first {num_layers_for(self.heads)} layers find {self.first:.0%} of "
            f"{self.cases} planted facts at once and {self.among_four:.0%} among four places"
        )


@dataclass(frozen=True, slots=True)
class Case:
    """A question, and the tokens [first, last) of the fact that answers it."""

    question: str
    first: int
    last: int


def heads_of(base: BaseModel, kernel: AttentionKernel) -> Heads:
    """The retrieval heads of a model: those that are kept, else those that a calibration finds now, with a bar.

    Raises:
        CalibrationError: it cannot be calibrated.
    """
    found = kept(base)
    if found is None:
        _log.warning("%s is asked for the first time: looking for its retrieval heads.", base.name)
        with progress_bar(f"Looking for the heads of {base.name}", "steps") as progress:
            found = calibrate(base, kernel, progress=progress)
        keep(base, found)
    if found.among_four < ENOUGH:
        _log.warning("%s finds little by itself: %s; a model with an adapter finds more.", base.name, found)
    return found.heads


def calibrate(
    base: BaseModel,
    kernel: AttentionKernel,
    *,
    text: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Find the retrieval heads of a model.

    Args:
        text: the facts are planted in its beginning; None for a text of facts alone.
        progress: called with (steps done, steps in all).

    Raises:
        CalibrationError: `text` is too short, or the model has no tokenizer.
    """
    tokenizer = base.tokenizer
    if tokenizer is None:
        raise CalibrationError(
            f"{base.name} came without a tokenizer, and its heads are looked for with words; pass tokenizer=, or name "
            "them in FocusConfig(heads=...)."
        )
    chunk_size = min(CHUNK_SIZE, base.context_length // 2)
    num_tokens = min(TOKENS, 6 * chunk_size)
    with base.tokenizer_lock:
        ids, cases = planted(tokenizer, text, num_tokens)
    if len(ids) < (least := num_tokens * 3 // 4):
        raise CalibrationError(
            f"The text has {len(ids)} tokens with the facts planted in it, and a calibration needs {least}; give a "
            "longer one, or none."
        )
    tell = progress or (lambda done, total: None)
    tell(0, 1 + len(cases))
    blocks = read_chunks(base, ids, chunk_size, kernel)
    tell(1, 1 + len(cases))
    every = [(layer, head) for layer in range(base.num_layers) for head in range(base.num_heads)]
    half, rest = cases[: len(cases) // 2], cases[len(cases) // 2 :]
    hits = torch.zeros(len(every))
    for number, (case, taken) in enumerate(_looks(base, blocks, kernel, every, half)):
        hits += _near(_smooth(taken).argmax(dim=1), case).float()
        tell(2 + number, 1 + len(cases))
    best = [int(at) for at in hits.argsort(descending=True)[:NUM_HEADS] if hits[at] >= _WORTH * hits.max()]
    chosen = sorted(every[at] for at in best)
    looks = []
    for case, taken in _looks(base, blocks, kernel, chosen, rest):
        looks.append((case, taken))
        tell(1 + len(half) + len(looks), 1 + len(cases))
    tuning, judged = looks[::2], looks[1::2]
    found_by = {every[at]: float(hits[at]) for at in best}
    whole, total = _share(tuning, chosen, base.num_layers, 1), sum(found_by.values())
    enough = next(
        layers
        for layers in range(1, base.num_layers + 1)
        if sum(found for (layer, _), found in found_by.items() if layer < layers) >= _KEPT * total
        and _share(tuning, chosen, layers, 1) >= whole - _LOSS
    )
    heads = tuple(pair for pair in chosen if pair[0] < enough)
    first, four = (_share(judged, chosen, enough, most) for most in (1, 4))
    return Calibration(heads=heads, first=first, among_four=four, cases=len(judged))


def planted(tokenizer: Any, text: str | None, num_tokens: int) -> tuple[list[int], list[Case]]:
    """Token ids of a text with facts in it, and a question about each of them; the same at every call.

    Args:
        num_tokens: of both together, at most; facts take at most half of them.
    """
    rng = random.Random(VERSION)
    facts = [(number_fact if number % 2 else words_fact)(rng) for number in range(CASES)]
    stated = _first((encode_text(tokenizer, f"{fact.statement} ") for fact in facts), num_tokens // 2)
    sentences = _facts(rng) if text is None else _sentences(text)
    room = num_tokens - sum(map(len, stated))
    soil = _first((encode_text(tokenizer, f"{sentence} ") for sentence in sentences), room)
    at = sorted(rng.choices(range(len(soil) + 1), k=len(stated)))
    ids: list[int] = []
    cases: list[Case] = []
    for place, sentence_ids in enumerate([*soil, []]):
        while len(cases) < len(stated) and at[len(cases)] == place:
            fact, own = facts[len(cases)], stated[len(cases)]
            cases.append(Case(rng.choice(fact.questions), len(ids), len(ids) + len(own)))
            ids += own
        ids += sentence_ids
    return ids, cases


def _first(texts: Iterable[list[int]], num_tokens: int) -> list[list[int]]:
    """As many of `texts`, from the first one on, as do not take more than `num_tokens` together."""
    taken: list[list[int]] = []
    for ids in texts:
        num_tokens -= len(ids)
        if num_tokens < 0:
            break
        taken.append(ids)
    return taken


def _facts(rng: random.Random) -> Iterator[str]:
    while True:
        yield words_fact(rng).statement


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for end in SENTENCE_END.finditer(text):
        yield text[start : end.end()].strip()
        start = end.end()
    yield text[start:].strip()


def _looks(
    base: BaseModel,
    blocks: Sequence[MemoryBlock],
    kernel: AttentionKernel,
    heads: Sequence[tuple[int, int]],
    cases: Sequence[Case],
) -> Iterator[tuple[Case, Tensor]]:
    """What each of `heads` takes from every token for each question, float32 [heads, tokens]."""
    for case in cases:
        with base.tokenizer_lock:
            prompt = question_prompt(base.tokenizer, case.question)
            rows = question_rows(prompt, encode_text(base.tokenizer, case.question), ())
        decoder = LookDecoder(base, blocks, kernel=kernel, heads=heads)
        decoder.look(prompt, prompt, rows)
        yield case, torch.cat(decoder.question_token_scores(range(decoder.num_chunks)), dim=1)


def _smooth(taken: Tensor) -> Tensor:
    return functional.avg_pool1d(taken[None], POOL_WIDTH, stride=1, padding=POOL_WIDTH // 2)[0]


def _near(tokens: Tensor, case: Case) -> Tensor:
    return (tokens >= case.first - _AWAY) & (tokens < case.last + _AWAY)


def _share(looks: Sequence[tuple[Case, Tensor]], heads: Sequence[tuple[int, int]], layers: int, most: int) -> float:
    """How often the heads below a layer have a fact among the `most` places that they look at together."""
    kept = [at for at, (layer, _) in enumerate(heads) if layer < layers]
    found = 0
    for case, taken in looks if kept else ():
        of_kept = taken[kept]
        together = (of_kept / of_kept.amax(dim=1, keepdim=True).clamp_min(1e-30)).sum(dim=0)
        places = [token for _, (_, token) in zip(range(most), points([0], [together]), strict=False)]
        found += bool(_near(torch.tensor(places), case).any())
    return found / max(1, len(looks))


def kept(base: BaseModel) -> Calibration | None:
    """What was found for a model before; None where nothing is kept, or what is kept is of another version."""
    try:
        told = json.loads(_file(base).read_text(encoding="utf-8"))
        if told.pop("version") != VERSION:
            return None
        heads = tuple((int(layer), int(head)) for layer, head in told.pop("heads"))
        fits = heads and all(0 <= layer < base.num_layers and 0 <= head < base.num_heads for layer, head in heads)
        shares = {name: float(told[name]) for name in ("first", "among_four")}
        return Calibration(heads=heads, cases=int(told["cases"]), **shares) if fits else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def keep(base: BaseModel, found: Calibration) -> None:
    """Keep what was found in the cache; where that cannot be written, the next process looks again."""
    try:
        file = _file(base)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(file, json.dumps({"version": VERSION, **asdict(found)}).encode())
    except OSError as error:
        _log.warning("The heads of %s cannot be kept: %s", base.name, error)


def _file(base: BaseModel) -> Path:
    return cache_path() / "heads" / f"{base.fingerprint}.json"
