"""Rows on disk: written as they come, resumed, sharded, merged; torn, damaged and foreign files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from focusdoc.errors import EvaluationError, FocusdocError
from focusdoc.evaluation.results import Progress, ResultFolder, Results, Shard, merge, open_all, read_rows_of, run

CONFIG = {"benchmark": "passkey", "mode": "focus", "chunk_size": 64}


@dataclass(frozen=True)
class Job:
    id: str
    task: str = "passkey"
    facts: Mapping[str, Any] = field(default_factory=lambda: {"length": 1024})


JOBS = [Job(f"job-{number}") for number in range(7)]


class Worker:
    """Answers jobs, counts them, and fails where it is told to."""

    def __init__(self, *failing: str) -> None:
        self.failing = set(failing)
        self.asked: list[str] = []

    def __call__(self, job: Job) -> Mapping[str, Any]:
        self.asked.append(job.id)
        if job.id in self.failing:
            raise RuntimeError(f"{job.id} broke")
        return {"prediction": job.id[-1], "answers": [job.id[-1]]}


def folder(tmp_path: Path, **changes: Any) -> ResultFolder:
    return ResultFolder(tmp_path / "results", {**CONFIG, **changes})


def ids(tmp_path: Path) -> list[str]:
    return [row["id"] for row in read_rows_of(tmp_path / "results")]


def test_a_row_for_every_item_as_it_finishes(tmp_path: Path) -> None:
    results = folder(tmp_path)
    written: list[int] = []

    def work(job: Job) -> Mapping[str, Any]:
        path = results.path / "rows.jsonl"
        written.append(len(path.read_text().splitlines()) if path.exists() else 0)
        return {"prediction": "1", "answers": ["1"]}

    run(JOBS, work, results)
    assert written == list(range(7))
    assert ids(tmp_path) == [job.id for job in JOBS]
    row = read_rows_of(results.path)[3]
    assert row == {
        "config": results.key, "task": "passkey", "id": "job-3", "place": 3, "facts": {"length": 1024},
        "prediction": "1", "answers": ["1"],
    }  # fmt: skip


def test_resume_does_only_what_is_missing(tmp_path: Path) -> None:
    first, second = Worker(), Worker()
    run(JOBS[:3], first, folder(tmp_path))
    run(JOBS, second, folder(tmp_path), resume=True)
    assert second.asked == [job.id for job in JOBS[3:]]
    assert ids(tmp_path) == [job.id for job in JOBS]


def test_without_resume_results_are_not_touched(tmp_path: Path) -> None:
    run(JOBS, Worker(), folder(tmp_path))
    with pytest.raises(EvaluationError, match="already has results; continue with --resume"):
        run(JOBS, Worker(), folder(tmp_path))


@pytest.mark.parametrize("kept", range(0, 200, 23))
def test_a_torn_last_line_is_cut_off_and_done_again(tmp_path: Path, kept: int) -> None:
    run(JOBS, Worker(), folder(tmp_path))
    path = tmp_path / "results" / "rows.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][: min(kept, len(lines[2]) - 1)])
    assert len(read_rows_of(path.parent)) == 2  # a report over a run that goes on
    again = Worker()
    run(JOBS, again, folder(tmp_path), resume=True)
    assert again.asked == [job.id for job in JOBS[2:]]
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run(JOBS, Worker(), folder(tmp_path))
    path = tmp_path / "results" / "rows.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{broken", *lines[2:]]) + "\n")
    with pytest.raises(EvaluationError, match=r"rows.jsonl, line 2, is damaged"):
        run(JOBS, Worker(), folder(tmp_path), resume=True)
    path.write_text('{"task": "passkey"}\n')
    with pytest.raises(EvaluationError, match="line 1, is damaged"):
        read_rows_of(path.parent)


def test_a_failing_item_is_written_and_the_run_goes_on(tmp_path: Path) -> None:
    end = run(JOBS, Worker("job-2", "job-5"), folder(tmp_path))
    assert end == Progress(7, 7, 2, "")
    rows = read_rows_of(tmp_path / "results")
    assert rows[2]["error"] == "RuntimeError: job-2 broke"
    assert "prediction" not in rows[2]
    figures = Results.open(tmp_path / "results").figures("task")
    assert list(figures.loc["passkey"]) == [71.43, 7, 2]  # failed ones count 0: 5 of 7


def test_failed_items_are_asked_again_only_on_retry(tmp_path: Path) -> None:
    run(JOBS, Worker("job-2"), folder(tmp_path))
    again, retried = Worker(), Worker()
    assert run(JOBS, again, folder(tmp_path), resume=True).failed == 1
    assert again.asked == []
    assert run(JOBS, retried, folder(tmp_path), resume=True, retry=True).failed == 0
    assert retried.asked == ["job-2"]
    assert [row["prediction"] for row in read_rows_of(tmp_path / "results")] == list("0123456")


def test_an_interrupt_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    def work(job: Job) -> Mapping[str, Any]:
        if job.id == "job-4":
            raise KeyboardInterrupt
        return {"prediction": "1", "answers": ["1"]}

    with pytest.raises(KeyboardInterrupt):
        run(JOBS, work, folder(tmp_path))
    assert len(ids(tmp_path)) == 4


def test_shards_share_the_work_and_merge_to_the_whole(tmp_path: Path) -> None:
    whole = ResultFolder(tmp_path / "whole", CONFIG)
    run(JOBS, Worker(), whole)
    asked: list[str] = []
    for number in (1, 2, 3):
        worker = Worker()
        run(JOBS, worker, ResultFolder(tmp_path / f"part{number}", CONFIG), shard=Shard(number, 3))
        asked += worker.asked
        # In one folder they do not collide either.
        run(JOBS, Worker(), folder(tmp_path), shard=Shard(number, 3))
    assert sorted(asked) == [job.id for job in JOBS]
    assert merge([tmp_path / f"part{number}" for number in (3, 1, 2)], tmp_path / "merged") == 7
    assert (tmp_path / "merged" / "rows.jsonl").read_bytes() == (whole.path / "rows.jsonl").read_bytes()
    assert read_rows_of(tmp_path / "results") == read_rows_of(whole.path)


def test_merging_prefers_an_answer_to_an_error_and_refuses_other_configurations(tmp_path: Path) -> None:
    run(JOBS, Worker("job-1"), ResultFolder(tmp_path / "a", CONFIG))
    run(JOBS[1:2], Worker(), ResultFolder(tmp_path / "b", CONFIG))
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert not any("error" in row for row in read_rows_of(tmp_path / "c"))
    run(JOBS, Worker(), ResultFolder(tmp_path / "d", {**CONFIG, "chunk_size": 128}))
    with pytest.raises(EvaluationError, match="chunk_size is 128 there and 64 here"):
        merge([tmp_path / "a", tmp_path / "d"], tmp_path / "e")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(EvaluationError, match="write it as number/count"):
        Shard.parse(text)


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run(JOBS, Worker(), folder(tmp_path))
    before = (tmp_path / "results" / "config.json").read_bytes()
    with pytest.raises(EvaluationError, match="another configuration: chunk_size is 64 there and 128 here"):
        folder(tmp_path, chunk_size=128)
    assert (tmp_path / "results" / "config.json").read_bytes() == before


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.doc").write_text("x")
    with pytest.raises(EvaluationError, match="has other files"):
        folder(tmp_path)
    with pytest.raises(EvaluationError, match="is a file"):
        ResultFolder(tmp_path / "results" / "thesis.doc", CONFIG)


def test_items_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="2 items of passkey are called 'job-1'"):
        run([*JOBS, JOBS[1]], Worker(), folder(tmp_path))


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    results = folder(tmp_path)
    with (
        results.appending(Shard(), resume=False),
        pytest.raises(FocusdocError, match="Another process"),
        results.appending(Shard(), resume=True),
    ):
        pass


def test_folders_are_found_below(tmp_path: Path) -> None:
    run(JOBS, Worker(), ResultFolder(tmp_path / "a" / "focus", CONFIG))
    run(JOBS, Worker(), ResultFolder(tmp_path / "a" / "full", {**CONFIG, "mode": "full"}))
    found = [results.folder for results in open_all([tmp_path, tmp_path / "a" / "full"])]
    assert found == [tmp_path / "a" / "focus", tmp_path / "a" / "full"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="empty has no results"):
        open_all([tmp_path / "empty"])


def test_rows_of_any_text_are_written(tmp_path: Path) -> None:
    run(JOBS[:1], lambda job: {"prediction": "\ud800 \u2028 \n", "answers": ["\u00e9"]}, folder(tmp_path))
    (row,) = read_rows_of(tmp_path / "results")
    assert row["prediction"] == "? \u2028 \n"
    assert len((tmp_path / "results" / "rows.jsonl").read_bytes().split(b"\n")) == 2


def test_a_damaged_configuration_is_an_error(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "results" / "config.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"config.json is damaged"):
        folder(tmp_path)
    (tmp_path / "results" / "config.json").write_text(json.dumps([1]))
    with pytest.raises(EvaluationError, match=r"config.json is damaged"):
        folder(tmp_path)


def test_resuming_with_another_number_of_shards_repeats_nothing(tmp_path: Path) -> None:
    first, second = Worker("job-1", "job-4"), Worker()
    run(JOBS, first, folder(tmp_path))
    for index in (1, 2):
        run(JOBS, second, folder(tmp_path), shard=Shard(index, 2), resume=True, retry=True)
    assert sorted(second.asked) == ["job-1", "job-4"]
    assert ids(tmp_path) == [job.id for job in JOBS]
    assert not any("error" in row for row in read_rows_of(tmp_path / "results"))
