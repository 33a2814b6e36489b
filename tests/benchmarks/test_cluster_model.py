"""The model of a cluster: its costs are found again, and its rows add up. Nothing is measured."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path

import cluster_model
import pytest
from cluster_model import Costs, Point, Seconds, Step, candidate_bytes, fit, load, predicted, spread

from focusdoc.errors import ConfigError

COSTS = Costs(0.004, 0.0065, 0.0012, 0.0004, 3e-10, 0.03, 1e-5)


def point(chunks: int, holders: int, costs: Costs = COSTS) -> Point:
    """What would be measured at these costs, on two cores."""
    step = Step(holders=holders, cores=2, chunks=chunks, largest=-(-chunks // holders), candidate_bytes=23_040)
    found, ping = predicted(costs, step), costs.call_fixed + costs.per_call * holders
    exchange = ping + costs.per_byte * step.traffic
    return Point(
        **asdict(step),
        tokens=chunks * 1024,
        chunk_size=1024,
        token=found.total,
        call=found.sweep + exchange,
        exchange=exchange,
        ping=ping,
    )


POINTS = [point(chunks, holders) for chunks in (16, 33, 66) for holders in (1, 2)]


@pytest.mark.parametrize("without", [None, *(field.name for field in fields(Costs))])
def test_the_costs_that_made_the_points_are_found_again(without: str | None) -> None:
    costs = replace(COSTS, **({without: 0.0} if without else {}))
    found = fit([point(each.chunks, each.holders, costs) for each in POINTS])
    assert astuple(found) == pytest.approx(astuple(costs), rel=1e-6, abs=1e-14)


def test_no_cost_is_negative_where_the_points_ask_for_one() -> None:
    found = fit([replace(each, ping=each.ping / each.holders**2) for each in POINTS])
    assert found.per_call == 0
    assert min(astuple(found)) >= 0


def test_holders_share_the_cores_of_their_machine() -> None:
    two, four = (predicted(COSTS, replace(POINTS[0], holders=holders, largest=8)) for holders in (2, 4))
    assert four.sweep == 2 * two.sweep


@pytest.mark.parametrize("tokens", cluster_model.TOKENS)
def test_more_hosts_never_make_the_sweep_slower(tokens: int) -> None:
    hosts = range(1, 257) if tokens < 1_000_000 else cluster_model.HOSTS
    sweeps = [predicted(COSTS, spread(tokens, count, POINTS[0])).sweep for count in hosts]
    assert sweeps == sorted(sweeps, reverse=True)


def test_a_host_takes_whole_parts() -> None:
    # 33 chunks are four parts of 8 and one of a single chunk.
    steps = [spread(33_000, hosts, POINTS[0]) for hosts in (1, 4, 16)]
    assert [(step.chunks, step.largest, step.holders) for step in steps] == [(33, 33, 1), (33, 9, 4), (33, 8, 5)]


def test_a_candidate_of_the_default_model_is_23_kilobytes() -> None:
    assert candidate_bytes(num_layers=30, num_kv_heads=3, head_dim=64, number_bytes=2) == 23_040


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [(Seconds(3.0, 1.0, 2.0), "sweep"), (Seconds(1.0, 3.0, 2.0), "network"), (Seconds(1.0, 2.0, 3.0), "head")],
)
def test_what_takes_longest_bounds_a_step(seconds: Seconds, bound: str) -> None:
    assert (seconds.bound, seconds.total) == (bound, 6.0)


def test_all_candidates_come_through_one_link() -> None:
    step = spread(10_000_000, 64, POINTS[0])
    assert predicted(COSTS, step, latency=0.5, bandwidth=1e6).network == 0.5 + step.chunks * 23_040 / 1e6


def test_points_of_one_length_or_one_number_of_holders_are_too_few() -> None:
    for few in ([], POINTS[:2], [each for each in POINTS if each.holders == 1]):
        with pytest.raises(ConfigError, match=f"{len(few)} points .* measure two or more lengths"):
            fit(few)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "points.json has no points"),
        ("{}", "points.json is no list of points"),
        (
            json.dumps([asdict(POINTS[0]), {"holders": 1, "ping": "fast"}]),
            "Point 2 of .* as cores, .*, exchange, ping;",
        ),
        (json.dumps([asdict(replace(POINTS[0], call=9.0))]), "Point 1 of .* longer than their token"),
    ],
)
def test_a_file_that_lacks_fields_is_told(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "points.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(file)


def test_it_reports_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, plot = tmp_path / "points.json", tmp_path / "cluster.png"
    slower = replace(point(66, 4), token=point(66, 4).token * 1.25)
    file.write_text(json.dumps([asdict(each) for each in (*POINTS, slower)]))
    cluster_model.main([str(file), "--plot", str(plot), "--bandwidth", "1e6"])
    shown = capsys.readouterr().out
    assert "sweep_per_chunk: 0.0065 s" in shown
    assert shown.count("| +0.0% | fitted |") + shown.count("| -0.0% | fitted |") == len(POINTS)
    assert "| -20.0% | not fitted |" in shown
    rows = [line for line in shown.splitlines() if line.startswith("| 100,000,000 |")]
    assert [row.split(" | ")[6] for row in rows] == ["network"] * 5
    assert plot.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        cluster_model.main([str(tmp_path / "none.json")])
    assert "write it with --measure" in capsys.readouterr().err
