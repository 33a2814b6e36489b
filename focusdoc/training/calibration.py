"""Finding a model's retrieval heads, those that attend to where an answer is, with facts planted in a text.

A head scores one hit for each question whose answer is where the head's attention peaks (retrieval heads, arXiv
2404.15574; QRHead, 2506.09944). Half of the facts select heads, a quarter selects the number of layers, and the last
quarter measures how often the selected heads together find the answer. The result is cached under the model's
fingerprint.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.attention import AttentionKernel
from focusdoc.config import CHUNK_SIZE
from focusdoc.decoding.look import LookDecoder, num_layers_for
from focusdoc.decoding.looking import POOL_WIDTH
from focusdoc.decoding.prompt import encode_text, question_prompt
from focusdoc.decoding.quoting import points
from focusdoc.decoding.state import question_rows
from focusdoc.documents.sentences import SENTENCE_END
from focusdoc.errors import CalibrationError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.catalogue import known_model
from focusdoc.storage import atomic_write, cache_path
from focusdoc.terminal import progress_bar
from focusdoc.training.facts import number_fact, words_fact

#: Increased with every change of the method, which invalidates cached results.
VERSION = 1
#: Tokens of the text, facts included.
TOKENS = 6144
#: Most facts that are asked about; half are numbers, half are in words.
CASES = 48
#: Most heads that are selected.
NUM_HEADS = 16
#: A head needs at least this share of the best head's hits.
_MIN_HITS = 0.25
#: The fewest layers are used whose heads have this share of the hits of all selected heads,
_MIN_LAYER_HITS = 0.6
#: and whose hit rate is at most this much below that of all selected heads together.
_MAX_LOSS = 0.05
#: Attention within so many tokens of the fact is a hit.
_TOLERANCE = 64
#: A hit rate among four places below this is logged as a warning.
LOW_HIT_RATE = 0.5
Heads = tuple[tuple[int, int], ...]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The retrieval heads of a model: (layer, head) pairs, sorted, and their hit rates.

    `first` and `among_four` say how often the fact is at the place with the most attention, and among the first four;
    `cases` counts the facts that they are measured on.
    """

    heads: Heads
    first: float
    among_four: float
    cases: int

    def __str__(self) -> str:
        """One line, such as "16 heads in the first 19 layers find ..."."""
        return (
            f"{len(self.heads)} heads in the first {num_layers_for(self.heads)} layers find {self.first:.0%} of "
            f"{self.cases} planted facts at once and {self.among_four:.0%} among four places"
        )


class Case(NamedTuple):
    """A question, and the tokens [first, last) of the fact that answers it."""

    question: str
    first: int
    last: int


def retrieval_heads(base: BaseModel, kernel: AttentionKernel, *, calibrates: bool = True) -> Heads:
    """The retrieval heads of a model: the catalogue's, or those found now or in an earlier calibration.

    Without `calibrates`, there are none outside the catalogue.

    Raises:
        CalibrationError: calibration is impossible.
    """
    known = known_model(base.name)
    if not calibrates or (known is not None and known.retrieval_heads):
        return known.retrieval_heads if known is not None else ()
    found = load_calibration(base)
    if found is None:
        _log.warning("%s is used for the first time: looking for its retrieval heads.", base.name)
        with progress_bar(f"Looking for the heads of {base.name}", "steps") as progress:
            found = calibrate(base, kernel, progress=progress)
        save_calibration(base, found)
    if found.among_four < LOW_HIT_RATE:
        _log.warning("%s retrieves poorly by itself: %s; a model with an adapter finds more.", base.name, found)
    return found.heads


