"""The figures this project sets itself, and what was measured for them: ratios within one run on one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focusdoc.benchmark.roofline import reading_share
from focusdoc.evaluation.plots import short

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure to reach.

    Attributes:
        name: what is compared, with ``{length}`` for the length that it was measured at.
        length: the length that the target is for.
        reach: the figure itself, and whether it is the least (else the most).
        unit: written behind a figure.
    """

    name: str
    length: int
    reach: float
    at_least: bool
    unit: str = "x"

    def met(self, figure: float) -> bool:
        """Whether `figure` reaches it."""
        return figure >= self.reach if self.at_least else figure <= self.reach

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.written(self.reach)} at {short(self.length)}"

    def written(self, figure: float) -> str:
        """A figure with its unit."""
        return f"{figure:.0%}" if self.unit == "%" else f"{figure:.3g}{self.unit}"


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What was measured for a target, in chunks of one size; None where something it needs was not."""

    target: Target
    chunk_size: int
    length: int | None = None
    figure: float | None = None


#: Takes our row, and the row it is compared with (our own where it stands alone); gives the figure, if it is there.
_Figure = Callable[[Row, Row], float | None]


def _ratio(above: str, below: str) -> _Figure:
    """`above` of the other row over `below` of ours."""

    def figure(ours: Row, other: Row) -> float | None:
        one, two = other.get(above), ours.get(below)
        return one / two if one and two else None

    return figure


def _gigabytes(row: Row, *names: str) -> float | None:
    """The largest of these figures of a row, where it has them all."""
    return max(row[name] for name in names) / 1e9 if all(name in row for name in names) else None


_READ_RATIO = _ratio("read_seconds", "read_seconds")
_TOKEN_RATIO = _ratio("token_seconds", "token_seconds")

#: Every target with the contender that it is for, the one it is compared with (itself, where it stands alone), and its
#: figure.
_COMPARED: Sequence[tuple[Target, str, str, _Figure]] = (
    (
        Target(name="reading {length} against transformers' full attention", length=32_768, reach=8, at_least=True),
        "focus",
        "full",
        _READ_RATIO,
    ),
    (
        Target(name="a token at {length} against transformers' full attention", length=32_768, reach=5, at_least=True),
        "focus",
        "full",
        _TOKEN_RATIO,
    ),
    (
        Target(name="a token at {length} against llama.cpp (4-bit weights)", length=8192, reach=1, at_least=True),
        "focus",
        "llama.cpp",
        _TOKEN_RATIO,
    ),
    (
        Target(name="a token at {length} against the paper's decoding", length=16_384, reach=50, at_least=True),
        "focus",
        "paper",
        _TOKEN_RATIO,
    ),
    (
        Target(
            name="second question at {length} against the first, reading included",
            length=32_768,
            reach=20,
            at_least=True,
        ),
        "focus",
        "focus",
        _ratio("first_seconds", "second_seconds"),
    ),
    (
        Target(name="seconds to reopen {length} in a new process", length=131_072, reach=3, at_least=False, unit=" s"),
        "focus",
        "focus",
        lambda ours, _: ours.get("reopen_seconds"),
    ),
    (
        Target(
            name="peak memory at {length} against the keys and values' own bytes",
            length=131_072,
            reach=1.15,
            at_least=False,
        ),
        "focus",
        "focus",
        _ratio("peak_bytes", "kv_bytes"),
    ),
    (
        Target(
            name="peak memory at {length} in 8 bits against the keys and values as computed",
            length=131_072,
            reach=0.65,
            at_least=False,
        ),
        "int8",
        "int8",
        _ratio("peak_bytes", "kv_bytes_as_computed"),
    ),
    (
        Target(name="a token at {length} in 8 bits against as computed", length=131_072, reach=1, at_least=True),
        "int8",
        "focus",
        _TOKEN_RATIO,
    ),
    (
        Target(name="pass keys told out of {length}, reopened", length=409_600, reach=1, at_least=True, unit="%"),
        "far",
        "far",
        lambda ours, _: float(ours["right"]) if "right" in ours else None,
    ),
    (
        Target(
            name="memory of each process that reads, stores, reopens and asks {length}",
            length=409_600,
            reach=20,
            at_least=False,
            unit=" GB",
        ),
        "far",
        "far",
        lambda ours, _: _gigabytes(ours, "process_bytes", "reopened_process_bytes"),
    ),
)
_SHARE = Target(
    name="share of the machine's matrix products while reading {length}",
    length=32_768,
    reach=0.75,
    at_least=True,
    unit="%",
)
_GROWTH = Target(name="reading {length} against reading a quarter of it", length=131_072, reach=4.3, at_least=False)


def reached(results: Mapping[str, Any]) -> Iterator[Reached]:
    """What was measured for every target, in chunks of every size.

    A target for a length that was not measured is told for the longest one that was, and says so.
    """
    by: dict[str, dict[int, dict[int, Row]]] = {}
    for row in results["rows"].values():
        if "error" not in row:
            by.setdefault(row["contender"], {}).setdefault(row["chunk_size"], {})[row["length"]] = row
    for target, contender, other, figure in _COMPARED:
        for size, own in by.get(contender, {}).items():
            against = by.get(other, {})
            beside = against.get(size) or against.get(0, {})
            lengths = own.keys() & beside.keys()
            yield _nearest(target, size, {length: figure(own[length], beside[length]) for length in lengths})
    ours = by.get("focus", {})
    for size, own in ours.items():
        yield _nearest(_SHARE, size, {length: reading_share(row, results) for length, row in own.items()})
    for size, own in ours.items():
        grown = {length: _READ_RATIO(own[length // 4], row) for length, row in own.items() if length // 4 in own}
        yield _nearest(_GROWTH, size, grown)


def _nearest(target: Target, size: int, figures: Mapping[int, float | None]) -> Reached:
    """The figure at the target's length, else at the longest one that there is."""
    known = {length: figure for length, figure in figures.items() if figure is not None}
    if not known:
        return Reached(target=target, chunk_size=size)
    length = target.length if target.length in known else max(known)
    return Reached(target=target, chunk_size=size, length=length, figure=known[length])
