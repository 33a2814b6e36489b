"""Reports: the paper's layout, the counts under each table, plots, and nothing that results could smuggle in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.report import load_reference, sections, write_report
from focusdoc.evaluation.results import ResultFolder, Results, Shard

EVIL = "<script>alert(1)</script>|`x`"


def result(path: Path, benchmark: str, mode: str, rows: list[dict[str, Any]], **config: Any) -> Results:
    """A result folder with rows; each gets what a run would add."""
    usage = {"document_tokens": 100, "prompt_tokens": 10, "new_tokens": 2, "kv_bytes": 2**21}
    timings = {"read": 1.0, "first_token": 0.5, "decode": 0.5}
    with ResultFolder(path, {"benchmark": benchmark, "mode": mode, **config}).appending(Shard(), resume=False) as add:
        for place, row in enumerate(rows):
            known = {"id": str(place), "place": place, "facts": {}, "usage": usage, "timings": timings}
            add({**known, **row})
    return Results.open(path)


def answered(task: str, prediction: str, gold: Any, **facts: Any) -> dict[str, Any]:
    return {"task": task, "prediction": prediction, "answers": [gold], "facts": facts}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    qasper = [answered("qasper", "blue", "blue"), answered("qasper", "red", "blue")]
    result(root / "lb" / "focus", "longbench", "focus", [*qasper, answered("lcc", "x = 1", "x = 1")], model=EVIL)
    result(root / "lb" / "full", "longbench", "full", [*qasper, {"task": "lcc", "error": "RuntimeError: no"}])
    pairs = [answered("kv_retrieval", "ab", "ab", length=131_072), answered("passkey", "1", "12345", length=131_072)]
    result(root / "ib" / "focus", "infinitebench", "focus", pairs)
    keys = [answered("passkey", "12345", "12345", length=length, depth=0.5) for length in (4096, 16_384)]
    result(root / "pk" / "focus", "passkey", "focus", keys)
    result(root / "pk" / "tail", "passkey", "tail", [{**key, "prediction": ""} for key in keys])
    needles = [
        answered("needle", "1" * 6, "1" * 6, length=length, depth=depth)
        for length in (4096, 8192)
        for depth in (0.0, 0.5)
    ]
    result(root / "nd" / "focus", "needle", "focus", needles)
    losses = [
        {
            "task": "perplexity",
            "nll": 2.0 + size / 1000,
            "targets": 256,
            "facts": {"length": length, "chunk_size": size},
        }
        for length in (4096, 16_384)
        for size in (512, 1024)
    ]
    result(root / "pp" / "focus", "perplexity", "focus", losses)
    plain = [{**row, "facts": {**row["facts"], "chunk_size": None}} for row in losses[::2]]
    result(root / "pp" / "tail", "perplexity", "tail", plain)
    return root


def test_sections_have_the_papers_layout(runs: Path) -> None:
    found = [Results.open(path.parent) for path in sorted(runs.rglob("config.json"))]
    parts = {part.title: part for part in sections(found, load_reference())}
    longbench = parts["LongBench (paper: Table 6)"]
    assert list(longbench.header[:3]) == ["task", "focus", "full"]
    assert longbench.header[3] == "paper's own"
    assert longbench.notes[-1].startswith("paper's own: FocusLLM, arXiv 2408.11745")
    assert [list(row) for row in longbench.rows] == [
        ["qasper", "50.00", "50.00", "-"],
        ["lcc", "100.00", "0.00", "-"],
        ["mean of 2 tasks", "75.00", "25.00", "-"],
    ]
    assert longbench.notes[1].startswith("full: 1 to 2 items for each of 2 rows, 3 in all, 1 of them failed.")
    infinite = parts["InfiniteBench"]
    assert list(infinite.rows[0]) == ["kv_retrieval", "100.00", "12.40"]
    passkey = parts["Passkey retrieval (paper: Figure 1)"]
    assert [row[:3] for row in map(list, passkey.rows)] == [["4K", "100.00", "0.00"], ["16K", "100.00", "0.00"]]
    needle = parts["Needle in a book, focus"]
    assert [list(row) for row in needle.rows] == [["0%", "100.00", "100.00"], ["50%", "100.00", "100.00"]]
    losses = parts["Perplexity (paper: Table 1, Figure 5)"]
    assert list(losses.header[1:4]) == ["focus, chunks of 512", "focus, chunks of 1,024", "tail"]
    assert list(losses.rows[0][1:4]) == ["12.33", "20.57", "12.33"]
    assert [plot.name for plot in losses.plots] == ["perplexity-length", "perplexity-chunk-size"]
    cost = parts["Memory and time: Passkey retrieval (paper: Figure 1)"]
    assert list(cost.rows[0]) == ["4K", "2", "2", "2.0", "2.0"]


def test_report_is_written_whole_and_escapes_everything(runs: Path, tmp_path: Path) -> None:
    written = write_report([runs], tmp_path / "report", load_reference())
    assert all(path.is_file() for path in written)
    pictures = [path for path in written if path.suffix == ".png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert {"passkey.png", "needle-focus.png", "perplexity-length.png", "passkey-memory.png"} <= {
        path.name for path in pictures
    }
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("data:image/png;base64,") == len(pictures)
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in text.replace(r"\<script", "")
    assert r"\|\`x\`" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace(r"\|", "").count("|") >= 3 for line in tables)


def test_the_same_mode_twice_is_told_apart_by_folder(tmp_path: Path) -> None:
    row = answered("qasper", "blue", "blue")
    found = [result(tmp_path / name / "focus", "longbench", "focus", [row], size=name) for name in ("a", "b")]
    (part,) = sections(found, load_reference())
    assert list(part.header[1:3]) == ["focus (a)", "focus (b)"]


def test_scoring_is_repeated_from_predictions(tmp_path: Path) -> None:
    found = result(tmp_path / "focus", "longbench", "focus", [answered("qasper", "blue", "red")])
    assert found.figures("task").loc["qasper", "value"] == 0
    rows = tmp_path / "focus" / "rows.jsonl"
    rows.write_text(rows.read_text().replace('"red"', '"blue"'))
    assert Results.open(tmp_path / "focus").figures("task").loc["qasper", "value"] == 100


def test_another_reference(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text(json.dumps({"source": "ours, earlier", "longbench": {"qasper": 12.5}}))
    reference = load_reference(path)
    assert (reference.source, reference.figures) == ("ours, earlier", {"longbench": {"qasper": 12.5}})
    for wrong in ("{", "[]", '{"longbench": {}}', '{"source": "x", "longbench": {"qasper": "high"}}'):
        path.write_text(wrong)
        with pytest.raises(EvaluationError, match="not JSON of the form"):
            load_reference(path)


def test_no_results_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="has no results"):
        write_report([tmp_path], tmp_path / "report", load_reference())


def test_natural_questions_have_a_table_for_each_file_with_intervals(tmp_path: Path) -> None:
    usage = {"passage_tokens": 700}

    def row(prediction: str, found: int | None, **more: Any) -> dict[str, Any]:
        answers = {"task": "natural", "prediction": prediction, "answers": ["blue"], "usage": usage}
        return {**answers, "passages": [[0, 90], [100, 110]], "found": found, **more}

    rows = [row("blue", 1), row("It is blue", 3), row("red", None), {"task": "natural", "error": "ReaderError: no"}]
    patterns = [row("whale", 1, task="natural_patterns", answers=["[Ww]hal"])]
    plain = {**answered("natural_patterns", "x", "w"), "usage": {"passage_tokens": 0}}
    found = [
        result(tmp_path / "a" / "bm25", "natural", "bm25", rows, file="squad.json", reader="some"),
        result(tmp_path / "a" / "read", "natural", "read", rows[:1], file="squad.json", reader="none"),
        result(tmp_path / "b" / "full", "natural", "full", [plain], file="novels.json"),
        result(tmp_path / "b" / "bm25", "natural", "bm25", patterns, file="novels.json", reader="some"),
    ]
    squad, novels = sections(found, load_reference())
    assert (squad.title, novels.title) == ("Natural questions: squad.json", "Natural questions: novels.json")
    assert list(squad.header[:6]) == ["mode", "questions", "F1", "contained", "found at 1", "found at 4"]
    only_found, answered_too = squad.rows
    costs = ["700", "0.50", "1.00"]
    assert [cell.split()[0] for cell in only_found] == ["read", "1", "-", "-", "100.0", "100.0", "90", *costs]
    # One question in four each; what failed counts 0 and takes no time.
    assert [cell.split()[0] for cell in answered_too] == ["bm25", "4", "37.5", "50.0", "25.0", "50.0", "90", *costs]
    assert answered_too[3] == "50.0 (0.0 to 100.0)"
    assert "1 of them failed" in squad.notes[2]
    assert [[cell.split()[0] for cell in row[:5]] for row in novels.rows] == [
        ["full", "1", "0.0", "-", "-"],
        ["bm25", "1", "100.0", "100.0", "100.0"],
    ]
