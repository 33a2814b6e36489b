"""Training a reader's LoRA: what is asked about the same passages is one pass, and counts as if it were asked alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from focusdoc.decoding.prompt import encode_messages, encode_text
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.lora import new_lora
from focusdoc.readers.reader import judging_prompt, reading_prompt
from focusdoc.readers.training import Branch, Exercise, Question, branches_of, losses, pack
from tiny_models import tiny_model

PASSAGES = ("The miller's house is white,\nnot red.", "The smith's house is blue.")
EXERCISE = Exercise(
    PASSAGES,
    (Question("What colour has the miller's house?", "white", "red"), Question("What is blue?", "The smith's\nhouse")),
    ("Who lives there?",),
)


def base_of(family: str, tokenizer: Any) -> BaseModel:
    return BaseModel(tiny_model(family, vocab_size=len(tokenizer), max_position_embeddings=4096), tokenizer)


@pytest.fixture(scope="module")
def base(tiny_tokenizer: Any) -> BaseModel:
    return base_of("qwen2", tiny_tokenizer)


def drawn(exercise: Exercise = EXERCISE, times: int = 40) -> list[Branch]:
    return [branch for seed in range(times) for branch in branches_of(exercise, random.Random(seed))]


class TestBranches:
    def test_answers_stand_on_one_line(self) -> None:
        assert {branch.target for branch in drawn() if branch.is_answer} == {"white", "The smith's house"}

    def test_right_answers_are_judged_right_and_wrong_ones_wrong(self) -> None:
        miller, smith = EXERCISE.questions
        judged = {(branch.messages[-1][1], branch.target) for branch in drawn() if not branch.is_answer}
        expected = {
            (judging_prompt(miller.text, PASSAGES, "white")[-1][1], "Yes"),
            (judging_prompt(miller.text, PASSAGES, "red")[-1][1], "No"),
            (judging_prompt(smith.text, PASSAGES, "The smith's house")[-1][1], "Yes"),
            (judging_prompt(smith.text, PASSAGES, "white")[-1][1], "No"),
            (judging_prompt("Who lives there?", PASSAGES, "white")[-1][1], "No"),
            (judging_prompt("Who lives there?", PASSAGES, "The smith's house")[-1][1], "No"),
        }
        assert judged == expected

    def test_one_question_alone_has_no_wrong_answer(self) -> None:
        alone = Exercise(PASSAGES, (Question("What is blue?", "The smith's house"),))
        assert {branch.target for branch in drawn(alone) if not branch.is_answer} == {"Yes"}

    def test_a_beginning_has_no_end_and_is_not_judged(self) -> None:
        cut = Exercise(PASSAGES, (Question("Describe the houses.", "The miller's house is", is_cut=True),))
        assert {(branch.target, branch.ends) for branch in drawn(cut)} == {("The miller's house is", False)}
        beside = Exercise(PASSAGES, (*cut.questions, *EXERCISE.questions), EXERCISE.unanswered)
        assert not any(
            "The miller's house is\n" in each.messages[-1][1] for each in drawn(beside) if not each.is_answer
        )

    def test_no_more_questions_than_fit_a_pass(self) -> None:
        many = Exercise(PASSAGES, tuple(Question(f"What is {number}?", f"{number}") for number in range(30)))
        assert sum(branch.is_answer for branch in branches_of(many, random.Random(0))) == 6

    def test_an_exercise_without_a_question_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs a question"):
            branches_of(Exercise(PASSAGES, ()), random.Random(0))


class TestPacked:
    def alone(self, base: BaseModel, branch: Branch, end: int) -> float:
        """Nats per token of one branch, by a pass of its own."""
        prompt = encode_messages(base.tokenizer, branch.messages)
        written = encode_text(base.tokenizer, branch.target) + ([end] if branch.ends else [])
        with torch.no_grad():
            logits = base.model(torch.tensor([prompt + written])).logits[0].float().log_softmax(dim=-1)
        nats = [-float(logits[len(prompt) + at - 1, token]) for at, token in enumerate(written)]
        return sum(nats) / len(nats)

    @pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "olmo2", "granite"])
    def test_every_branch_costs_what_it_costs_alone(self, family: str, tiny_tokenizer: Any) -> None:
        base = base_of(family, tiny_tokenizer)
        branches = branches_of(EXERCISE, random.Random(1))
        assert {branch.is_answer for branch in branches} == {True, False}
        with torch.no_grad():
            found = losses(base, pack(base.tokenizer, 2, branches))
        expected = [self.alone(base, branch, 2) for branch in branches]
        answers = [nats for nats, branch in zip(expected, branches, strict=True) if branch.is_answer]
        judged = [nats for nats, branch in zip(expected, branches, strict=True) if not branch.is_answer]
        torch.testing.assert_close(found.answers, torch.tensor(answers), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.judgements, torch.tensor(judged), rtol=1e-4, atol=1e-4)

    def test_the_passages_are_in_the_pass_once(self, base: BaseModel) -> None:
        branches = [Branch(reading_prompt(each.text, PASSAGES), each.answer, True, True) for each in EXERCISE.questions]
        packed = pack(base.tokenizer, 2, branches)
        assert base.tokenizer.decode(packed.token_ids[0]).count("The smith's house is blue.") == 1

    def test_a_single_branch_needs_no_other(self, base: BaseModel) -> None:
        branch = Branch(reading_prompt("What is blue?", PASSAGES), "The smith's house", True, True)
        with torch.no_grad():
            found = losses(base, pack(base.tokenizer, 2, [branch]))
        torch.testing.assert_close(found.total, torch.tensor(self.alone(base, branch, 2)), rtol=1e-4, atol=1e-4)
        assert len(found.judgements) == 0


def test_training_teaches_an_answer(base: BaseModel) -> None:
    base.model.requires_grad_(False)
    tuned = base.with_lora(new_lora("tiny", base.model, frozenset({"v_proj", "down_proj"}), 8, 2.0))
    weights = [each for each in tuned.decoding_model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.02)
    packed = pack(base.tokenizer, 2, branches_of(EXERCISE, random.Random(1)))
    first = losses(tuned, packed)
    for _ in range(100):
        losses(tuned, packed).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    last = losses(tuned, packed)
    assert last.total.item() < 0.75 * first.total.item()
    assert torch.equal(losses(base, packed).answers, first.answers)  # the base model is as it was
