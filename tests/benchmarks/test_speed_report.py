"""Shares of the roofline, figures against their targets, and the report over both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from benchmark_samples import row

from benchmarks.speed.report import TARGETS, figures, measured, sections, series, write_report
from focusdoc.evaluation.results import Results

OMITTED = ["full at 32,768 tokens: its limit was set to 16,384"]


def with_rows(results: Results, *rows: dict[str, Any]) -> Results:
    return replace(results, rows=[*results.rows, *rows])


def at(table: pd.DataFrame, task: str, length: int) -> pd.Series:
    (found,) = table[(table["task"] == task) & (table["length"] == length)].iloc
    return found


def figure(results: Results, name: str) -> list[tuple[int, int | None, float | None]]:
    (target,) = (target for target in TARGETS if target.name == name)
    return list(figures(measured(results), target))


class TestRoofline:
    def test_reading_counts_the_operations_of_linear_layers_over_time(self, results: Results) -> None:
        # 8,192 tokens of 1e6 operations in 10 s, on a machine of 1e9 a second
        assert at(measured(results), "focus", 8192)["products"] == pytest.approx(0.8192)
        assert at(measured(results), "full", 8192)["products"] == pytest.approx(0.8192 / 3)

    def test_a_look_counts_the_layers_that_it_reads(self, results: Results) -> None:
        look = row("look", 8192, 1024, read_seconds=10.0, kv_bytes=600, kv_bytes_as_computed=1000)
        found = at(measured(with_rows(results, look)), "look", 8192)
        assert found["products"] == pytest.approx(0.8192 * 0.6)

    def test_decoding_counts_the_bytes_that_a_step_must_read(self, results: Results) -> None:
        # (10e6 + 2e6 of candidates + 8.192e6) bytes in 0.1 s, on a machine of 1e9 a second
        assert at(measured(results), "focus", 8192)["of_bandwidth"] == pytest.approx(0.20192)
        assert at(measured(results), "full", 8192)["of_bandwidth"] == pytest.approx(0.018192 / 0.3)

    def test_of_others_weights_nothing_is_claimed(self, results: Results) -> None:
        llama = row("llama.cpp", 4096, read_seconds=9.0, token_seconds=0.1, kv_bytes=1)
        table = measured(with_rows(results, llama))
        for task, length in (("llama.cpp", 4096), ("paper", 8192)):
            assert at(table, task, length)[["products", "of_bandwidth"]].isna().all()


class TestTargets:
    def test_are_ratios_at_their_own_length_or_the_longest_measured(self, results: Results) -> None:
        assert figure(results, "reading {} against transformers' full attention") == [(1024, 8192, pytest.approx(3.0))]
        assert figure(results, "a token at {} against transformers' full attention") == [(1024, 8192, pytest.approx(3))]
        assert figure(results, "a token at {} against the paper's decoding") == [(1024, 8192, pytest.approx(40.0))]
        assert figure(results, "a token at {} against llama.cpp (4-bit weights)") == [(1024, None, None)]
        second = figure(results, "second question at {} against the first, reading included")
        assert second == [(1024, 32_768, pytest.approx(42.0))]
        memory = figure(results, "peak memory at {} against the keys and values' own bytes")
        assert memory == [(1024, 32_768, pytest.approx(1.1))]
        assert figure(results, "reading {} against reading a quarter of it") == [(1024, 32_768, pytest.approx(4.1))]
        assert figure(results, "seconds to reopen {} in a new process") == [(1024, 32_768, 0.4)]

    def test_in_8_bits_are_taken_of_the_bytes_as_computed_and_of_the_same_chunk_size(self, results: Results) -> None:
        memory = "peak memory at {} in 8 bits against the keys and values as computed"
        assert figure(results, memory) == []
        small = {"read_seconds": 1.0, "peak_bytes": 600, "kv_bytes": 520, "kv_bytes_as_computed": 1000}
        both = with_rows(
            results,
            row("int8", 32_768, 1024, token_seconds=0.16, **small),
            row("int8", 32_768, 2048, token_seconds=0.2, **small),
        )
        assert figure(both, memory) == [(size, 32_768, pytest.approx(0.6)) for size in (1024, 2048)]
        token = figure(both, "a token at {} in 8 bits against as computed")
        assert token == [(1024, 32_768, pytest.approx(0.2 / 0.16)), (2048, None, None)]

    @pytest.mark.parametrize(("right", "told", "verdict"), [(True, "100%", "met"), (False, "0%", "missed")])
    def test_far_tells_the_key_and_the_larger_process(
        self, results: Results, right: bool, told: str, verdict: str
    ) -> None:
        far = row(
            "far", 409_600, 1024, read_seconds=500.0, process_bytes=12e9, reopened_process_bytes=13e9, right=right
        )
        targets, measurements = sections(with_rows(results, far), OMITTED)
        assert [
            "pass keys found in 400K, reopened",
            "1,024",
            told,
            "at least 100% at 400K",
            verdict,
        ] in targets.rows
        process = "memory of each process that reads, stores, reopens and asks 400K"
        assert [process, "1,024", "13 GB", "at most 20 GB at 400K", "met"] in targets.rows
        assert measurements.rows[-1][list(measurements.header).index("pass keys found")] == told

    def test_are_met_from_below_or_from_above(self) -> None:
        faster, longer = TARGETS[0], TARGETS[-1]
        assert [faster.met(figure) for figure in (7.9, 8.0, 9.0)] == [False, True, True]
        assert [longer.met(figure) for figure in (4.2, 4.3, 4.4)] == [True, True, False]
        assert str(longer) == "at most 4.3x at 128K"


class TestReport:
    def test_tells_targets_measurements_and_what_is_missing(self, results: Results) -> None:
        write_report(results.folder, OMITTED)
        text = (results.folder / "bench.md").read_text(encoding="utf-8")
        for line in (
            "| second question at 32K against the first, reading included | 1,024 | 42x | at least 20x at 32K | met |",
            "| reading 8K against transformers' full attention | 1,024 | 3x | at least 8x at 32K | other length |",
            "| a token at 8K against llama.cpp (4-bit weights) | 1,024 | - | at least 1x at 8K | not measured |",
            "| focus, chunks of 1,024 | 8,192 | 10 | 819 | 11 | 0.5 | 0.1 |",
            "- Not measured: full at 32,768 tokens: its limit was set to 16,384",
            "- Not measured: llama.cpp at 8K failed: no room \\| at all",
            "1 GFLOP/s in matrix products, 1.0 GB/s from memory",
        ):
            assert line in text

    def test_leaves_out_columns_that_nothing_was_measured_for(self, results: Results) -> None:
        assert "reopened, s" in sections(results, OMITTED)[1].header
        shorter = replace(results, rows=[one for one in results.rows if "reopen_seconds" not in one])
        assert "reopened, s" not in sections(shorter, OMITTED)[1].header

    def test_of_a_run_in_which_all_failed_is_still_a_report(self, results: Results) -> None:
        failed = [one for one in results.rows if one["task"] in ("machine", "llama.cpp")]
        targets, measurements = sections(replace(results, rows=failed), OMITTED)
        assert (targets.rows, measurements.rows, measurements.plots) == ([], [], [])
        assert "failed: no room" in measurements.notes[-1]

    def test_a_figure_has_a_line_for_each_contender_and_chunk_size(self, results: Results) -> None:
        def shown(column: str) -> dict[str, dict[int, float]]:
            return {name: line.dropna().to_dict() for name, line in series(measured(results), column).items()}

        assert shown("token_seconds") == {
            "focus, chunks of 1,024": {8192: 0.1, 32_768: 0.2},
            "full": {8192: 0.3},
            "paper": {8192: 4.0},
        }
        assert shown("second_seconds") == {"focus, chunks of 1,024": {8192: 0.5, 32_768: 1.0}}
        assert shown("peak_mib").keys() == {"focus, chunks of 1,024", "full"}

    def test_figures_are_written_beside_it(self, results: Results) -> None:
        written = write_report(results.folder, OMITTED)
        *pictures, text, page = written
        names = ["memory.png", "first_token.png", "second_question.png", "token.png"]
        assert [path.name for path in written] == [*names, "bench.md", "bench.html"]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
        assert "![Each further token](token.png)" in text.read_text()
        assert "data:image/png" in page.read_text()
