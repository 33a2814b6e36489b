"""Shares of the roofline, figures against their targets, and the report over both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from focusdoc.benchmark.report import markdown, series, write_report
from focusdoc.benchmark.roofline import decoding_share, reading_share, step_bytes
from focusdoc.benchmark.targets import reached


class TestRoofline:
    def test_reading_counts_the_operations_of_linear_layers_over_time(self, results: dict[str, Any]) -> None:
        # 8,192 tokens of 1e6 operations in 10 s, on a machine of 1e9 a second
        assert reading_share(results["rows"]["focus/8192/1024"], results) == pytest.approx(0.8192)
        assert reading_share(results["rows"]["full/8192/0"], results) == pytest.approx(0.8192 / 3)

    def test_decoding_counts_the_bytes_that_a_step_must_read(self, results: dict[str, Any]) -> None:
        ours, full = results["rows"]["focus/8192/1024"], results["rows"]["full/8192/0"]
        assert step_bytes(ours, results["configuration"]) == 12_000_000 + ours["kv_bytes"]
        assert step_bytes(full, results["configuration"]) == 10_000_000 + full["kv_bytes"]
        # (12e6 + 8.192e6) bytes in 0.1 s, on a machine of 1e9 a second
        assert decoding_share(ours, results) == pytest.approx(0.20192)

    def test_of_others_weights_nothing_is_claimed(self, results: dict[str, Any]) -> None:
        llama = {"contender": "llama.cpp", "tokens": 8192, "read_seconds": 9.0, "token_seconds": 0.1}
        assert reading_share(llama, results) is None
        assert decoding_share(llama, results) is None
        assert decoding_share(results["rows"]["paper/8192/0"], results) is None


class TestTargets:
    def figures(self, results: dict[str, Any]) -> dict[str, tuple[int | None, float | None]]:
        return {found.target.name: (found.length, found.figure) for found in reached(results)}

    def test_are_ratios_at_their_own_length_or_the_longest_measured(self, results: dict[str, Any]) -> None:
        figures = self.figures(results)
        assert figures["reading {length} against transformers' full attention"] == (8192, pytest.approx(3.0))
        assert figures["a token at {length} against transformers' full attention"] == (8192, pytest.approx(3.0))
        assert figures["a token at {length} against the paper's decoding"] == (8192, pytest.approx(40.0))
        assert figures["a token at {length} against llama.cpp (4-bit weights)"] == (None, None)
        second = figures["second question at {length} against the first, reading included"]
        assert second == (32_768, pytest.approx(42.0))
        memory = figures["peak memory at {length} against the keys and values' own bytes"]
        assert memory == (32_768, pytest.approx(1.1))
        assert figures["reading {length} against reading a quarter of it"] == (32_768, pytest.approx(4.1))
        assert figures["seconds to reopen {length} in a new process"] == (32_768, 0.4)

    def test_in_8_bits_are_taken_of_the_bytes_as_computed_and_of_the_same_chunk_size(
        self, results: dict[str, Any]
    ) -> None:
        memory = "peak memory at {length} in 8 bits against the keys and values as computed"
        token = "a token at {length} in 8 bits against as computed"
        assert memory not in self.figures(results)
        ours = results["rows"]["focus/32768/1024"]
        small = {**ours, "contender": "int8", "peak_bytes": 600, "kv_bytes": 520, "kv_bytes_as_computed": 1000}
        results["rows"]["int8/32768/1024"] = {**small, "token_seconds": 0.16}
        results["rows"]["int8/32768/2048"] = {**small, "chunk_size": 2048}
        found = {(one.target.name, one.chunk_size): one.figure for one in reached(results)}
        assert found[memory, 1024] == pytest.approx(0.6)
        assert found[token, 1024] == pytest.approx(0.2 / 0.16)
        assert found[token, 2048] is None

    @pytest.mark.parametrize(("right", "figure", "verdict"), [(True, "100%", "met"), (False, "0%", "missed")])
    def test_far_tells_the_key_and_the_larger_process(
        self, results: dict[str, Any], right: bool, figure: str, verdict: str
    ) -> None:
        results["rows"]["far/409600/1024"] = {
            "contender": "far", "length": 409_600, "chunk_size": 1024, "tokens": 409_623, "read_seconds": 500.0,
            "process_bytes": 12e9, "reopened_process_bytes": 13e9, "right": right,
        }  # fmt: skip
        text = markdown(results)
        assert (
            f"| pass keys told out of 400K, reopened | 1,024 | {figure} | at least 100% at 400K | {verdict} |" in text
        )
        assert "reopens and asks 400K | 1,024 | 13 GB | at most 20 GB at 400K | met |" in text
        assert f"| {'right' if right else 'wrong'} |" in text

    def test_are_met_from_below_or_from_above(self, results: dict[str, Any]) -> None:
        targets = {found.target.name: found.target for found in reached(results)}
        faster = targets["reading {length} against transformers' full attention"]
        assert [faster.met(figure) for figure in (7.9, 8.0, 9.0)] == [False, True, True]
        longer = targets["reading {length} against reading a quarter of it"]
        assert [longer.met(figure) for figure in (4.2, 4.3, 4.4)] == [True, True, False]
        assert str(longer) == "at most 4.3x at 128K"


class TestMarkdown:
    def test_tells_targets_measurements_and_what_is_missing(self, results: dict[str, Any]) -> None:
        text = markdown(results)
        assert (
            "| second question at 32K against the first, reading included | 1,024 | 42x | at least 20x at 32K | met |"
            in text
        )
        assert (
            "| reading 8K against transformers' full attention | 1,024 | 3x | at least 8x at 32K | other length |"
            in text
        )
        assert (
            "| a token at 8K against llama.cpp (4-bit weights) | 1,024 | - | at least 1x at 8K | not measured |" in text
        )
        assert "| focus, chunks of 1,024 | 8,192 | 10 | 819 | 11 | 0.5 | 0.1 |" in text
        assert "- full at 32,768 tokens: its limit was set to 16,384" in text
        assert "- llama.cpp at 8K failed: no room \\| at all" in text
        assert "1 GFLOP/s in matrix products, 1.0 GB/s from memory" in text

    def test_leaves_out_columns_that_nothing_was_measured_for(self, results: dict[str, Any]) -> None:
        assert "reopened, s" in markdown(results)
        del results["rows"]["focus/32768/1024"]
        assert "reopened, s" not in markdown(results)

    def test_of_a_run_in_which_all_failed_is_still_a_report(self, results: dict[str, Any]) -> None:
        results["rows"] = {"llama.cpp/8192/0": results["rows"]["llama.cpp/8192/0"]}
        assert "failed: no room" in markdown(results)


class TestFigures:
    def test_have_a_line_for_each_contender_and_chunk_size(self, results: dict[str, Any]) -> None:
        assert series(results, "token.png") == {
            "focus, chunks of 1,024": {8192: 0.1, 32_768: 0.2},
            "full": {8192: 0.3},
            "paper": {8192: 4.0},
        }
        assert series(results, "second_question.png")["focus, chunks of 1,024"] == {8192: 0.5, 32_768: 1.0}
        assert series(results, "memory.png").keys() == {"focus, chunks of 1,024", "full"}

    def test_are_written_beside_the_report(self, results: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "bench.json").write_text(json.dumps(results))
        written = write_report(tmp_path)
        assert [path.name for path in written] == [
            "bench.md",
            "memory.png",
            "first_token.png",
            "second_question.png",
            "token.png",
        ]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])
        assert "![Each further token](token.png)" in written[0].read_text()
