"""Concurrent questions: those over the same chunks share their passes, and each gets what it would get alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from focusdoc import FocusConfig
from focusdoc.attention import attention_kernel
from focusdoc.decoding import together as module
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.sweep import Sweep
from focusdoc.decoding.together import Together
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from tiny_models import random_weights, tiny_model

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


def some_ids(count: int, seed: int) -> list[int]:
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


QUESTIONS = [some_ids(9, 3), some_ids(4, 4), some_ids(17, 5), some_ids(6, 6)]


@pytest.fixture(scope="module")
def make() -> Callable[..., ParallelDecoder]:
    base = BaseModel(tiny_model("llama"))
    weights, kernel = random_weights(base.model), attention_kernel("auto")
    documents = [read_chunks(base, some_ids(53, seed), 16, kernel) for seed in (1, 2)]
    config = FocusConfig(chunk_size=16, candidate_positions="sequential", prompt_bos=False)

    def decoder(together: Together | None = None, document: int = 0) -> ParallelDecoder:
        return ParallelDecoder(
            base,
            weights,
            documents[document],
            kernel=kernel,
            config=config,
            max_new_tokens=5,
            together=together or Together(),
        )

    return decoder


def answered(decoder: ParallelDecoder, question: Sequence[int], steps: int) -> list[Tensor]:
    """The logits of a start and `steps` steps."""
    found = [decoder.start(question, question[-4:])]
    return [*found, *(decoder.step(7 + step) for step in range(steps))]


class Passes:
    """Counts the questions of each pass, and can hold a pass back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        run = module.run_together

        def counted(base: Any, weights: Any, questions: Sequence[Sequence[Sweep]]) -> list[Tensor]:
            self.sizes.append(len(questions))
            self.begun.release()
            assert self.go.wait(10)
            return run(base, weights, questions)

        monkeypatch.setattr(module, "run_together", counted)


def num_waiting(together: Together) -> int:
    """The questions that wait for a pass."""
    with together._changed:
        return sum(map(len, together._waiting.values()))


def wait_for(waiting: int, together: Together) -> None:
    until = time.monotonic() + 10
    while num_waiting(together) != waiting:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_each_gets_what_it_would_get_alone(make: Callable[..., ParallelDecoder]) -> None:
    """Questions of different lengths that start and end at different times."""
    expected = [answered(make(), question, steps=index) for index, question in enumerate(QUESTIONS)]
    together = Together()
    for _ in range(5):
        with ThreadPoolExecutor(len(QUESTIONS)) as pool:
            found = pool.map(lambda each: answered(make(together), each[1], each[0]), enumerate(QUESTIONS))
        for one, alone in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.stack(one), torch.stack(alone), **TOLERANCE)


def test_those_that_come_during_a_pass_share_the_next(
    make: Callable[..., ParallelDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, together = Passes(monkeypatch), Together()
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        first = pool.submit(answered, make(together), QUESTIONS[0], 0)
        assert passes.begun.acquire(timeout=10)
        others = [pool.submit(answered, make(together), question, 0) for question in QUESTIONS[1:]]
        wait_for(3, together)
        passes.go.set()
        found = [each.result(10) for each in (first, *others)]
    assert passes.sizes == [1, 3]
    for one, question in zip(found, QUESTIONS, strict=True):
        torch.testing.assert_close(one, answered(make(), question, 0), **TOLERANCE)
    assert num_waiting(together) == 0


def test_a_pass_takes_no_more_rows_than_fit(
    make: Callable[..., ParallelDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, together = Passes(monkeypatch), Together()
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        runs = [pool.submit(answered, make(together), question, 0) for question in QUESTIONS]
        wait_for(3, together)
        passes.go.set()
        for each in runs:
            each.result(10)
    assert passes.sizes == [1, 1, 1, 1]


def test_another_document_waits_for_nobody(
    make: Callable[..., ParallelDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, together = Passes(monkeypatch), Together()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(answered, make(together, document), QUESTIONS[0], 0) for document in (0, 1)]
        assert all(passes.begun.acquire(timeout=10) for _ in runs)  # both run, though the first has not ended
        passes.go.set()
        for each in runs:
            each.result(10)
    assert passes.sizes == [1, 1]


def test_a_failed_pass_fails_one_question_and_the_others_try_again(
    make: Callable[..., ParallelDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, together = Passes(monkeypatch), Together()
    counted = module.run_together

    def fails_for_three(base: Any, weights: Any, questions: Sequence[Sequence[Sweep]]) -> list[Tensor]:
        found = counted(base, weights, questions)
        if len(questions) == 3:
            raise RuntimeError("out of memory")
        return found

    monkeypatch.setattr(module, "run_together", fails_for_three)
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        first = pool.submit(answered, make(together), QUESTIONS[0], 0)
        assert passes.begun.acquire(timeout=10)
        others = [pool.submit(answered, make(together), question, 1) for question in QUESTIONS[1:]]
        wait_for(3, together)
        passes.go.set()
        errors = [each.exception(10) for each in (first, *others)]
    assert passes.sizes[:3] == [1, 3, 2]
    (failed,) = [error for error in errors if error is not None]
    assert str(failed) == "out of memory"
    for one, error, question in zip(others, errors[1:], QUESTIONS[1:], strict=True):
        if error is None:
            torch.testing.assert_close(
                torch.stack(one.result()), torch.stack(answered(make(), question, 1)), **TOLERANCE
            )
    assert num_waiting(together) == 0


def test_a_failed_pass_fails_its_question_and_no_later_one(
    make: Callable[..., ParallelDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Together()
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_together", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            answered(make(together), QUESTIONS[0], 0)
    torch.testing.assert_close(
        answered(make(together), QUESTIONS[0], 1), answered(make(), QUESTIONS[0], 1), **TOLERANCE
    )


def test_ctrl_c_while_it_waits_for_others_leaves_nothing_behind(make: Callable[..., ParallelDecoder]) -> None:
    together = Together()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Together, "_take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answered(make(together), QUESTIONS[0], 0)
    assert num_waiting(together) == 0
    answered(make(together), QUESTIONS[0], 0)  # does not wait for ever


def test_a_question_that_ended_during_a_failed_pass_does_not_come_back(
    make: Callable[..., ParallelDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Together()
    leading, ended = module._Turn([]), module._Turn([])
    chunks = (1,)

    def fails(*_: Any) -> None:
        with together._changed:
            together._withdraw(ended, chunks, leads=False)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "run_together", fails)
    leading.taken = ended.taken = True
    with pytest.raises(RuntimeError, match="out of memory"):
        together._lead(None, None, [leading, ended], chunks)  # type: ignore[arg-type]  # no pass runs
    assert num_waiting(together) == 0
