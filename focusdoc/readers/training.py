"""Training a reader's LoRA for drafts: short answers from passages, and judging whether passages state an answer.

Everything asked about the same passages is one pass: the prompts share the tokens of the passages, and each goes on
behind them in a branch of its own that sees only them and itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.decoding.prompt import encode_messages, encode_text
from focusdoc.modeling.base import BaseModel
from focusdoc.readers.reader import ANSWER_INSTRUCTION, RETRY_INSTRUCTION, Messages, judging_prompt, reading_prompt

#: Share of the prompts with the instruction for a retry, and share of the questions whose answer is judged too.
RETRIED, JUDGED = 0.08, 0.6
#: Weight of the loss of judgements beside that of answers.
JUDGEMENT_WEIGHT = 0.5
#: Most questions about the same passages in one pass.
MAX_QUESTIONS = 6


@dataclass(frozen=True, slots=True)
class Question:
    """A question that some passages answer.

    Attributes:
        answer: as it stands in the passages.
        wrong: a tempting wrong answer; None for that of another question about the same passages.
        is_cut: whether the answer is only a beginning, which is not judged.
    """

    text: str
    answer: str
    wrong: str | None = None
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Exercise:
    """Passages, questions that they answer, and questions that they do not answer."""

    passages: tuple[str, ...]
    questions: tuple[Question, ...]
    unanswered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """A prompt and what is to be written: an answer, up to its end if `ends`, or a judgement."""

    messages: Messages
    target: str
    is_answer: bool
    ends: bool


def branches_of(exercise: Exercise, rng: random.Random) -> list[Branch]:
    """The prompts of an exercise: its questions, judgements of right and wrong answers, and of one to another question.

    Raises:
        ValueError: the exercise has no question.
    """
    questions = rng.sample(exercise.questions, min(len(exercise.questions), MAX_QUESTIONS))
    if not questions:
        raise ValueError("an exercise needs a question")
    passages, answers = exercise.passages, [_one_line(each.answer) for each in questions]
    complete = [answer for question, answer in zip(questions, answers, strict=True) if not question.is_cut]
    branches = []
    for question, answer in zip(questions, answers, strict=True):
        instruction = RETRY_INSTRUCTION if rng.random() < RETRIED else ANSWER_INSTRUCTION
        prompt = reading_prompt(question.text, passages, instruction=instruction)
        branches.append(Branch(prompt, answer, True, not question.is_cut))
    for question, answer in zip(questions, answers, strict=True):
        if question.is_cut or rng.random() >= JUDGED:
            continue
        others = [each for each in complete if each.casefold() != answer.casefold()]
        wrong = question.wrong or (rng.choice(others) if others else None)
        proposed = wrong if wrong is not None and rng.random() < 0.5 else answer
        target = "Yes" if _one_line(proposed) == answer else "No"
        branches.append(Branch(judging_prompt(question.text, passages, _one_line(proposed)), target, False, False))
    if exercise.unanswered and complete:
        prompt = judging_prompt(rng.choice(exercise.unanswered), passages, rng.choice(complete))
        branches.append(Branch(prompt, "No", False, False))
    return branches


@dataclass(frozen=True, slots=True)
class Packed:
    """Branches behind what their prompts have in common.

    Attributes:
        token_ids, positions: int64 [1, rows].
        mask: which rows a row sees, bool [1, 1, rows, rows].
        predicting: the rows that predict the targets, int64 [targets]. targets: their tokens, int64 [targets].
        lengths: targets of each branch, in order.
        is_answer: of each branch.
    """

    token_ids: Tensor
    positions: Tensor
    mask: Tensor
    predicting: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    is_answer: tuple[bool, ...]


def pack(tokenizer: Any, end: int, branches: Sequence[Branch]) -> Packed:
    """Pack branches into one pass.

    Args:
        end: the token that ends an answer.
    """
    prompts = [encode_messages(tokenizer, branch.messages) for branch in branches]
    shortest = min(map(len, prompts)) - 1
    shared = next((at for at in range(shortest) if len({ids[at] for ids in prompts}) > 1), shortest)
    token_ids, positions = prompts[0][:shared], list(range(shared))
    owners = [-1] * shared
    predicting, targets, lengths = list[int](), list[int](), list[int]()
    for number, (branch, ids) in enumerate(zip(branches, prompts, strict=True)):
        written = encode_text(tokenizer, branch.target) + ([end] if branch.ends else [])
        rows = [*ids[shared:], *written[:-1]]
        first = len(token_ids) + len(ids) - shared - 1
        predicting += range(first, first + len(written))
        targets += written
        lengths.append(len(written))
        token_ids = token_ids + rows
        positions += range(shared, shared + len(rows))
        owners += [number] * len(rows)
    owner = torch.tensor(owners)
    seen = (owner[:, None] == owner) | (owner == -1)
    return Packed(
        torch.tensor([token_ids]),
        torch.tensor([positions]),
        seen.tril()[None, None],
        torch.tensor(predicting),
        torch.tensor(targets),
        tuple(lengths),
        tuple(branch.is_answer for branch in branches),
    )


@dataclass(frozen=True, slots=True)
class Losses:
    """What the targets of a pass cost.

    Attributes:
        answers, judgements: nats per token of each branch, float32 [branches of the kind].
        exact_answers, exact_judgements: whether greedy decoding would write exactly the target, bool, likewise.
    """

    answers: Tensor
    judgements: Tensor
    exact_answers: Tensor
    exact_judgements: Tensor

    @property
    def total(self) -> Tensor:
        """The loss to train on."""
        judged = JUDGEMENT_WEIGHT * self.judgements.mean() if len(self.judgements) else 0.0
        return self.answers.mean() + judged


def losses(base: BaseModel, packed: Packed) -> Losses:
    """The losses of a pass through `base.decoding_model`."""
    model: Any = base.decoding_model
    # Added to the scores, as every attention of transformers understands it.
    mask = torch.zeros(packed.mask.shape, dtype=base.dtype).masked_fill_(~packed.mask, torch.finfo(base.dtype).min)
    hidden = model.get_decoder()(
        input_ids=packed.token_ids.to(base.device),
        position_ids=packed.positions.to(base.device),
        attention_mask=mask.to(base.device),
        use_cache=False,
    ).last_hidden_state
    logits = base.logits(hidden[0, packed.predicting])
    targets = packed.targets.to(base.device)
    each = functional.cross_entropy(logits, targets, reduction="none")
    nats = torch.stack([part.mean() for part in torch.split(each, list(packed.lengths))])
    exact = torch.stack([part.all() for part in torch.split(logits.argmax(dim=-1) == targets, list(packed.lengths))])
    answers = torch.tensor(packed.is_answer, device=base.device)
    return Losses(nats[answers], nats[~answers], exact[answers], exact[~answers])


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
