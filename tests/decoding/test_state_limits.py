"""What runs behind the chunks grows with the answer, and is refused where it does not fit into memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.decoding import answering, parallel, state
from focusdoc.decoding.candidates import Candidates
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.errors import MemoryShortageError
from focusdoc.modeling.base import BaseModel
from tiny_models import tiny_engine, tiny_model

TEXT = " ".join(f"The colour of house {number} is blue." for number in range(20))
QUESTIONS = ["What colour?", "Which house is red?", "Is it?", "Where?", "Who?"]
DRAWN: dict[str, Any] = {"max_new_tokens": 30, "ignore_eos": True, "temperature": 1.2, "seed": 3}


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=256))


@pytest.fixture(scope="module")
def memory(engine: FocusEngine) -> Any:
    return engine.read(Document.from_text(TEXT))


def leave_free(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(state, "free_bytes", lambda device: num_bytes)


class TestTails:
    def test_take_room_as_the_answer_goes_on(
        self, engine: FocusEngine, memory: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parallel, "TAIL_STEP", 8)
        rooms: list[int] = []
        finish_passes = ParallelDecoder.finish_passes

        def watched(self: ParallelDecoder, *args: Any) -> torch.Tensor:
            logits = finish_passes(self, *args)
            assert all(self.tail_len < group.room <= self.tail_len + 9 for group in self.groups)
            rooms.append(self.groups[0].room)
            return logits

        monkeypatch.setattr(ParallelDecoder, "finish_passes", watched)
        engine.ask(memory, "What?", **{**DRAWN, "max_new_tokens": 300})
        assert len(set(rooms)) > 30
        assert rooms == sorted(rooms)

    @pytest.mark.parametrize("config", [{}, {"active_chunks": 2}, {"chunk_batch": 2}], ids=str)
    @pytest.mark.parametrize("step", [1, 7])
    def test_however_they_grow_the_answer_is_the_same(
        self, tiny_tokenizer: Any, config: dict[str, Any], step: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=256, **config))
        memory = engine.read(Document.from_text(TEXT))
        monkeypatch.setattr(parallel, "TAIL_STEP", 1000)
        wanted = engine.ask(memory, "What?", **DRAWN)
        monkeypatch.setattr(parallel, "TAIL_STEP", step)
        found = engine.ask(memory, "What?", **DRAWN)
        assert found.token_ids == wanted.token_ids
        assert [source.text for source in found.sources] == [source.text for source in wanted.sources]


class TestShortage:
    def test_a_question_that_does_not_fit_is_refused_with_the_bytes(
        self, engine: FocusEngine, memory: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leave_free(monkeypatch, 100_000)
        monkeypatch.setattr(ParallelDecoder, "start", lambda *_: pytest.fail("it was begun"))
        for call in (engine.ask, engine.stream):
            with pytest.raises(MemoryShortageError, match=rf"each of {memory.num_chunks} chunks.*100,000 are free"):
                call(memory, "What colour?", max_new_tokens=8)
        with pytest.raises(MemoryShortageError, match="100,000 are free"):
            engine.ask_many(memory, QUESTIONS, max_new_tokens=8)

    def test_many_new_tokens_are_no_reason_to_refuse_a_short_answer(
        self, engine: FocusEngine, memory: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What they would all take is more than there is; what the answer takes is not."""
        whole = memory.num_chunks * 800 * engine.base.kv_bytes_per_token
        leave_free(monkeypatch, whole // 2)
        first = engine.ask(memory, "What?", max_new_tokens=1, ignore_eos=True).text
        assert engine.ask(memory, "What?", max_new_tokens=700, ignore_eos=True, stop=first).finish_reason == "stop"

    def test_an_answer_that_outgrows_memory_says_so(
        self, engine: FocusEngine, memory: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pieces: list[str] = []
        stream = engine.stream(memory, "What?", **{**DRAWN, "max_new_tokens": 400})
        pieces.append(str(next(stream)))
        leave_free(monkeypatch, 10_000)
        with pytest.raises(MemoryShortageError, match="10,000 are free"):
            pieces.extend(map(str, stream))
        assert len("".join(pieces)) > 10

    @pytest.mark.parametrize(("room_for", "groups"), [(0.5, [1, 1, 1, 1, 1]), (2.5, [2, 2, 1]), (99, [5])])
    def test_as_many_questions_go_together_as_fit(
        self, engine: FocusEngine, memory: Any, room_for: float, groups: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = [engine.ask(memory, question, **DRAWN).token_ids for question in QUESTIONS]
        prompts = [len(engine._request(None, question, {}).prompt_ids) for question in QUESTIONS]
        of_one = memory.num_chunks * (max(prompts) + 30) * engine.base.kv_bytes_per_token
        together: list[int] = []
        answer_batch = Candidates.answer_batch

        def watched(self: Any, asked: Any) -> Any:
            together.append(len(asked))
            return answer_batch(self, asked)

        monkeypatch.setattr(Candidates, "answer_batch", watched)
        monkeypatch.setattr(answering, "check_free_memory", lambda *_: None)
        leave_free(monkeypatch, int(room_for * of_one))
        assert [each.token_ids for each in engine.ask_many(memory, QUESTIONS, **DRAWN)] == wanted
        assert together == groups

    def test_a_device_that_runs_out_in_a_pass_is_a_shortage_too(self) -> None:
        class Hungry:
            def attend(self, *args: Any) -> torch.Tensor:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        base = BaseModel(tiny_model())
        with pytest.raises(MemoryShortageError, match=r"ran out of memory in a pass over 4 tokens.*chunk_batch"):
            base.run(torch.tensor([[3, 4, 5, 6]]), torch.arange(4)[None], Hungry())
