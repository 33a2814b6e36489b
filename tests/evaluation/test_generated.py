"""Items that are generated: rows, lengths, depths and seeds, and what is said of lengths that do not fit."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest

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
