"""Seconds a token over a cluster: measured on one machine, reckoned for up to 100 million tokens and 256 hosts.

    python benchmarks/cluster_model.py points.json --measure ../shared/data/books/36_the_war_of_the_worlds.txt
    python benchmarks/cluster_model.py points.json --plot cluster.png

The first command measures the default model without a reader, with holders of one thread each, and writes points.json.
Nothing else should run at the same time. The second one fits the costs below to the points of 1 and 2 holders, by
non-negative least squares of the relative errors; prints every measured point beside what they say of it; and prints,
and draws, larger clusters. A token is one step. Its seconds are the sum of

- sweep: (sweep_fixed + sweep_per_chunk * chunks of the holder that has most) * holders to a core, at least 1;
- network: one round trip to all holders at once, and a key and a value of each chunk and layer through the head's link;
- head: messages, call_fixed + per_call * holders + per_byte * bytes; and the local rows, head_fixed +
  head_per_candidate * all chunks.

A point has the seconds of a token; of the calls to holders in it; of a call that does nothing (ping); and of one that
brings as many bytes without a sweep (exchange). From a token alone, these costs could not be told apart.

In the table, a host is one holder, and sweeps --host-speed times as fast as one thread of the measured machine; the
head is that machine. Left out are reading, losses, the reader model, answers from few active chunks, a head that is a
GPU, how far the slowest of many hosts is behind the others, the memory bandwidth that holders on one machine share, and
whether the chunks fit in the hosts' memory and the candidates of a step in the head's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from focusdoc import Document, FocusEngine
from focusdoc.cluster.head import Call, Cluster
from focusdoc.cluster.reading import PART_CHUNKS, RemoteBlock, placed
from focusdoc.container import num_cpus
from focusdoc.errors import ConfigError, FocusdocError
from focusdoc.evaluation.loading import needed
from focusdoc.evaluation.page import lines

QUESTION = "Where did the first cylinder fall?"
TOKENS = (33_000, 100_000, 330_000, 1_000_000, 3_300_000, 10_000_000, 33_000_000, 100_000_000)
HOSTS = (1, 4, 16, 64, 256)
#: The costs are fitted to points of so many holders.
FITTED = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step works on.

    Attributes:
        holders: those that keep chunks.
        cores: of the machines of these holders.
        chunks: of all holders.
        largest: chunks of the holder that has most.
        candidate_bytes: see `candidate_bytes`.
    """

    holders: int
    cores: int
    chunks: int
    largest: int
    candidate_bytes: int

    @property
    def sharing(self) -> float:
        """Holders to a core, at least 1."""
        return max(1.0, self.holders / self.cores)

    @property
    def traffic(self) -> int:
        """Bytes of all candidates."""
        return self.chunks * self.candidate_bytes


@dataclass(frozen=True, kw_only=True)
class Point(Step):
    """A measured step; `token`, `call`, `exchange` and `ping` are seconds, see the top of this file."""

    tokens: int
    chunk_size: int
    token: float
    call: float
    exchange: float
    ping: float


@dataclass(frozen=True)
class Costs:
    """What the model multiplies, in seconds; see the top of this file."""

    sweep_fixed: float
    sweep_per_chunk: float
    call_fixed: float
    per_call: float
    per_byte: float
    head_fixed: float
    head_per_candidate: float


@dataclass(frozen=True)
class Seconds:
    """Seconds of a step, by what takes them."""

    sweep: float
    network: float
    head: float

    @property
    def total(self) -> float:
        """Seconds a token."""
        return self.sweep + self.network + self.head

    @property
    def bound(self) -> str:
        """The name of what takes longest."""
        parts = asdict(self)
        return max(parts, key=parts.__getitem__)


def candidate_bytes(num_layers: int, num_kv_heads: int, head_dim: int, number_bytes: int) -> int:
    """Bytes of a candidate's keys and values, which is also what a document takes for each token."""
    return 2 * num_layers * num_kv_heads * head_dim * number_bytes


def spread(tokens: int, hosts: int, like: Point) -> Step:
    """A step over a document of so many tokens, cut into parts and placed as the reader does, a holder to each host."""
    size = PART_CHUNKS * like.chunk_size
    sizes = [min(size, tokens - start) for start in range(0, tokens, size)]
    shares: Counter[int] = Counter()
    for part, holder in zip(sizes, placed(sizes, [1.0] * hosts), strict=True):
        shares[holder] += math.ceil(part / like.chunk_size)
    return Step(
        holders=len(shares),
        cores=len(shares),
        chunks=shares.total(),
        largest=max(shares.values()),
        candidate_bytes=like.candidate_bytes,
    )


