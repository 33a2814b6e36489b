"""The official formulas, each rule against a case worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from focusdoc.errors import EvaluationError
from focusdoc.evaluation import score
from focusdoc.evaluation.official import LONGBENCH_TASKS
from focusdoc.evaluation.scores import INFINITEBENCH_SCORES, SCORES

F1_TASKS = ("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "triviaqa")
ROUGE_TASKS = ("gov_report", "qmsum", "multi_news", "samsum")


class TestEntry:
    def test_knows_the_tasks_of_both_benchmarks(self) -> None:
        assert len(LONGBENCH_TASKS) == 15
        assert len(INFINITEBENCH_SCORES) == 12
        assert set(LONGBENCH_TASKS) | set(INFINITEBENCH_SCORES) <= set(SCORES)

    def test_an_unknown_task_lists_the_known(self) -> None:
        with pytest.raises(EvaluationError, match=r"'squad' is unknown; choose one of narrativeqa, .*code_debug"):
            score("squad", "x", ["x"])

    def test_a_row_without_answers_is_an_error(self) -> None:
        with pytest.raises(EvaluationError, match="no answer"):
            score("qasper", "x", [])

    def test_a_single_answer_stands_for_a_list_of_one(self) -> None:
        assert score("qasper", "blue", "blue") == score("passkey", "12", "12") == score("code_run", "12", 12) == 1


class TestF1:
    @pytest.mark.parametrize("task", F1_TASKS)
    @pytest.mark.parametrize(
        ("prediction", "answers", "expected"),
        [
            ("The Cat, sat!", ["cat sat"], 1.0),  # lower case, punctuation and articles away
            ("a an the", ["cat"], 0.0),
            ("", ["cat"], 0.0),
            ("the", ["a"], 0.0),  # nothing on either side: no common token
            ("cat cat dog", ["cat dog dog"], 2 * (2 / 3) * (2 / 3) / (4 / 3)),  # bags: cat once, dog once
            ("cat", ["dog", "cat sat"], 2 / 3),  # the best of the answers
            ("well-known", ["wellknown"], 1.0),  # punctuation goes without a space
            ("theory", ["ory"], 0.0),  # an article is a whole word
        ],
    )
    def test_bags_of_normalised_words(self, task: str, prediction: str, answers: list[str], expected: float) -> None:
        assert score(task, prediction, answers) == pytest.approx(expected)

    @pytest.mark.parametrize("task", [task for task in F1_TASKS if task != "triviaqa"])
    def test_all_lines_count(self, task: str) -> None:
        assert score(task, "cat\ndog", ["cat"]) == pytest.approx(2 / 3)

    def test_triviaqa_counts_its_first_line_behind_leading_line_breaks(self) -> None:
        assert score("triviaqa", "\n\ncat\ndog", ["cat"]) == 1.0
        assert score("triviaqa", " \ncat", ["cat"]) == 0.0  # the first line is a space


class TestRouge:
    # Of "cat sat mat" and "cat mat" the longest common subsequence is two words: precision 2/3, recall 1.
    EXPECTED = 2 * (2 / 3) / (2 / 3 + 1)

    @pytest.mark.parametrize("task", ROUGE_TASKS)
    def test_longest_common_subsequence(self, task: str) -> None:
        assert score(task, "cat sat mat", ["cat mat"]) == pytest.approx(self.EXPECTED, abs=1e-6)
        assert score(task, "cat sat mat", ["x", "cat mat"]) == pytest.approx(self.EXPECTED, abs=1e-6)

    @pytest.mark.parametrize("task", ROUGE_TASKS)
    @pytest.mark.parametrize("empty", ["", ".", "\n"])
    def test_an_empty_prediction_scores_0(self, task: str, empty: str) -> None:
        assert score(task, empty, ["cat mat"]) == 0.0

    def test_words_keep_their_case_and_punctuation(self) -> None:
        assert score("multi_news", "Cat", ["cat"]) == 0.0

    def test_samsum_counts_its_first_line(self) -> None:
        assert score("samsum", "\ncat mat\nand more", ["cat mat"]) == pytest.approx(1.0, abs=1e-6)
        assert score("qmsum", "cat mat\nand more", ["cat mat"]) < 0.9


class TestTrec:
    CLASSES = ("Food", "Animal", "Animal kind", "Kind", "Number of something", "Other number")

    @pytest.mark.parametrize(
        ("prediction", "gold", "expected"),
        [
            ("Type: Food", "Food", 1.0),
            ("Food or Animal", "Food", 0.5),
            ("Kind", "Food", 0.0),
            ("food", "Food", 0.0),  # case counts
            ("Food\nAnimal", "Food", 1.0),  # the first line
            ("Animal kind", "Animal kind", 1.0),  # "Animal", a proper part of the gold label, is dropped
        ],
    )
    def test_share_of_the_named_classes(self, prediction: str, gold: str, expected: float) -> None:
        assert score("trec", prediction, [gold], self.CLASSES) == expected

    def test_a_neighbour_survives_because_the_list_shrinks_under_the_loop(self) -> None:
        classes = ["a", "b", "ab"]
        # Named are a, b and ab. Dropping a moves b into its place, and the loop goes on with ab.
        assert score("trec", "ab", ["ab"], classes) == 0.5

    def test_needs_the_classes(self) -> None:
        with pytest.raises(EvaluationError, match="all_classes"):
            score("trec", "Food", ["Food"])


class TestNumbers:
    @pytest.mark.parametrize(
        ("prediction", "expected"),
        [("Paragraph 7", 1.0), ("7, 12, 7, 9", 0.5), ("none", 0.0), ("17", 0.0), ("Paragraph 07", 0.0)],
    )
    def test_passage_retrieval_is_the_share_of_right_numbers(self, prediction: str, expected: float) -> None:
        assert score("passage_retrieval_en", prediction, ["Paragraph 7"]) == expected
        assert score("passage_count", prediction, ["7"]) == expected

    def test_a_gold_without_a_paragraph_is_an_error(self) -> None:
        with pytest.raises(EvaluationError, match="Paragraph N"):
            score("passage_retrieval_en", "7", ["7"])


class TestCode:
    @pytest.mark.parametrize("task", ["lcc", "repobench-p"])
    @pytest.mark.parametrize(
        ("prediction", "expected"),
        [
            ("return x", 1.0),
            ("\n\nreturn x\nreturn y", 1.0),
            ("```python\n# the next line\n// or so\nreturn x", 1.0),
            ("# only a comment", 0.0),
            ("", 0.0),
            # 7 of 8 letters match in order: 2 * 7 / 16, rounded to whole percents.
            ("return y", 0.88),
        ],
    )
    def test_first_line_of_code_by_edit_similarity(self, task: str, prediction: str, expected: float) -> None:
        assert score(task, prediction, ["return x"]) == expected


class TestInfiniteBench:
    @pytest.mark.parametrize("task", ["passkey", "number_string", "needle"])
    @pytest.mark.parametrize(
        ("prediction", "expected"),
        [("The key is 00123.", 1), ("00123 456", 1), ("456 00123", 0), ("001234", 0), ("123", 0), ("none", 0), ("", 0)],
    )
    def test_first_run_of_digits(self, task: str, prediction: str, expected: int) -> None:
        assert score(task, prediction, ["00123"]) == expected

    @pytest.mark.parametrize(
        ("prediction", "expected"),
        [
            ('"ab-1": "cd-2"', 1),
            ("It is cd-2.", 1),
            ("{cd-2}!\nyes", 1),
            ("cd-23", 0),
            ("(cd-2)", 0),  # brackets are no blanks
            ("", 0),
        ],
    )
    def test_kv_retrieval_looks_among_the_words(self, prediction: str, expected: int) -> None:
        assert score("kv_retrieval", prediction, ["cd-2"]) == expected

    @pytest.mark.parametrize(
        ("prediction", "gold", "expected"),
        [
            ("It is 42, not 7", 42, 1),
            ("7 or 42", 42, 0),
            ("42.5", 42, 0),  # no int: the official code stops there
            ("42.5", 42.5, 1),
            ("43", 43.0, 1),
            ("-42", 42, 1),  # a sign is not part of a number
            ("none", 42, 0),
            ("42", "42", 1),  # the hosted data set holds texts
            ("42.5", "42.5", 1),
        ],
    )
    def test_math_find_takes_the_first_number(self, prediction: str, gold: Any, expected: int) -> None:
        assert score("math_find", prediction, [gold]) == expected

    @pytest.mark.parametrize(
        ("prediction", "expected"),
        [("the value is -12.", 1), ("`-12`", 1), ("-12 or so", 0), ("12", 0), ("", 0), ("x: '-12'", 1), ("7 -12\n", 1)],
    )
    def test_code_run_takes_the_last_word(self, prediction: str, expected: int) -> None:
        assert score("code_run", prediction, [-12]) == expected
        assert score("code_run", prediction, ["-12"]) == expected

    @pytest.mark.parametrize(
        ("prediction", "expected"),
        [
            ("B", 1),
            ("B.", 1),
            ("B: it divides by zero", 1),
            ("load_data", 1),
            ("The answer is: B", 1),
            ("The function is: load_data", 1),
            ("answer: `load_data`", 1),  # back quotes become spaces, and runs of spaces one
            ("answer:load_data", 0),  # one character behind the prefix is skipped, whatever it is
            ("Answer is:", 0),
            ("The correct option is: B", 1),
            ("A", 0),
            ("C or B", 1),  # the last letter counts
            ("B or C", 1),  # then the beginning
            ("it may be load_data", 0),
            ("", 0),
        ],
    )
    def test_code_debug(self, prediction: str, expected: int) -> None:
        assert score("code_debug", prediction, ["load_data", "B"]) == expected

    @pytest.mark.parametrize(
        ("prediction", "expected"),
        [
            ("B", 1),
            (" B. Because", 1),
            ("Paris", 1),
            ("The answer is: Paris", 1),
            ("answer: Paris", 1),
            ("The answer is Paris", 1),
            ("The correct option is: Paris", 1),
            ("The correct option is: B", 1),
            ("A", 0),
            ("I take A", 0),
            ("Rome", 0),
            ("", 0),
            ("I think it is B", 1),
        ],
    )
    def test_longbook_choice(self, prediction: str, expected: int) -> None:
        assert score("longbook_choice_eng", prediction, ["Paris", "B"]) == expected

    def test_longbook_qa_is_f1_with_the_best_answer(self) -> None:
        assert score("longbook_qa_eng", "The cat", ["dog", "cat sat"]) == pytest.approx(2 / 3)

    def test_longbook_qa_chn_counts_characters(self) -> None:
        # 3 of 4 and 3 of 3 characters
        assert score("longbook_qa_chn", "\u5f20\u4e09\u4e30\u3002 x", ["\u5f20\u4e09\u4e30"]) == pytest.approx(6 / 7)

    def test_longbook_sum(self) -> None:
        assert score("longbook_sum_eng", "Cat sat mat", ["cat mat"]) == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))

    def test_longdialogue_finds_a_name(self) -> None:
        assert score("longdialogue_qa_eng", "It is Jack.", ["JACK"]) == 1
        assert score("longdialogue_qa_eng", "It is Jill.", ["JACK"]) == 0

    def test_math_calc_counts_the_right_beginning(self) -> None:
        assert score("math_calc", "[1, 4, 9]", [1, 4, 8]) == pytest.approx(2 / 3)
        assert score("math_calc", "", [1, 4]) == 0
        assert math.isclose(score("math_calc", "1 4 8 9", [[1, 4, 8]]), 1)
