"""Items of LongBench and InfiniteBench: templates, prompts, orders, and what is said of data that are wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from evaluation_samples import longbench_row, write_json, write_lines

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Item
from focusdoc.evaluation.official import context_first, filled, infinitebench_items, longbench_items


class TestTemplates:
    def fill(self, template: str, fields: dict[str, str]) -> Item:
        return filled(template, fields, "official", task="t", id="1", answers=["x"], max_new_tokens=1)

    def test_are_filled_by_substitution_and_data_are_never_templates(self) -> None:
        fields = {"context": "{input} {0} {x!r}", "input": "{context}"}
        item = self.fill("A {context} B {input} C", fields)
        assert (item.before, item.context, item.after) == ("A ", "{input} {0} {x!r}", " B {context} C")

    def test_an_unknown_field_is_an_error(self) -> None:
        with pytest.raises(EvaluationError, match=r"template of t has the unknown field \{secret\}; known are context"):
            self.fill("{context} {secret}", {"context": "x", "input": "y"})

    @pytest.mark.parametrize("template", ["no context", "{context} {context}"])
    def test_there_must_be_one_context(self, template: str) -> None:
        with pytest.raises(EvaluationError, match="exactly once"):
            self.fill(template, {"context": "x"})

    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            ("Find it.\n\n{context}\n\n{input}", "{context}\n\nFind it.\n\n{input}"),
            ("Sum up.\n\nReport:\n{context}\n\nNow.\n\nSummary:", "Report:\n{context}\n\nSum up.\n\nNow.\n\nSummary:"),
            ("{context}\n\n{input}", "{context}\n\n{input}"),
            ("Read: {context}\n\n{input}", "Read: {context}\n\n{input}"),
        ],
    )
    def test_context_first(self, template: str, expected: str) -> None:
        assert context_first(template) == expected


class TestLongBench:
    def test_items(self, longbench_folder: Path) -> None:
        items = list(longbench_items(longbench_folder, ["qasper", "gov_report", "trec"]))
        assert [item.id for item in items] == [f"{t}-{n}" for t in ("qasper", "gov_report", "trec") for n in (0, 1)]
        qasper, report, trec = items[0], items[2], items[4]
        row = longbench_row("qasper", 0)
        assert qasper.prompt == f"Read. {row['context']}\n\nQuestion: {row['input']}\n\nAnswer:"
        assert (qasper.max_new_tokens, qasper.answers, qasper.chat, qasper.stop) == (8, row["answers"], True, ())
        # The authors put the context of reports in front of the instruction; its label stays with it.
        assert report.prompt.startswith("Report:\nA text with {braces}")
        assert report.after == "\n\nYou get a report. Sum it up.\n\nNow sum it up.\n\nSummary:"
        assert (trec.chat, trec.all_classes) == (False, ["blue", "red"])

    def test_official_order(self, longbench_folder: Path) -> None:
        (item,) = longbench_items(longbench_folder, ["gov_report"], limit=1, order="official")
        assert item.before == "You get a report. Sum it up.\n\nReport:\n"

    def test_an_unknown_task_lists_the_known(self, longbench_folder: Path) -> None:
        with pytest.raises(EvaluationError, match="'nope' is unknown; choose from narrativeqa, qasper"):
            list(longbench_items(longbench_folder, ["nope"]))

    def test_a_folder_without_the_task_lists_what_is_there(self, longbench_folder: Path) -> None:
        with pytest.raises(EvaluationError, match=r"has no hotpotqa.jsonl; the tasks in it: gov_report, qasper, trec"):
            list(longbench_items(longbench_folder, ["hotpotqa"]))

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(EvaluationError, match="give their folder with --data"):
            list(longbench_items(None, ["qasper"]))
        with pytest.raises(EvaluationError, match="does not exist"):
            list(longbench_items(tmp_path / "none", ["qasper"]))

    def test_a_row_without_a_field_is_named(self, longbench_folder: Path) -> None:
        row = longbench_row("qasper", 1)
        del row["answers"]
        write_lines(longbench_folder / "qasper.jsonl", [longbench_row("qasper", 0), row])
        with pytest.raises(EvaluationError, match=r"qasper.jsonl, line 2, .* lacks the field 'answers'"):
            list(longbench_items(longbench_folder, ["qasper"]))

    @pytest.mark.parametrize(("line", "words"), [("{", "is damaged"), ("[1]", "it is not a JSON object")])
    def test_a_damaged_line_is_named(self, longbench_folder: Path, line: str, words: str) -> None:
        (longbench_folder / "qasper.jsonl").write_text(f"\n{line}\n", encoding="utf-8")
        with pytest.raises(EvaluationError, match=f"line 2, .*{words}"):
            list(longbench_items(longbench_folder, ["qasper"]))

    def test_a_template_with_an_unknown_field_is_an_error(self, longbench_folder: Path) -> None:
        write_json(longbench_folder / "config" / "dataset2prompt.json", {"qasper": "{context} {question}"})
        with pytest.raises(EvaluationError, match=r"template of qasper has the unknown field \{question\}"):
            list(longbench_items(longbench_folder, ["qasper"]))

    def test_tables_that_lack_the_task_or_are_missing(self, longbench_folder: Path) -> None:
        write_json(longbench_folder / "config" / "dataset2maxlen.json", {})
        with pytest.raises(EvaluationError, match=r"dataset2maxlen.json has no entry for qasper"):
            list(longbench_items(longbench_folder, ["qasper"]))
        (longbench_folder / "config" / "dataset2maxlen.json").unlink()
        with pytest.raises(EvaluationError, match=r"dataset2maxlen.json is missing"):
            list(longbench_items(longbench_folder, ["qasper"]))

    def test_official_rows(self, shared_data: Path) -> None:
        folder = shared_data / "longbench"
        items = list(longbench_items(folder, ["multi_news", "qasper", "narrativeqa"], limit=3))
        assert len(items) == 9
        assert [item.max_new_tokens for item in items[::3]] == [512, 128, 128]
        prompts = json.loads((folder / "config" / "dataset2prompt.json").read_text(encoding="utf-8"))
        row = json.loads((folder / "qasper.jsonl").read_text(encoding="utf-8").splitlines()[0])
        expected = prompts["qasper"].replace("{context}", row["context"]).replace("{input}", row["input"])
        assert items[3].prompt == expected
        assert items[0].before == "News:\n"
        assert "You are given several news passages." in items[0].after


class TestInfiniteBenchFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        templates = {
            "passkey": "Find it.\n\n{context}\n\n{input}",
            "code_debug": "Look.\n\n{context}\n\nA. {OPTION_A}\nB. {OPTION_B}\nC. {OPTION_C}\nD. {OPTION_D}",
            "code_run": "{func}\n\n{context}\n\n{func_call}",
            "math_find": "{prefix}\n\n{context}\n\n{input}",
        }
        write_json(tmp_path / "prompts.json", {"yarn_mistral_templates": templates, "gpt4_templates": templates})
        row = {"id": 7, "context": "Text", "input": "What?", "answer": ["12345"], "options": []}
        write_lines(tmp_path / "passkey_8192.jsonl", [row])
        write_lines(tmp_path / "code_debug.jsonl", [{**row, "options": ["f", "g", "h", "i"], "answer": ["g"]}])
        write_lines(tmp_path / "code_run.jsonl", [{**row, "input": "Give the value of func_3(-4).", "answer": [5]}])
        asked = "The second largest number of the list is: "
        write_lines(tmp_path / "math_find.jsonl", [{**row, "input": asked, "answer": 5}])
        return tmp_path

    def items(self, folder: Path, *tasks: str, **settings: Any) -> list[Item]:
        return list(infinitebench_items(folder, tasks, **settings))

    def test_items(self, folder: Path) -> None:
        (item,) = self.items(folder, "passkey_8192")
        assert (item.task, item.id, item.answers, item.max_new_tokens) == ("passkey", "passkey_8192-0", ["12345"], 6)
        assert item.prompt == "Text\n\nFind it.\n\nWhat?"
        assert self.items(folder, "passkey_8192", order="official")[0].prompt == "Find it.\n\nText\n\nWhat?"

    @pytest.mark.parametrize(("templates", "chat"), [("yarn_mistral_templates", False), ("gpt4_templates", True)])
    def test_templates_of_models_that_go_on_with_text_are_no_messages(
        self, folder: Path, templates: str, chat: bool
    ) -> None:
        (item,) = self.items(folder, "passkey_8192", templates=templates)
        assert item.chat == chat

    def test_choices_are_answered_by_text_and_letter(self, folder: Path) -> None:
        (item,) = self.items(folder, "code_debug")
        assert item.answers == ["g", "B"]
        assert item.prompt == "Text\n\nLook.\n\nA. f\nB. g\nC. h\nD. i"

    def test_code_run_names_the_call(self, folder: Path) -> None:
        (item,) = self.items(folder, "code_run")
        assert (item.prompt, item.answers) == ("func_3\n\nText\n\nfunc_3(-4)", [5])

    def test_math_find_names_the_target(self, folder: Path) -> None:
        (item,) = self.items(folder, "math_find")
        assert item.before == "What is the second largest number in the following list?\n\n"

    def test_mistakes(self, folder: Path) -> None:
        with pytest.raises(EvaluationError, match="'pass' is unknown; choose from passkey"):
            self.items(folder, "pass")
        with pytest.raises(EvaluationError, match=r"has no passkey.jsonl; the tasks in it: .*passkey_8192"):
            self.items(folder, "passkey")
        with pytest.raises(EvaluationError, match="has no 'claude'; it has gpt4_templates, yarn_mistral_templates"):
            self.items(folder, "passkey_8192", templates="claude")
        row = {"context": "x", "input": "y", "answer": ["z"], "options": ["f", "g", "h", "i"]}
        write_lines(folder / "code_debug.jsonl", [row])
        with pytest.raises(EvaluationError, match="'z' of a row of code_debug is not one of its options"):
            self.items(folder, "code_debug")
        write_lines(folder / "code_debug.jsonl", [{**row, "options": ["f"]}])
        with pytest.raises(EvaluationError, match="1 options, and four are needed"):
            self.items(folder, "code_debug")
        write_lines(folder / "code_debug.jsonl", [{"context": "x", "input": "y", "answer": ["z"]}])
        with pytest.raises(EvaluationError, match=r"line 1, .* lacks the field 'options'"):
            self.items(folder, "code_debug")

    def test_official_rows(self, shared_data: Path) -> None:
        items = self.items(shared_data / "infinitebench", "passkey_8192", "passkey_32768", limit=2)
        assert len(items) == 4
        assert all(re.fullmatch(r"\d{5}", item.answers[0]) and item.answers[0] in item.context for item in items)
        assert items[0].after.endswith("\n\nWhat is the pass key?\n\nThe pass key is")
        assert items[0].after.startswith("\n\nThere is an important info")
        assert items[0].before == ""