def predicted(
    costs: Costs, step: Step, *, latency: float = 0.0, bandwidth: float = math.inf, host_speed: float = 1.0
) -> Seconds:
    """What a step takes; by default without a network, as on one machine."""
    messages = costs.call_fixed + costs.per_call * step.holders + costs.per_byte * step.traffic
    return Seconds(
        sweep=step.sharing * (costs.sweep_fixed + costs.sweep_per_chunk * step.largest) / host_speed,
        network=latency + step.traffic / bandwidth,
        head=messages + costs.head_fixed + costs.head_per_candidate * step.chunks,
    )


def fit(points: Sequence[Point]) -> Costs:
    """The costs that explain these points best, each with the same relative weight.

    Raises:
        ConfigError: the points are too few or too alike.
    """
    equations: list[tuple[list[float], float]] = []
    for point in points:
        sweep = [point.sharing, point.sharing * point.largest]
        message = [1.0, point.holders, point.traffic]
        equations += [
            ([0.0, 0.0, 1.0, point.holders, 0.0, 0.0, 0.0], point.ping),
            ([0.0, 0.0, *message, 0.0, 0.0], point.exchange),
            ([*sweep, *message, 0.0, 0.0], point.call),
            ([0.0] * 5 + [1.0, point.chunks], point.token - point.call),
        ]
    matrix = np.array([[factor / seconds for factor in factors] for factors, seconds in equations])
    if not points or np.linalg.matrix_rank(matrix / np.linalg.norm(matrix, axis=0)) < matrix.shape[1]:
        raise ConfigError(
            f"{len(points)} points of {FITTED[0]} and {FITTED[1]} holders do not tell the costs apart; measure two or "
            "more lengths with each, of which some are spread over both holders."
        )
    return Costs(*_non_negative(matrix).tolist())


def _non_negative(matrix: Any) -> Any:
    """The factors from 0 on that bring the rows of `matrix` nearest to 1; every choice of columns is tried."""
    sizes = np.linalg.norm(matrix, axis=0)
    scaled, ones = matrix / sizes, np.ones(len(matrix))
    best, least = np.zeros(len(sizes)), math.inf
    for chosen in itertools.product((False, True), repeat=len(sizes)):
        factors = np.zeros(len(sizes))
        factors[list(chosen)] = np.linalg.lstsq(scaled[:, list(chosen)], ones, rcond=None)[0]
        error = float(np.linalg.norm(scaled @ factors - ones))
        if factors.min() >= 0 and error < least:
            best, least = factors, error
    return best / sizes


def load(path: Path) -> list[Point]:
    """The points of a file.

    Raises:
        ConfigError: it is missing, or is not one that --measure writes.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} has no points ({error}); write it with --measure.") from error
    if not isinstance(rows, list):
        raise ConfigError(f"{path} is no list of points; write it with --measure.")
    names = [field.name for field in fields(Point)]
    for number, row in enumerate(rows, 1):
        values = row if isinstance(row, dict) else {}
        wrong = [name for name in names if not (isinstance(values.get(name), int | float) and values[name] > 0)]
        if wrong:
            raise ConfigError(
                f"Point {number} of {path} has no positive number as {', '.join(wrong)}; write it with --measure."
            )
        if row["token"] <= row["call"]:
            raise ConfigError(
                f"Point {number} of {path} has calls that take longer than their token; measure it again."
            )
    return [Point(**{name: row[name] for name in names}) for row in rows]


class Timed(Cluster):
    """A cluster that notes the seconds of the calls that are steps."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.holders)
        self.seconds: list[float] = []

    def call(self, calls: Mapping[int, Call], *args: Any, **kwargs: Any) -> dict[int, Any]:
        """See `Cluster.call`."""
        begun = time.perf_counter()
        found = super().call(calls, *args, **kwargs)
        if any(method == "condense" for method, _ in calls.values()):
            self.seconds.append(time.perf_counter() - begun)
        return found


