"""``focusdoc eval``, ``report`` and ``explain`` on a tiny model: what they write, and mistakes in one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_samples import Run
from test_cli_mistakes import assert_one_sentence


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A LongBench folder with one task of three rows."""
    folder = tmp_path / "longbench"
    folder.mkdir()
    (folder / "dataset2prompt.json").write_text(json.dumps({"qasper": "Read. {context}\n\nQ: {input}\n\nA:"}))
    (folder / "dataset2maxlen.json").write_text(json.dumps({"qasper": 4}))
    row = {"input": "What?", "answers": ["blue"], "all_classes": None}
    rows = [{**row, "context": f"Text {number}. " * 60, "_id": str(number)} for number in range(3)]
    (folder / "qasper.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """The rows of a result folder without the times they took."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("timings", None)
    return rows


def test_longbench_compares_modes_in_one_command(run: Run, tiny: list[str], data: Path, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    options = ["--data", data, "--tasks", "qasper", "--mode", "focus,tail", "--output", output]
    done = run("eval", "longbench", *options, *tiny)
    assert done.exit_code == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["task", "length", "focus", "tail", "items"],
        ["qasper", "0.00", "0.00", "3"],
    ]
    rows = rows_in(output / "focus")
    assert [(row["task"], row["id"], row["answers"]) for row in rows] == [
        ("qasper", str(n), ["blue"]) for n in range(3)
    ]
    again = run("eval", "longbench", *options, *tiny)
    assert_one_sentence(again, "already has results", "--resume")
    assert run("eval", "longbench", *options, "--resume", *tiny).exit_code == 0
    assert rows_in(output / "focus") == rows
    assert_one_sentence(
        run("eval", "longbench", *options, "--resume", "--local-window", "512", *tiny),
        "another configuration", "local_window is 3500 there and 512 here",
    )  # fmt: skip


def test_every_harness_and_the_report(run: Run, tiny: list[str], book: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    sizes = ["--lengths", "1K", "--limit", "1", "--mode", "focus,full,streaming"]
    commands: dict[str, list[Any]] = {
        "passkey": sizes,
        "infinitebench": ["--tasks", "kv_retrieval,math_find", *sizes],
        "needle": ["--data", book, "--depths", "0.5", *sizes[:2], "--mode", "focus"],
        "perplexity": ["--data", book, "--targets", "8", "--chunk-sizes", "128,256", "--local-window", "256", *sizes],
    }
    for name, options in commands.items():
        done = run("eval", name, *options, "--output", runs / name, *tiny)
        assert done.exit_code == 0, done.stderr
        assert "failed" not in done.stderr + done.stdout
    scored = run("eval", "score", runs, "--json")
    values = json.loads(scored.stdout)
    assert {value["benchmark"] for value in values} == set(commands)
    assert all(figure["failed"] == 0 for value in values for figure in value["scores"].values())
    assert "kv_retrieval" in run("eval", "score", runs / "infinitebench").stdout
    report = run("report", runs, "--output", tmp_path / "report")
    assert report.exit_code == 0, report.stderr
    assert (tmp_path / "report" / "report.html").is_file()
    assert len(report.stdout.split()) == len(list((tmp_path / "report").iterdir()))


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    """A file in SQuAD's form: one paragraph with two questions, among others."""
    towns = ["Almaty", "Bergen", "Cuenca", "Dakar", "Esbjerg", "Galway", "Hobart", "Iquitos", "Jaipur"]
    contexts = [f"The keeper of {town}'s lighthouse is Ann{town}. She counts ships. " * 3 for town in towns]
    paragraphs: list[dict[str, Any]] = [{"context": context, "qas": []} for context in contexts]
    for number in (4, 7):
        answer = {"text": f"Ann{towns[number]}", "answer_start": contexts[number].index("Ann")}
        asked = {"id": str(number), "question": f"Who keeps the lighthouse of {towns[number]}?", "answers": [answer]}
        paragraphs[number]["qas"].append(asked)
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return path


def test_natural_questions_compare_ours_with_retrieval(
    run: Run, tiny: list[str], tiny_folder: Path, squad: Path, tmp_path: Path
) -> None:
    options = ["--data", squad, "--max-new-tokens", "3", "--mode", "ask,read,bm25", "--output", tmp_path / "out"]
    done = run("eval", "natural", *options, "--reader", tiny_folder, *tiny)
    assert done.exit_code == 0, done.stderr
    title, header, *lines = done.stdout.splitlines()
    assert title == "Natural questions: squad.json"
    assert header.startswith("mode  questions")
    assert [line.split()[:2] for line in lines] == [["ask", "2"], ["read", "2"], ["bm25", "2"]]
    for mode in ("ask", "read", "bm25"):
        rows = rows_in(tmp_path / "out" / mode)
        assert [(row["id"], row["answers"]) for row in rows] == [("4", ["AnnEsbjerg"]), ("7", ["AnnIquitos"])]
        assert all(row["passages"] and row["prediction"] and "error" not in row for row in rows)
        assert all(row["found"] is None or row["found"] <= len(row["passages"]) for row in rows)
    assert [row["found"] for row in rows_in(tmp_path / "out" / "bm25")] == [1, 1]
    assert run("eval", "score", tmp_path / "out").stdout.splitlines()[1:] == done.stdout.splitlines()
    report = run("report", tmp_path / "out", "--output", tmp_path / "report")
    assert report.exit_code == 0, report.stderr
    assert "Natural questions: squad.json" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_natural_questions_without_a_reader_tell_the_finding_alone(
    run: Run, tiny: list[str], squad: Path, tmp_path: Path
) -> None:
    options = ["--data", squad, "--reader", "none", "--mode", "bm25", "--questions", "0.5:1"]
    done = run("eval", "natural", *options, "--output", tmp_path / "out", *tiny)
    assert done.exit_code == 0, done.stderr
    assert "found at 1" in done.stdout
    assert "F1" not in done.stdout
    (row,) = rows_in(tmp_path / "out" / "bm25")
    assert (row["id"], row["prediction"], row["found"]) == ("7", "", 1)
    config = json.loads((tmp_path / "out" / "bm25" / "config.json").read_text())
    assert {name: config[name] for name in ("file", "questions", "passages", "window", "reader")} == {
        "file": "squad.json", "questions": "0.5:1", "passages": 8, "window": 400, "reader": "none",
    }  # fmt: skip
    assert_one_sentence(
        run("eval", "natural", *options, "--resume", "--passages", "4", "--output", tmp_path / "out", *tiny),
        "another configuration", "passages is 8 there and 4 here",
    )  # fmt: skip


def test_every_benchmark_can_be_read(run: Run, tiny: list[str], tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--tasks", "qasper", "--mode", "read,bm25", "--reader", tiny_folder]
    done = run("eval", "longbench", *options, "--output", tmp_path / "out", *tiny)
    assert done.exit_code == 0, done.stderr
    assert not any("error" in row for mode in ("read", "bm25") for row in rows_in(tmp_path / "out" / mode))


def test_natural_questions_with_mistakes(run: Run, tiny: list[str], squad: Path, tmp_path: Path) -> None:
    given = ["eval", "natural", "--data", squad, "--output", tmp_path / "out", *tiny]
    assert_one_sentence(run(*given), "mode read needs a reader", "--reader")
    for share in ("0.8", "1:0.5", "0:2", "a:b"):
        assert_one_sentence(run(*given, "--questions", share), f"--questions is '{share}'", "0:0.8")
    assert_one_sentence(run(*given, "--reader", "none", "--passages", "0"), "passages is 0")
    squad.write_text("{}")
    assert_one_sentence(run(*given), "name their folder with --documents")


def test_shards_merge_to_the_whole(run: Run, tiny: list[str], data: Path, tmp_path: Path) -> None:
    options = ["eval", "longbench", "--data", data, "--tasks", "qasper", *tiny, "--output"]
    assert run(*options, tmp_path / "whole").exit_code == 0
    for part in (1, 2):
        assert run(*options, tmp_path / f"part{part}", "--shard", f"{part}/2").exit_code == 0
    parts = [tmp_path / f"part{part}" / "focus" for part in (1, 2)]
    # Each shard names its file; in a folder of its own it is the only one.
    assert [len(list(part.glob("rows-*-of-2.jsonl"))) for part in parts] == [1, 1]
    merged = run("eval", "merge", *parts, "--output", tmp_path / "merged")
    assert merged.stdout.startswith("3 rows are in")
    assert rows_in(tmp_path / "merged") == rows_in(tmp_path / "whole" / "focus")


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tiny: list[str], data: Path, tmp_path: Path) -> None:
    lines = (data / "qasper.jsonl").read_text().splitlines()
    many = [json.dumps({**json.loads(lines[0]), "_id": str(number), "input": f"{number}?"}) for number in range(40)]
    (data / "qasper.jsonl").write_text("\n".join(many) + "\n")
    command = [sys.executable, "-m", "focusdoc", "eval", "longbench", "--data", str(data), "--tasks", "qasper", *tiny]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    subprocess.run([*command, "--output", str(whole)], check=True, capture_output=True, timeout=300, env=environment)
    kills = 0
    for wanted in (3, 17):  # killed twice, each time once this many rows are written
        process = subprocess.Popen(
            [*command, "--output", str(killed), "--resume"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        rows = killed / "focus" / "rows.jsonl"
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if rows.exists() and rows.read_bytes().count(b"\n") >= wanted:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        kills += process.wait(timeout=60) == -signal.SIGKILL
    assert kills >= 1
    assert len(rows_in_torn(killed / "focus")) < 40
    resumed = [*command, "--output", str(killed), "--resume"]
    subprocess.run(resumed, check=True, capture_output=True, timeout=300, env=environment)
    assert rows_in(killed / "focus") == rows_in(whole / "focus")


def rows_in_torn(folder: Path) -> list[bytes]:
    """The finished lines of a file that may end in a torn one."""
    return (folder / "rows.jsonl").read_bytes().split(b"\n")[:-1]


def test_a_failing_item_does_not_stop_the_run(run: Run, tiny: list[str], data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (data / "qasper.jsonl").read_text().splitlines()]
    rows[1]["context"], rows[1]["input"] = " ", " "
    (data / "dataset2prompt.json").write_text(json.dumps({"qasper": "{context}{input}"}))
    (data / "qasper.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("eval", "longbench", "--data", data, "--tasks", "qasper", "--output", tmp_path / "out", *tiny)
    assert done.exit_code == 0
    assert "3 (1 failed)" in done.stdout
    found = rows_in(tmp_path / "out" / "focus")
    assert found[1]["error"].startswith("EmptyDocumentError: ")
    assert ["error" in row for row in found] == [False, True, False]


MISTAKES: dict[str, tuple[list[Any], list[str]]] = {
    "task": (["longbench", "--tasks", "nope"], ["'nope' is unknown", "narrativeqa"]),
    "folder without the task": (["longbench", "--tasks", "hotpotqa"], ["has no hotpotqa.jsonl", "qasper"]),
    "order": (["longbench", "--tasks", "qasper", "--order", "random"], ["--order is 'random'"]),
    "mode": (
        ["longbench", "--tasks", "qasper", "--mode", "best"],
        ["mode 'best' is unknown", "focus, split, quoted, look"],
    ),
    "no mode": (["longbench", "--tasks", "qasper", "--mode", ","], ["is unknown; choose from focus"]),
    "shard": (["longbench", "--tasks", "qasper", "--shard", "5/4"], ["shard is '5/4'"]),
    "prompt": (["longbench", "--tasks", "qasper", "--prompt", "loud"], ["--prompt is 'loud'"]),
    "lengths": (["passkey", "--lengths", "many"], ["lengths are 'many'", "4K,16K"]),
    "short length": (["passkey", "--lengths", "100"], ["length 100 is too short"]),
    "generated": (["infinitebench", "--tasks", "code_debug"], ["code_debug needs the official files"]),
    "depths": (["needle", "--depths", "deep"], ["depths are 'deep'"]),
    "targets": (["perplexity", "--targets", "0"], ["--targets is 0"]),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes(run: Run, tiny: list[str], data: Path, tmp_path: Path, kind: str) -> None:
    (name, *options), words = MISTAKES[kind]
    given = ["--data", data] if name == "longbench" else []
    result = run("eval", name, *given, *options, "--output", tmp_path / "out", *tiny)
    assert_one_sentence(result, *words)
    assert not (tmp_path / "out" / "focus" / "rows.jsonl").exists()


def test_files_and_generated_tasks_exclude_each_other(run: Run, data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--lengths", "4K", "--output", tmp_path / "out"]
    assert_one_sentence(run("eval", "infinitebench", *options), "--lengths is for generated tasks")


def test_a_look_needs_no_adapter(run: Run, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--tasks", "qasper", "--mode", "look", "--output", tmp_path / "out"]
    done = run("eval", "longbench", *options, "--model", tiny_folder, "--adapter", "none")
    assert done.exit_code == 0, done.stderr
    assert not any("error" in row for row in rows_in(tmp_path / "out" / "look"))


def test_no_adapter_is_found_out_before_the_first_item(run: Run, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--tasks", "qasper", "--model", tiny_folder, "--output", tmp_path / "out"]
    assert_one_sentence(run("eval", "longbench", *options), "has no adapter")


def test_a_package_that_the_figures_take_is_missed_before_anything_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    options = ["--lengths", "1K", "--model", tmp_path / "none", "--output", tmp_path / "out"]
    assert_one_sentence(run("eval", "passkey", *options), "pandas is not installed", "focusdoc[eval]")


def test_report_of_nothing(run: Run, tmp_path: Path) -> None:
    assert_one_sentence(run("report", tmp_path, "--output", tmp_path / "report"), "has no results")


def test_explain_writes_a_page_and_a_picture(run: Run, tiny: list[str], book: Path, tmp_path: Path) -> None:
    page = tmp_path / "out" / "why.html"
    options = ["--layer", "1", "--head", "2", "--max-new-tokens", "4", "--no-store", "--html", page]
    done = run("explain", book, "What is counted?", *options, *tiny)
    assert done.exit_code == 0, done.stderr
    assert "What is counted?" in page.read_text(encoding="utf-8")
    assert "layer 1, head 2" in page.read_text(encoding="utf-8")
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "why.html" in done.stdout


def test_explain_needs_candidates(run: Run, tiny_folder: Path, book: Path) -> None:
    assert_one_sentence(run("explain", book, "What?", "--no-store", "--model", tiny_folder), "has no adapter")


def test_explain_of_no_such_layer(run: Run, tiny: list[str], book: Path, tmp_path: Path) -> None:
    options = ["--layer", "9", "--no-store", "--html", tmp_path / "why.html"]
    assert_one_sentence(run("explain", book, "What?", *options, *tiny), "layer is 9", "from 0 to 1")
    assert not (tmp_path / "why.html").exists()
