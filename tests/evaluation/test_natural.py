"""Natural questions: three kinds of files, which part is asked, where the answers stand, and how they are scored."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from evaluation_samples import write_json, write_lines

from focusdoc.errors import DocumentError, EvaluationError
from focusdoc.evaluation import natural, score
from focusdoc.evaluation.item import Item
from focusdoc.evaluation.natural import Choice, load_items
from focusdoc.evaluation.natural_scores import contained, f1, interval, of_answer, of_finding, right

BOOKS = {"sea": "The whale was white. Call me Ishmael.", "moor": "A hound, it was a hound!", "city": "Fog everywhere."}


def squad_file(folder: Path) -> Path:
    """Two articles of two paragraphs with two questions each."""
    articles = []
    for name in ("a", "b"):
        paragraphs = []
        for number in range(2):
            context = f"In town {name}{number} the mayor is Ann{name}{number}. The town is old."
            questions = [
                {
                    "id": f"{name}{number}{each}",
                    "question": f"Who is mayor of {name}{number}?",
                    "answers": [{"text": f"Ann{name}{number}", "answer_start": context.index("Ann")}],
                }
                for each in range(2)
            ]
            paragraphs.append({"context": context, "qas": questions})
        articles.append({"title": name, "paragraphs": paragraphs})
    write_json(folder / "squad.json", {"version": "1.1", "data": articles})
    return folder / "squad.json"


def novels_file(folder: Path) -> Path:
    for name, text in BOOKS.items():
        path = folder / "books" / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    asked = {
        "sea": [{"question": "What colour?", "answer": "[Ww]hite"}, {"question": "Who tells?", "answer": "Ishmael"}],
        "moor": [{"question": "Which animal?", "answer": "hound|dog"}],
        "city": [{"question": "What weather?", "answer": "rain"}],
    }
    write_json(folder / "novels.json", asked)
    return folder / "novels.json"


def rows_file(folder: Path, count: int = 20) -> Path:
    """Two questions of each passage; one in five has an answer that does not stand in it."""
    rows = []
    for number in range(count):
        passage = f"Passage {number // 2}: the river Ri{number // 2} is long, and river ri{number // 2} is deep."
        answer = f"Ri{number // 2}" if number % 5 else "Another"
        rows.append({"question": f"Which river, {number}?", "answers": [answer], "ctxs": [{"text": passage}]})
    write_lines(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def places(item: Item) -> list[str]:
    return [item.document[start:end] for start, end in item.places]


class TestSquad:
    def test_paragraphs_become_one_document_and_answers_keep_their_places(self, tmp_path: Path) -> None:
        items = load_items(squad_file(tmp_path), Choice())
        assert len({item.document for item in items}) == 1
        assert items[0].document.count("\n\n") == 3
        assert [item.id for item in items] == ["a00", "a01", "a10", "a11", "b00", "b01", "b10", "b11"]
        assert [places(item) for item in items] == [item.answers for item in items]
        assert items[7].document[: items[7].places[0][0]].endswith("In town b1 the mayor is ")
        assert items[2].after.strip() == "Who is mayor of a1?"

    def test_a_share_is_of_the_questions_and_never_of_the_document(self, tmp_path: Path) -> None:
        path = squad_file(tmp_path)
        end = load_items(path, Choice(share=(0.75, 1)))
        assert [item.id for item in end] == ["b10", "b11"]
        assert end[0].document == load_items(path, Choice())[0].document
        halves = [item.id for share in ((0, 0.4), (0.4, 1)) for item in load_items(path, Choice(share=share))]
        assert halves == [item.id for item in load_items(path, Choice())]

    def test_an_answer_that_is_not_at_its_place_is_an_error(self, tmp_path: Path) -> None:
        path = squad_file(tmp_path)
        path.write_text(path.read_text().replace('"answer_start": 24', '"answer_start": 23'))
        with pytest.raises(EvaluationError, match="'Anna0' is not at its answer_start"):
            load_items(path, Choice())

    def test_of_the_real_file(self, shared_data: Path) -> None:
        items = load_items(shared_data / "qa" / "xquad.en.json", Choice(share=(0.82, 1)))
        assert len(items) == 214
        assert all(places(item) == item.answers for item in items)


class TestPatterns:
    def test_documents_come_from_the_folder_and_places_are_what_matches(self, tmp_path: Path) -> None:
        items = load_items(novels_file(tmp_path), Choice(), documents=tmp_path / "books")
        assert [item.facts["document"] for item in items] == ["sea", "sea", "moor", "city"]
        assert [item.document for item in items[1:]] == list(BOOKS.values())
        assert [places(item) for item in items] == [["white"], ["Ishmael"], ["hound", "hound"], []]

    def test_a_share_is_of_the_documents(self, tmp_path: Path) -> None:
        path = novels_file(tmp_path)
        first = load_items(path, Choice(share=(0, 0.5)), documents=tmp_path / "books")
        rest = load_items(path, Choice(share=(0.5, 1)), documents=tmp_path / "books")
        assert [item.id for item in first + rest] == ["sea-0", "sea-1", "moor-0", "city-0"]
        assert [item.id for item in rest] == ["city-0"]

    def test_mistakes(self, tmp_path: Path) -> None:
        path = novels_file(tmp_path)
        with pytest.raises(EvaluationError, match="name their folder with --documents"):
            load_items(path, Choice())
        (tmp_path / "books" / "city.txt").unlink()
        with pytest.raises(DocumentError, match=r"city\.txt"):
            load_items(path, Choice(), documents=tmp_path / "books")
        write_json(path, {"../books/sea": [{"question": "What?", "answer": "x"}]})
        with pytest.raises(EvaluationError, match="it must be a name without folders"):
            load_items(path, Choice(), documents=tmp_path / "books")
        write_json(path, {"sea": [{"question": "What?", "answer": "(x"}]})
        with pytest.raises(EvaluationError, match=r"'\(x' is not a regular expression"):
            load_items(path, Choice(), documents=tmp_path / "books")

    def test_places_may_be_given(self, tmp_path: Path) -> None:
        path = novels_file(tmp_path)
        row = {"question": "What?", "answer": "hound", "places": [[0, 3]]}
        write_json(path, {"moor": [row]})
        (item,) = load_items(path, Choice(), documents=tmp_path / "books")
        assert item.places == ((0, 3),)
        for wrong in ([[2, 1]], [[0, 10_000]], [[-1, 2]], [["a", "b"]], [3]):
            write_json(path, {"moor": [row | {"places": wrong}]})
            with pytest.raises(EvaluationError, match="is not a file of questions"):
                load_items(path, Choice(), documents=tmp_path / "books")

    def test_places_may_be_quoted(self, tmp_path: Path) -> None:
        path = novels_file(tmp_path)
        (tmp_path / "books" / "moor.txt").write_text("Not 3 (three)\nhounds. Or 3 (three) hounds?", encoding="utf-8")
        row = {"question": "How many?", "answer": "3", "places": ["3 (three)  hounds", [0, 3]]}
        write_json(path, {"moor": [row]})
        (item,) = load_items(path, Choice(), documents=tmp_path / "books")
        assert places(item) == ["3 (three)\nhounds", "3 (three) hounds", "Not"]
        write_json(path, {"moor": [row | {"places": ["four hounds"]}]})
        with pytest.raises(EvaluationError, match="'four hounds' is not in the document"):
            load_items(path, Choice(), documents=tmp_path / "books")

    def test_documents_may_be_of_every_kind_but_only_one_of_a_name(self, tmp_path: Path) -> None:
        path = novels_file(tmp_path)
        write_json(path, {"form": [{"question": "Which code?", "answer": "4471"}]})
        (tmp_path / "books" / "form.html").write_text("<p>Code <b>4471</b>", encoding="utf-8")
        (item,) = load_items(path, Choice(), documents=tmp_path / "books")
        assert item.document == "Code 4471"
        (tmp_path / "books" / "form.txt").write_text("Code 4471", encoding="utf-8")
        with pytest.raises(EvaluationError, match=r"several documents for 'form': form\.html, form\.txt"):
            load_items(path, Choice(), documents=tmp_path / "books")

    def test_a_pattern_that_never_ends_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("focusdoc.evaluation.natural_scores._SECONDS", 0.1)
        path = novels_file(tmp_path)
        (tmp_path / "books" / "sea.txt").write_text("a" * 5000 + "b", encoding="utf-8")
        write_json(path, {"sea": [{"question": "What?", "answer": "(a|aa)+$"}]})
        with pytest.raises(EvaluationError, match=r"takes more than 0\.1 s"):
            load_items(path, Choice(), documents=tmp_path / "books")

    def test_of_the_real_file(self, shared_data: Path) -> None:
        def asked(first: float, last: float) -> list[Item]:
            choice = Choice(share=(first, last))
            return load_items(shared_data / "qa" / "novels.json", choice, documents=shared_data / "books")

        assert [len(asked(0, 0.5)), len(asked(0.5, 1))] == [19, 11]
        assert all(item.places for item in asked(0, 1))


class TestRows:
    def test_passages_are_drawn_and_shuffled_by_the_seed_and_each_is_there_once(self, tmp_path: Path) -> None:
        path = rows_file(tmp_path)
        (one, *_), (again, *_), (other, *_) = (load_items(path, Choice(pool=6, seed=seed)) for seed in (0, 0, 1))
        assert one.document == again.document != other.document
        numbers = [part.partition(":")[0] for part in one.document.split("\n\n")]
        assert len(set(numbers)) == len(numbers) == 6
        assert numbers != sorted(numbers)

    def test_only_questions_of_these_passages_with_a_place_are_asked(self, tmp_path: Path) -> None:
        items = load_items(rows_file(tmp_path), Choice(pool=6))
        assert 0 < len(items) <= 12
        for item in items:
            assert int(item.id) % 5
            # Whole words of any case, in the answer's own passage.
            assert [text.lower() for text in places(item)] == [item.answers[0].lower()] * 2
            passage = f"Passage {int(item.id) // 2}:"
            assert item.document[: item.places[0][0]].rpartition("\n\n")[2].startswith(passage)

    def test_a_share_shares_no_passage_with_the_rest(self, tmp_path: Path) -> None:
        path = rows_file(tmp_path)
        first, last = (load_items(path, Choice(share=share)) for share in ((0, 0.5), (0.5, 1)))
        assert not set(first[0].document.split("\n\n")) & set(last[0].document.split("\n\n"))
        assert max(int(item.id) for item in first) < 10 <= min(int(item.id) for item in last)

    def test_gzipped_or_one_line_alone(self, tmp_path: Path) -> None:
        path = rows_file(tmp_path)
        packed = tmp_path / "rows.jsonl.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert load_items(packed, Choice()) == load_items(path, Choice())
        write_lines(path, [{"question": "Which?", "answers": ["Ri"], "ctxs": [{"text": "The Ri."}]}])
        assert [item.document for item in load_items(path, Choice())] == ["The Ri."]

    def test_of_the_real_file(self, shared_data: Path) -> None:
        choice = Choice(share=(0.8, 1), limit=200)
        items = load_items(shared_data / "qa" / "nq-open-oracle.jsonl.gz", choice)
        assert (len(items), items[0].document.count("\n\n") + 1) == (200, 500)


def test_a_limit_draws_by_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    path = squad_file(tmp_path)

    def asked(limit: int | None, seed: int = 0) -> list[str]:
        return [item.id for item in load_items(path, Choice(limit=limit, seed=seed))]

    assert asked(3) == asked(3) == sorted(asked(3))
    assert len(asked(3)) == 3
    assert len({tuple(asked(3, seed)) for seed in range(9)}) > 1
    assert asked(99) == asked(None)


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "cannot be read as JSON"),
    "a number": ("7", "must be a JSON object, or lines"),
    "something else": ('{"a": {"b": 1}}', "name their folder with --documents|not a file of questions"),
    "rows without a field": ('[{"question": "x"}]', "not a file of questions .*KeyError"),
    "no answers": ('[{"question": "x", "answers": [], "ctxs": [{"text": "y"}]}]', "has no question between 0 and 1"),
    "a question of another kind": (
        '[{"question": 5, "answers": ["y"], "ctxs": [{"text": "y"}]}]',
        "question '0' or its answers are not strings",
    ),
    "deep": ("[" * 200_000, "cannot be read as JSON"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    text, words = WRONG[kind]
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(EvaluationError, match=words):
        load_items(tmp_path / "file.json", Choice())


def test_a_file_is_read_under_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natural, "MAX_BYTES", 1000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(EvaluationError, match="has more than 1,000 bytes"):
        load_items(tmp_path / "bomb.gz", Choice())
    with pytest.raises(EvaluationError, match="cannot be read"):
        load_items(tmp_path / "none.json", Choice())
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"[1]")[:-9])
    with pytest.raises(EvaluationError, match="cannot be read"):
        load_items(tmp_path / "torn.gz", Choice())


class TestScores:
    def test_f1_is_the_best_of_the_answers(self) -> None:
        assert f1("The Eiffel Tower.", ["Eiffel tower", "tower"]) == 1
        assert f1("It is the Eiffel tower", ["Eiffel tower"]) == pytest.approx(2 / 3)
        assert f1("", ["x"]) == 0

    def test_contained_takes_whole_words_in_a_row(self) -> None:
        assert contained("It was the Eiffel Tower, in Paris.", ["eiffel tower"]) == 1
        assert contained("the tower of Eiffel", ["Eiffel tower"]) == 0
        assert contained("In 1935.", ["19", "193"]) == 0
        assert contained("anything", ["the"]) == 0  # nothing is left of it to be contained

    def test_right_is_what_matches_with_a_capital_or_without(self) -> None:
        assert right("Weaving cloth", ["weav"]) == right("He is a weaver", ["weav"]) == 1
        assert right("A smith", ["weav"]) == 0

    def test_the_one_entry_knows_the_tasks(self) -> None:
        assert score("natural", "the Eiffel Tower", ["Eiffel tower"]) == 1
        assert score("natural_patterns", "Whiteness", ["[Ww]hite"]) == 1

    def test_a_row_tells_what_was_found_only_where_there_are_passages(self) -> None:
        row = {"task": "natural", "prediction": "In 1935", "answers": ["1935"]}
        assert of_answer(row) == {"F1": pytest.approx(2 / 3), "contained": 1}
        assert of_finding(row) == {}
        for found, told in ((1, [1, 1]), (4, [0, 1]), (5, [0, 0]), (None, [0, 0])):
            assert list(of_finding({**row, "passages": [[0, 1]], "found": found}).values()) == told

    def test_intervals_shrink_with_the_number_of_values_and_are_the_same_again(self) -> None:
        few, many = [1.0, 0.0] * 10, [1.0, 0.0] * 200
        low, high = interval(many)
        # Of a mean of n coins the standard error is 0.5 / sqrt(n).
        assert (low, high) == (pytest.approx(0.5 - 1.96 * 0.025, abs=0.01), pytest.approx(0.5 + 1.96 * 0.025, abs=0.01))
        assert interval(few)[0] < low < 0.5 < high < interval(few)[1]
        assert interval(few) == interval(few)
        assert interval([1.0] * 5) == (1, 1)