class Echo:
    """A process that sends candidates of zeros, without a sweep."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._candidates = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)

    def call(self) -> tuple[Tensor, Tensor]:
        """Their keys and values."""
        return self._candidates


def median_seconds(action: Callable[[], object], rounds: int = 30) -> float:
    """Seconds of an action, after three that warm it up."""
    seconds = []
    for _ in range(3 + rounds):
        begun = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[3:])


def exchange_seconds(base: Any, shares: Sequence[int]) -> float:
    """Seconds to receive the candidates of so many chunks from each of several processes."""
    import ray

    actors = []
    for share in shares:
        shape = (base.num_layers, base.num_kv_heads, share, base.head_dim)
        actors.append(ray.remote(num_cpus=0, max_concurrency=64)(Echo).remote(shape, base.dtype))

    def exchange() -> None:
        references = [actor.call.remote() for actor in actors]
        ray.wait(references, num_returns=len(references))
        for reference in references:
            ray.get(reference)

    found = median_seconds(exchange)
    for actor in actors:
        ray.kill(actor)
    return found


def measured(engine: FocusEngine, cluster: Timed, document: Document, new_tokens: int, rounds: int) -> Point:
    """A point: the document is read, and answers are timed."""
    memory = engine.read(document, progress=lambda done, total: None)
    engine.ask(memory, QUESTION, max_new_tokens=2)
    tokens, calls = [], []
    for _ in range(rounds):
        cluster.seconds.clear()
        answer = engine.ask(memory, QUESTION, max_new_tokens=new_tokens, ignore_eos=True)
        tokens.append(answer.timings.decode / (len(answer.token_ids) - 1))
        calls.append(statistics.mean(cluster.seconds[1:]))
    shares: Counter[int] = Counter()
    for block in memory.blocks:
        assert isinstance(block, RemoteBlock)
        shares[cluster.holder_of(block.part)] += block.num_chunks
    base = engine.base
    return Point(
        holders=len(shares),
        cores=num_cpus(),
        chunks=shares.total(),
        largest=max(shares.values()),
        candidate_bytes=candidate_bytes(base.num_layers, base.num_kv_heads, base.head_dim, base.dtype.itemsize),
        tokens=memory.num_tokens,
        chunk_size=max(block.chunk_len for block in memory.blocks),
        token=statistics.median(tokens),
        call=statistics.median(calls),
        exchange=exchange_seconds(base, list(shares.values())),
        ping=median_seconds(lambda: cluster.call({index: ("num_stored", ((),)) for index in shares})),
    )


def measurements(args: argparse.Namespace) -> Iterator[Point]:
    """The points of every number of holders and every length."""
    import ray

    text = args.measure.read_text(encoding="utf-8")
    threads = torch.get_num_threads()
    for holders in args.holders:
        torch.set_num_threads(1)  # so that a holder has one
        engine = FocusEngine.from_pretrained(reader=None, store=None, cluster=holders)
        torch.set_num_threads(threads)
        assert engine.cluster is not None
        cluster = engine.cluster = Timed(engine.cluster)
        for tokens in args.tokens:
            document = Document.from_text((text * (1 + tokens * 5 // len(text)))[: tokens * 4])
            yield measured(engine, cluster, document, args.new_tokens, args.rounds)
        cluster.holders.close()
        ray.shutdown()


def report(points: Sequence[Point], plot: Path | None, **hosts: float) -> None:
    """Print the costs, the measured points and larger clusters, and draw these; `hosts` as for `predicted`."""
    costs = fit([point for point in points if point.holders in FITTED])
    for name, seconds in asdict(costs).items():
        print(f"{name}: {seconds:.3g} s")
    print("\n| tokens | holders | measured, s | predicted, s | error | |\n|---|---|---|---|---|---|")
    for point in points:
        seconds = predicted(costs, point).total
        fitted = "fitted" if point.holders in FITTED else "not fitted"
        error = f"{seconds / point.token - 1:+.1%}"
        print(f"| {point.tokens:,} | {point.holders} | {point.token:.4f} | {seconds:.4f} | {error} | {fitted} |")
    print("\n| tokens | hosts | a token, s | sweep | network | head | bound by | GB a host |\n|" + "---|" * 8)
    drawn: dict[str, dict[float, float]] = {f"{count} host{'s' * (count > 1)}": {} for count in HOSTS}
    for tokens, (name, count) in itertools.product(TOKENS, zip(drawn, HOSTS, strict=True)):
        step = spread(tokens, count, points[0])
        found = predicted(costs, step, **hosts)
        drawn[name][tokens / 1000] = found.total
        parts = " | ".join(f"{each:.4f}" for each in (found.total, found.sweep, found.network, found.head))
        kept = step.largest * points[0].chunk_size * step.candidate_bytes / 1e9
        print(f"| {tokens:,} | {count} | {parts} | {found.bound} | {kept:,.1f} |")
    if plot is not None:
        table = needed("pandas", "plot").DataFrame(drawn)
        plot.write_bytes(lines(table, title="Seconds a token", x="document, thousands of tokens", y="s", log_y=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=Path, help="JSON file of measured points")
    parser.add_argument("--measure", type=Path, metavar="TEXT", help="measure with this text, and write the points")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 16_384, 32_768, 65_536])
    parser.add_argument("--holders", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.0002, help="seconds of a round trip")
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="bytes/s of the head's link")
    parser.add_argument("--host-speed", type=float, default=1.0, help="of a host's sweep, to one thread's measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args(arguments)
    try:
        if args.measure is None:
            hosts = {"latency": args.latency, "bandwidth": args.bandwidth, "host_speed": args.host_speed}
            report(load(args.points), args.plot, **hosts)
            return
        points: list[dict[str, Any]] = []
        for point in measurements(args):
            points.append(asdict(point))
            print(json.dumps(points[-1]), flush=True)
            args.points.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    except FocusdocError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
