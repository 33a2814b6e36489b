"""Items of every benchmark: prompts, orders, generated rows, and what is said of data that are wrong."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from evaluation_samples import longbench_row, write_json, write_lines

from focusdoc import Document
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.generated import (
    DEPTHS,
    MAKERS,
    MATH_TARGETS,
    NOISE,
    generated_items,
    make_rows,
    needle_items,
    passkey_items,
)
from focusdoc.evaluation.item import Item
from focusdoc.evaluation.loading import long_texts
from focusdoc.evaluation.official import context_first, fill, infinitebench_items, longbench_items


class TestTemplates:
    def test_are_filled_by_substitution_and_data_are_never_templates(self) -> None:
        fields = {"context": "{input} {0} {x!r}", "input": "{context}"}
        assert fill("A {context} B {input} C", fields, task="t") == ("A ", "{input} {0} {x!r}", " B {context} C")

    def test_an_unknown_field_is_an_error(self) -> None:
        with pytest.raises(EvaluationError, match=r"template of t has the unknown field \{secret\}; known are context"):
            fill("{context} {secret}", {"context": "x", "input": "y"}, task="t")

    @pytest.mark.parametrize("template", ["no context", "{context} {context}"])
    def test_there_must_be_one_context(self, template: str) -> None:
        with pytest.raises(EvaluationError, match="exactly once"):
            fill(template, {"context": "x"}, task="t")

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


class TestGenerated:
    """One token a character keeps the arithmetic easy."""

    def rows(self, task: str, repeats: int, length: int | None = 4096, seed: int = 0) -> list[dict[str, Any]]:
        return make_rows(task, length=length, repeats=repeats, seed=seed, count=len)

    @pytest.mark.parametrize("task", MAKERS)
    def test_the_same_seed_gives_the_same_rows(self, task: str) -> None:
        assert self.rows(task, 3) == self.rows(task, 3)
        assert self.rows(task, 3) != self.rows(task, 3, seed=1)

    @pytest.mark.parametrize("task", MAKERS)
    @pytest.mark.parametrize("length", [2048, 16_384])
    def test_lengths_are_about_right(self, task: str, length: int) -> None:
        for row in self.rows(task, 4, length):
            assert 0.8 * length < len(row["context"]) <= 1.15 * length

    @pytest.mark.parametrize("task", ["passkey", "number_string"])
    def test_one_key_between_repeats_of_noise(self, task: str) -> None:
        rows = self.rows(task, 5)
        for row in rows:
            (key,) = row["answer"]
            assert len(key) == (5 if task == "passkey" else 10)
            assert re.findall(r"\d+", row["context"]) == [key, key]
            assert row["context"].count("The grass is green.") > 20
        assert [row["facts"]["depth"] for row in rows] == [0, 0.25, 0.5, 0.75, 1]
        assert rows[0]["context"].startswith("The pass key" if task == "passkey" else "The sequence")
        assert not rows[-1]["context"].rstrip().endswith("again.")

    def test_number_strings_double_digits_in_place(self) -> None:
        for row in self.rows("number_string", 20):
            runs = [len(run[0]) for run in re.finditer(r"(\d)\1*", row["answer"][0])]
            assert sum(runs) == 10
            assert len(runs) <= 5

    def test_official_sizes_without_a_length(self) -> None:
        (row,) = self.rows("kv_retrieval", 1, length=None)
        assert len(json.loads(row["context"].removeprefix("JSON data:\n"))) == 2500
        (row,) = self.rows("passkey", 1, length=None)
        assert row["context"].count("The grass is green.") == 5220
        (row,) = self.rows("math_find", 1, length=None)
        assert len(json.loads(row["context"])) == 60_000
        (row,) = self.rows("code_run", 1, length=None)
        assert row["context"].count("def func_") == 550

    def test_pairs_of_uuids(self) -> None:
        for row in self.rows("kv_retrieval", 4):
            pairs = json.loads(row["context"].removeprefix("JSON data:\n"))
            key = re.search(r'Key: "(.+)"', row["input"])
            assert key is not None
            assert row["answer"] == [pairs[key[1]]]
            assert all(uuid.UUID(text).version == 4 for pair in pairs.items() for text in pair)

    def test_math_find_is_right(self) -> None:
        rows = self.rows("math_find", 14)
        assert [row["facts"]["kind"] for row in rows] == [*MATH_TARGETS, *MATH_TARGETS]
        for row in rows:
            values = json.loads(row["context"])
            distinct = sorted(set(values))
            middle = sorted(values)
            median = (middle[(len(values) - 1) // 2] + middle[len(values) // 2]) / 2
            expected = {
                "largest": distinct[-1],
                "second largest": distinct[-2],
                "third largest": distinct[-3],
                "smallest": distinct[0],
                "second smallest": distinct[1],
                "third smallest": distinct[2],
                "median": median,
            }
            assert row["answer"] == [expected[row["facts"]["kind"]]]
            assert 0 <= distinct[0] <= distinct[-1] <= 99
        assert len({row["answer"][0] for row in rows if row["facts"]["kind"] == "largest"}) > 1

    def test_code_run_is_what_python_computes(self) -> None:
        rows = self.rows("code_run", 10)
        assert [row["facts"]["kind"] for row in rows[:5]] == [f"depth {depth}" for depth in DEPTHS]
        for row, depth in zip(rows, DEPTHS * 2, strict=True):
            call = re.search(r"func_\d+\(-?\d+\)", row["input"])
            assert call is not None
            functions: dict[str, Any] = {}
            exec(row["context"], functions)
            assert row["answer"] == [eval(call[0], functions)]
            calls, name = 1, call[0].partition("(")[0]
            while inner := re.search(rf"def {name}\(x\):\n    return (func_\d+)\(x\)", row["context"]):
                calls, name = calls + 1, inner[1]
            assert calls == depth

    def test_items(self) -> None:
        items = list(generated_items(len, ["kv_retrieval", "code_run"], [2048, 4096], repeats=2, seed=0))
        assert len({item.id + item.task for item in items}) == len(items) == 8
        assert items[0].facts["length"] == 2048
        assert items[0].after.startswith("\n\nExtract the value corresponding")
        assert items[0].after.endswith("The value associated with the specified key is: ")
        assert "There is a function called func_" in items[2].before

    def test_a_task_with_data_only_is_an_error(self) -> None:
        with pytest.raises(EvaluationError, match="code_debug needs the official files"):
            list(generated_items(len, ["code_debug"], [2048], repeats=1, seed=0))

    def test_a_length_that_is_too_short_is_an_error(self) -> None:
        with pytest.raises(EvaluationError, match="too short"):
            self.rows("kv_retrieval", 1, 100)


class TestPasskey:
    def test_the_authors_form(self) -> None:
        items = list(passkey_items(len, [1024, 2048], repeats=3))
        assert [item.facts["length"] for item in items] == [1024] * 3 + [2048] * 3
        for item in items:
            assert abs(len(item.prompt) - item.facts["length"]) < 32
            before, line, behind = item.context.split("\n")
            assert line == f"The pass key is {item.answers[0]}. Remember it. {item.answers[0]} is the pass key."
            assert 1 <= int(item.answers[0]) < 50_000
            # Before and behind are beginnings of the same noise, cut by characters.
            assert NOISE.startswith(before[: len(NOISE)])
            assert NOISE.startswith(behind[: len(NOISE)])
            assert item.after.endswith("What is the pass key? The pass key is")
            assert not item.chat  # it is gone on with, not answered
        assert len({item.answers[0] for item in items}) > 1
        assert items == list(passkey_items(len, [2048, 1024], repeats=3))
        assert items != list(passkey_items(len, [2048, 1024], repeats=3, seed=1))

    def test_a_length_without_room_is_an_error(self) -> None:
        with pytest.raises(EvaluationError, match="length 300 is too short"):
            list(passkey_items(len, [300]))


class TestNeedle:
    BOOK = Document.from_text("A sentence about nothing. " * 200, {"name": "book"})

    def test_every_depth_and_length(self, tiny_tokenizer: Any) -> None:
        items = list(needle_items(tiny_tokenizer, self.BOOK, [1024, 512], [0.0, 0.5, 1.0]))
        assert [(item.facts["length"], item.facts["depth"]) for item in items] == [
            (length, depth) for length in (512, 1024) for depth in (0.0, 0.5, 1.0)
        ]
        for item in items:
            (code,) = re.findall(r"\d{6}", item.context)
            assert [code] == item.answers
            town = re.search(r"access code of (\w+)\?", item.after)
            assert town is not None
            assert f" The access code of {town[1]} is {code}. " in item.context
            place = item.context.index(" The access code")
            assert abs(place / (len(item.context) - 40) - item.facts["depth"]) < 0.12
            assert place == 0 or item.context[place - 1] == "." or item.facts["depth"] == 1
            assert abs(len(item.context) - item.facts["length"]) < 40

    def test_a_book_that_is_too_short_is_an_error(self, tiny_tokenizer: Any) -> None:
        with pytest.raises(EvaluationError, match=r"book has 5,200 tokens, .* among 9,000"):
            list(needle_items(tiny_tokenizer, self.BOOK, [9000], [0.5]))
        with pytest.raises(EvaluationError, match="from 0 to 1"):
            list(needle_items(tiny_tokenizer, self.BOOK, [512], [1.5]))


class TestTexts:
    def test_come_from_a_file_a_folder_or_python(self, tmp_path: Path) -> None:
        (tmp_path / "b.txt").write_text("Beta", encoding="utf-8")
        (tmp_path / "a.md").write_text("Alpha", encoding="utf-8")
        (tmp_path / "c.bin").write_bytes(b"\0")
        assert [text.text for text in long_texts(tmp_path)] == ["Alpha", "Beta"]
        assert [text.text for text in long_texts(tmp_path / "b.txt")] == ["Beta"]
        (reference,) = long_texts(None)
        assert len(reference.text) > 400_000

    def test_nothing_there_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(EvaluationError, match="has no text"):
            list(long_texts(tmp_path))