def calibrate(
    base: BaseModel,
    kernel: AttentionKernel,
    *,
    text: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Find the retrieval heads of a model, with facts planted in the beginning of `text`, or alone without one.

    `progress` is called with (steps done, total steps).

    Raises:
        CalibrationError: `text` is too short, or the model has no tokenizer.
    """
    tokenizer = base.tokenizer
    if tokenizer is None:
        raise CalibrationError(
            f"{base.name} has no tokenizer, which calibration needs; pass tokenizer=, or name the heads in "
            "FocusConfig(heads=...)."
        )
    chunk_size = min(CHUNK_SIZE, base.context_length // 2)
    num_tokens = min(TOKENS, 6 * chunk_size)
    with base.tokenizer_lock:
        ids, cases = plant_facts(tokenizer, text, num_tokens)
    if len(ids) < (least := num_tokens * 3 // 4):
        raise CalibrationError(
            f"The text has {len(ids)} tokens, planted facts included, and calibration needs {least}; give a longer "
            "one, or none."
        )
    steps = count()

    def report() -> None:
        if progress is not None:
            progress(next(steps), 1 + len(cases))

    report()
    blocks = read_chunks(base, ids, chunk_size, kernel)
    report()
    every = [(layer, head) for layer in range(base.num_layers) for head in range(base.num_heads)]
    half, rest = cases[: len(cases) // 2], cases[len(cases) // 2 :]
    hits = torch.zeros(len(every))
    for case, mass in _looks(base, blocks, kernel, every, half):
        smooth = functional.avg_pool1d(mass[None], POOL_WIDTH, stride=1, padding=POOL_WIDTH // 2)[0]
        hits += _is_hit(smooth.argmax(dim=1), case).float()
        report()
    best = [int(index) for index in hits.argsort(descending=True)[:NUM_HEADS] if hits[index] >= _MIN_HITS * hits.max()]
    selected = sorted(every[index] for index in best)
    looks = []
    for case, mass in _looks(base, blocks, kernel, selected, rest):
        looks.append((case, mass))
        report()
    tuning, test = looks[::2], looks[1::2]
    hits_of = {every[index]: float(hits[index]) for index in best}
    full_rate, total = _hit_rate(tuning, selected, base.num_layers, 1), sum(hits_of.values())
    num_layers = next(
        layers
        for layers in range(1, base.num_layers + 1)
        if sum(found for (layer, _), found in hits_of.items() if layer < layers) >= _MIN_LAYER_HITS * total
        and _hit_rate(tuning, selected, layers, 1) >= full_rate - _MAX_LOSS
    )
    heads = tuple(pair for pair in selected if pair[0] < num_layers)
    first, four = (_hit_rate(test, selected, num_layers, top) for top in (1, 4))
    return Calibration(heads=heads, first=first, among_four=four, cases=len(test))


def plant_facts(tokenizer: Any, text: str | None, num_tokens: int) -> tuple[list[int], list[Case]]:
    """At most `num_tokens` ids of a text with planted facts, and a question about each; deterministic."""
    rng = random.Random(VERSION)
    facts = [(number_fact if number % 2 else words_fact)(rng) for number in range(CASES)]
    # Facts take at most half of the tokens.
    statements = _take((encode_text(tokenizer, f"{fact.statement} ") for fact in facts), num_tokens // 2)
    filler = (words_fact(rng).statement for _ in count()) if text is None else _sentences(text)
    room = num_tokens - sum(map(len, statements))
    sentences = _take((encode_text(tokenizer, f"{sentence} ") for sentence in filler), room)
    slots = sorted(rng.choices(range(len(sentences) + 1), k=len(statements)))
    ids: list[int] = []
    cases: list[Case] = []
    for slot, sentence in enumerate([*sentences, []]):
        while len(cases) < len(statements) and slots[len(cases)] == slot:
            fact, statement = facts[len(cases)], statements[len(cases)]
            cases.append(Case(rng.choice(fact.questions), len(ids), len(ids) + len(statement)))
            ids += statement
        ids += sentence
    return ids, cases


def _take(texts: Iterable[list[int]], num_tokens: int) -> list[list[int]]:
    """The first of `texts` that together fit into `num_tokens`."""
    taken: list[list[int]] = []
    for ids in texts:
        num_tokens -= len(ids)
        if num_tokens < 0:
            break
        taken.append(ids)
    return taken


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
    """The attention mass of each head on every token, for each question; float32 [heads, tokens]."""
    for case in cases:
        with base.tokenizer_lock:
            prompt = question_prompt(base.tokenizer, case.question)
            rows = question_rows(prompt, encode_text(base.tokenizer, case.question), ())
        decoder = LookDecoder(base, blocks, kernel=kernel, heads=heads)
        decoder.look(prompt, prompt, rows)
        yield case, torch.cat(decoder.question_token_scores(range(decoder.num_chunks)), dim=1)


def _is_hit(tokens: Tensor, case: Case) -> Tensor:
    return (tokens >= case.first - _TOLERANCE) & (tokens < case.last + _TOLERANCE)


def _hit_rate(looks: Sequence[tuple[Case, Tensor]], heads: Sequence[tuple[int, int]], layers: int, top: int) -> float:
    """How often the `top` places with the most attention, over the heads of the first `layers`, include the fact."""
    rows = [index for index, (layer, _) in enumerate(heads) if layer < layers]
    found = 0
    for case, mass in looks if rows else ():
        selected = mass[rows]
        total = (selected / selected.amax(dim=1, keepdim=True).clamp_min(1e-30)).sum(dim=0)
        places = [token for _, (_, token) in zip(range(top), points([0], [total]), strict=False)]
        found += bool(_is_hit(torch.tensor(places), case).any())
    return found / max(1, len(looks))


def load_calibration(base: BaseModel) -> Calibration | None:
    """The cached calibration of a model; None if there is none, or it is of another version."""
    try:
        stored = json.loads(_file(base).read_text(encoding="utf-8"))
        if stored.pop("version") != VERSION:
            return None
        heads = tuple((int(layer), int(head)) for layer, head in stored.pop("heads"))
        fits = heads and all(0 <= layer < base.num_layers and 0 <= head < base.num_heads for layer, head in heads)
        rates = {name: float(stored[name]) for name in ("first", "among_four")}
        return Calibration(heads=heads, cases=int(stored["cases"]), **rates) if fits else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def save_calibration(base: BaseModel, found: Calibration) -> None:
    """Write a calibration to the cache; on failure log a warning, and the next process calibrates again."""
    try:
        file = _file(base)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(file, json.dumps({"version": VERSION, **asdict(found)}).encode())
    except OSError as error:
        _log.warning("The heads of %s cannot be cached: %s", base.name, error)


def _file(base: BaseModel) -> Path:
    return cache_path() / "heads" / f"{base.fingerprint}.json"
