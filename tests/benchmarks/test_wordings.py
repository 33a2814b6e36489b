"""The facts of benchmarks/wordings.json share nothing with the training's, and stand where the benchmark says."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import wordings as benchmark
from novel import NOVELS
from wordings import (
    Wording,
    answer_places,
    as_printed,
    distribute,
    paragraph_range,
    plant,
    planted_novel,
    write,
)

from focusdoc.evaluation.item import Item
from focusdoc.evaluation.natural import Choice, load_items
from focusdoc.evaluation.natural_scores import matches
from focusdoc.training.facts import KINDS, NAMES, THINGS

WORDINGS = benchmark.load_wordings()
TUNING = benchmark.load_wordings("tuning")
GROUND = [f"Paragraph {number} of a long walk over the moor." for number in range(40)]
#: What any novel writes with a capital: titles, days, feasts, peoples.
COMMON = {
    *("Mr", "Mrs", "Dr", "Messrs", "Bishop", "Regent", "French", "Greek", "Methodists", "Christian", "Scripture"),
    *("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Sundays", "February"),
    *("Michaelmas", "Christmas", "Easter"),
}
#: How training tells and asks for numbers, pass keys and pairs (training/facts.toml), and what is close to it.
NUMBER_FRAMES = (
    r"\bthe [\w ]+ (of|for) [\w ]+ is:? \d",
    r"\d+ is the \w+",
    r"\bhas the [\w ]+ \d",
    r"^(remember|keep in mind) that the",
    r"\bspecial [\w ]+s: for\b",
    r"^what is the [\w ]+ (of|for) [\w ]+\?",
    r"^which [\w ]+ does [\w ]+ have\?",
    r"^notify me the\b",
    r"pass ?(key|code|word)|secret (number|code)|hidden in the text",
    r'"[\w-]+": "|\w = \w|\bkey "',
)
SLOT = r"[\w' -]{1,60}?"


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.;:?!])[”’\"']?\s|[“”\n]", text) if part.strip()]


def frame(template: str) -> re.Pattern[str]:
    """A template of training with anything in its slots."""
    return re.compile(SLOT.join(re.escape(part) for part in re.split(r"\{\w+\}", template)), re.IGNORECASE)


class TestFacts:
    def test_there_are_a_hundred_and_a_third_of_them_is_said_by_somebody(self) -> None:
        kinds = Counter(wording.kind for wording in WORDINGS)
        assert kinds.total() == 100
        assert kinds["dialogue"] >= 34
        assert min(kinds[kind] for kind in ("narration", "verse", "list", "table", "letter", "notice")) >= 5
        assert len({wording.question for wording in WORDINGS}) == 100

    def test_a_third_of_the_answers_are_numbers(self) -> None:
        assert 30 <= sum(re.search(r"\d{2}", wording.answer) is not None for wording in WORDINGS) <= 40

    @pytest.mark.parametrize("wording", [*WORDINGS, *TUNING], ids=lambda wording: wording.question[:40])
    def test_the_text_holds_the_answer_and_the_question_does_not_tell_it(self, wording: Wording) -> None:
        assert matches(wording.answer, wording.text)
        assert not matches(wording.answer, wording.question)

    def test_no_fact_for_tuning_is_among_them(self) -> None:
        assert not {wording.text for wording in WORDINGS} & {wording.text for wording in TUNING}
        assert not {wording.question for wording in WORDINGS} & {wording.question for wording in TUNING}

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.told[0])
    def test_no_frame_of_training_tells_or_asks_it(self, kind: Any) -> None:
        told, asked = ([frame(template) for template in templates] for templates in (kind.told, kind.asked))
        for wording in WORDINGS:
            assert not any(each.fullmatch(part) for each in told for part in sentences(wording.text)), wording
            assert not any(each.fullmatch(wording.question) for each in asked), wording

    def test_nothing_is_told_or_asked_as_training_does_numbers(self) -> None:
        for wording in WORDINGS:
            for part in [*sentences(wording.text), wording.question]:
                assert not any(re.search(each, part, re.IGNORECASE) for each in NUMBER_FRAMES), part

    def test_a_frame_of_training_would_be_noticed(self) -> None:
        assert frame("{who} was ruined by {cause}.").fullmatch("Obadiah Slee was ruined by a lost wager.")
        assert re.search(NUMBER_FRAMES[0], "the access code of Obadiah Slee is 418207")

    def test_the_training_vocabulary_names_nobody_here(self) -> None:
        drawn = {
            *NAMES["first_names"],
            *NAMES["last_names"],
            *NAMES["places"],
            *THINGS["ship"],
        }
        coined = re.compile(f"({'|'.join(NAMES['syllables'])}){{2,3}}", re.IGNORECASE)
        for wording in WORDINGS:
            for name in re.findall(r"\b[A-Z][a-z]+\b", f"{wording.text} {wording.question}"):
                assert name not in drawn
                assert not coined.fullmatch(name)
            assert not any(key in wording.text.lower() for key in NAMES["numbered"])


class TestAmongNovels:
    @pytest.fixture(scope="class")
    @classmethod
    def held_out(cls, shared_data: Path) -> set[str]:
        """The words of the novels that the shipped adapter was not trained on."""
        recipe = (Path(benchmark.__file__).parents[1] / "scripts" / "train_default_adapter.py").read_text("utf-8")
        names = re.findall(r'"(\d+_\w+)"', recipe)
        assert set(NOVELS) <= set(names)
        texts = [(shared_data / "books" / f"{name}.txt").read_text(encoding="utf-8") for name in names]
        return {word for text in texts for word in re.findall(r"[^\W\d_]+", text)}

    def test_no_name_is_one_of_the_novels(self, held_out: set[str]) -> None:
        for wording in WORDINGS:
            assert not self.names(wording, held_out) & held_out, wording

    def test_a_question_names_what_no_other_fact_has_or_nothing(self, held_out: set[str]) -> None:
        named = 0
        for wording in WORDINGS:
            others = {name for other in WORDINGS if other != wording for name in self.names(other, held_out)}
            own = self.names(Wording(wording.kind, "", wording.question[1:], ""), held_out)
            assert not own or own - others, wording
            named += bool(own)
        assert 70 <= named <= 80  # the others ask in words of their own alone

    def names(self, wording: Wording, known: set[str]) -> set[str]:
        """Words with a capital that the novels do not have without one."""
        found = set(re.findall(r"\b[A-Z][a-z]+\b", f"{wording.text} {wording.question}"))
        return {name for name in found - COMMON if name.lower() not in known}


class TestPlanting:
    def test_every_text_has_as_many_facts_of_a_kind_as_any_other_or_one_more(self) -> None:
        texts = distribute(WORDINGS)
        assert [len(text) for text in texts] == [10] * 10
        assert {wording for text in texts for wording in text} == set(WORDINGS)
        for kind in {wording.kind for wording in WORDINGS}:
            counts = [sum(wording.kind == kind for wording in text) for text in texts]
            assert max(counts) - min(counts) <= 1

    def test_prose_is_set_in_lines_and_nothing_is_changed_but_spaces(self) -> None:
        for wording in WORDINGS:
            printed = as_printed(wording.text)
            assert max(map(len, printed.split("\n"))) <= 72
            assert printed.replace("\n", " ") == wording.text.replace("\n", " ")

    def test_facts_stand_between_paragraphs_where_the_spans_say(self) -> None:
        facts = ["A fact\n\nof two parts.", "Another fact.", "A third."]
        planted = plant(GROUND, facts, random.Random(0))
        for fact, (start, end) in zip(facts, planted.spans, strict=True):
            assert planted.text[start:end] == fact
            assert planted.text[start - 2 : start] == planted.text[end : end + 2] == "\n\n"
        assert [part for part in planted.text.split("\n\n") if part.startswith("Paragraph")] == GROUND

    def test_places_depend_on_the_seed(self) -> None:
        spans = [plant(GROUND, ["A fact."], random.Random(seed)).spans[0] for seed in (1, 1, 2, 3)]
        assert spans[0] == spans[1]
        assert len(set(spans)) > 1

    def test_a_stretch_fills_its_room_from_a_random_paragraph_on(self) -> None:
        sizes = [7, 11, 13] * 20
        found = [paragraph_range(sizes, 100, random.Random(seed)) for seed in range(50)]
        assert len({each.start for each in found}) > 10
        assert all(100 - 13 < sum(sizes[each]) <= 100 for each in found)

    def test_a_text_has_so_many_tokens(self, tiny_tokenizer: Any) -> None:
        planted = planted_novel(tiny_tokenizer, "\n\n".join(GROUND * 9), WORDINGS[:3], 4000, random.Random(0))
        assert 3900 < len(planted.text.encode()) <= 4000

    def test_the_place_of_an_answer_is_found_over_a_line_end(self) -> None:
        planted = plant(GROUND, ["They met at ten\nto five."], random.Random(0))
        ((start, end),) = answer_places(planted, 0, "ten to five")
        assert planted.text[start:end] == "ten\nto five"


class TestFiles:
    FACTS = (
        Wording("dialogue", "“It was the grebe,” said Miss Hallibut.", "Which bird was it?", "(?i)grebe"),
        Wording("notice", "NO WALKING on the moor,\nby order of Col. Ruddle.", "Who forbids it?", "(?i)ruddle|walk"),
    )

    @pytest.fixture
    def items(self, tiny_tokenizer: Any, tmp_path: Path) -> list[Item]:
        write(tmp_path, tiny_tokenizer, [self.FACTS], ["\n\n".join(GROUND * 9)], tokens=4000, seed=0)
        return load_items(tmp_path / "questions.json", Choice(), documents=tmp_path)

    def test_every_fact_is_a_question_about_its_text(self, items: list[Item]) -> None:
        assert [item.after.strip() for item in items] == [fact.question for fact in self.FACTS]
        for item, fact in zip(items, self.FACTS, strict=True):
            assert fact.text in item.context

    def test_the_place_is_in_the_fact_alone(self, items: list[Item]) -> None:
        text = items[1].context
        assert text.count("walk") > 1  # a paragraph of the ground has the word too
        assert [text[start:end] for start, end in items[1].places] == ["WALK", "Ruddle"]
