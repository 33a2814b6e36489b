"""Which heads look where the answer stands: planted facts tell, and the cache keeps it."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.attention import attention_kernel
from focusdoc.decoding.look import LookDecoder
from focusdoc.decoding.prompt import question_prompt
from focusdoc.decoding.state import QuestionRows
from focusdoc.errors import CalibrationError
from focusdoc.modeling.base import BaseModel
from focusdoc.training import calibration
from focusdoc.training.calibration import (
    CASES,
    Calibration,
    calibrate,
    load_calibration,
    plant_facts,
    retrieval_heads,
    save_calibration,
)
from tiny_models import tiny_model

STORY = "The river rose in the night and nobody slept. In the morning the miller went out to see what was left. " * 40


@pytest.fixture(scope="module")
def base(tiny_tokenizer: Any) -> BaseModel:
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=512)
    return BaseModel(model, tiny_tokenizer)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOCUSDOC_CACHE", str(tmp_path))
    return tmp_path / "heads"


class TestPlanting:
    @pytest.mark.parametrize("text", [None, STORY])
    def test_every_fact_stands_where_it_says(self, tiny_tokenizer: Any, text: str | None) -> None:
        ids, cases = plant_facts(tiny_tokenizer, text, 8000)
        assert len(ids) <= 8000
        assert len(ids) > (7800 if text is None else len(text))
        assert len(cases) == CASES
        for case in cases:
            words = set(case.question.lower().rstrip("?.").split())
            stated = tiny_tokenizer.decode(ids[case.first : case.last]).lower()
            assert any(word in stated for word in words)
        assert all(one.last <= other.first for one, other in pairwise(cases))

    def test_it_is_the_same_at_every_call(self, tiny_tokenizer: Any) -> None:
        assert plant_facts(tiny_tokenizer, STORY, 4000) == plant_facts(tiny_tokenizer, STORY, 4000)

    def test_all_of_a_short_text_is_taken(self, tiny_tokenizer: Any) -> None:
        ids, cases = plant_facts(tiny_tokenizer, "One sentence. And another one", 100_000)
        told = {token for case in cases for token in range(case.first, case.last)}
        rest = tiny_tokenizer.decode([ids[at] for at in range(len(ids)) if at not in told])
        assert rest == "One sentence. And another one "


class TestCalibrating:
    def test_the_heads_that_look_at_the_answer_are_found(
        self, base: BaseModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two heads are given a look of their own at what was asked for; the others keep that of random weights."""
        _, cases = plant_facts(base.tokenizer, None, 6 * 256)
        told = {case.question: case for case in cases}
        knowing = {(0, 2), (1, 1)}
        real = calibration._looks

        def looks(base: BaseModel, blocks: Any, kernel: Any, heads: Any, cases: Any) -> Any:
            for case, taken in real(base, blocks, kernel, heads, cases):
                for at, pair in enumerate(heads):
                    if pair in knowing:
                        taken[at] = 0
                        taken[at, told[case.question].first : told[case.question].last] = 1
                yield case, taken

        monkeypatch.setattr(calibration, "_looks", looks)
        found = calibrate(base, attention_kernel("auto"))
        assert set(found.heads) & knowing
        assert (found.first, found.among_four) == (1.0, 1.0)

    def test_no_more_layers_are_kept_than_find_as_well(self, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
        def looks(base: BaseModel, blocks: Any, kernel: Any, heads: Any, cases: Any) -> Any:
            tokens = sum(block.num_chunks * block.chunk_len for block in blocks)
            for number, case in enumerate(cases):
                taken = torch.zeros(len(heads), tokens)
                for at, (layer, _) in enumerate(heads):
                    if layer == 0 or number % 3 == 0:
                        taken[at, case.first : case.last] = 1
                yield case, taken

        monkeypatch.setattr(calibration, "_looks", looks)
        assert {layer for layer, _ in calibrate(base, attention_kernel("auto")).heads} == {0}

    def test_steps_are_told(self, base: BaseModel) -> None:
        told: list[tuple[int, int]] = []
        calibrate(base, attention_kernel("auto"), progress=lambda *step: told.append(step))
        steps = 1 + len(plant_facts(base.tokenizer, None, 6 * 256)[1])
        assert told == [(step, steps) for step in range(1 + steps)]

    def test_a_model_without_a_tokenizer(self) -> None:
        engine = FocusEngine(BaseModel(tiny_model()), None, FocusConfig(chunk_size=16, local_window=9))
        with pytest.raises(CalibrationError, match="has no tokenizer"):
            engine.generate(list(range(3, 60)), max_new_tokens=1)

    def test_a_text_that_is_too_short(self, base: BaseModel) -> None:
        with pytest.raises(CalibrationError, match="tokens, planted facts included, and calibration needs 1152"):
            calibrate(base, attention_kernel("auto"), text="Short.")


class TestKeeping:
    FOUND = Calibration(heads=((0, 1), (1, 3)), first=0.5, among_four=0.75, cases=12)

    def test_what_was_found_is_known_again(self, base: BaseModel, cache: Path) -> None:
        assert load_calibration(base) is None
        save_calibration(base, self.FOUND)
        assert load_calibration(base) == self.FOUND
        assert [file.name for file in cache.iterdir()] == [f"{base.fingerprint}.json"]

    def test_another_models_is_not_taken(self, base: BaseModel, tiny_tokenizer: Any) -> None:
        save_calibration(base, self.FOUND)
        other = tiny_model("qwen2", vocab_size=len(tiny_tokenizer), max_position_embeddings=512)
        assert load_calibration(BaseModel(other, tiny_tokenizer)) is None

    @pytest.mark.parametrize(
        "damage",
        [
            {"version": calibration.VERSION + 1},
            {"heads": [[0, 9]]},
            {"heads": [[5, 0]]},
            {"heads": []},
            {"heads": [[0]]},
            {"heads": 3},
            {"first": "often"},
            {"cases": None},
        ],
    )
    def test_what_is_damaged_or_of_another_version_is_not_taken(
        self, base: BaseModel, cache: Path, damage: dict[str, Any]
    ) -> None:
        save_calibration(base, self.FOUND)
        (file,) = cache.iterdir()
        file.write_text(json.dumps(json.loads(file.read_text()) | damage))
        assert load_calibration(base) is None

    @pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"3"])
    def test_files_that_are_none_of_ours(self, base: BaseModel, cache: Path, content: bytes) -> None:
        save_calibration(base, self.FOUND)
        (file,) = cache.iterdir()
        file.write_bytes(content)
        assert load_calibration(base) is None

    def test_a_cache_that_cannot_be_written_is_told_of(
        self, base: BaseModel, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.write_text("a file")
        save_calibration(base, self.FOUND)
        assert "cannot be cached" in caplog.text


class TestEngines:
    def test_look_for_heads_once_and_say_so(
        self, base: BaseModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls: list[str] = []

        def found(base: BaseModel, *given: Any, **more: Any) -> Calibration:
            calls.append(base.name)
            return TestKeeping.FOUND

        monkeypatch.setattr(calibration, "calibrate", found)
        for _ in range(2):
            engine = FocusEngine(base, None, FocusConfig(chunk_size=64))
            assert calls in ([], [base.name])  # not before it is needed
            memory = engine.read(Document.from_text(STORY[:800]))
            assert engine.heads == TestKeeping.FOUND.heads
            assert engine.ask(memory, "Who went out?", max_new_tokens=2, ignore_eos=True).text
        assert len(calls) == 1
        assert caplog.text.count("looking for its retrieval heads") == 1

    def test_without_chunks_need_none(self, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calibration, "calibrate", None)
        engine = FocusEngine(base, None, FocusConfig(chunk_size=64))
        assert len(engine.generate([5, 6, 7], max_new_tokens=2, ignore_eos=True).token_ids) == 2

    def test_with_candidates_need_none(self, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calibration, "calibrate", None)
        untrained = FocusEngine(base, None, FocusConfig(chunk_size=64, allow_untrained=True))
        assert untrained.heads == ()

    def test_whose_heads_find_little_warn(self, base: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
        save_calibration(base, Calibration(heads=((0, 1),), first=0.1, among_four=0.25, cases=12))
        with caplog.at_level(logging.WARNING, "focusdoc"):
            assert retrieval_heads(base, attention_kernel("auto")) == ((0, 1),)
        assert "find 10% of 12 planted facts at once and 25% among four" in caplog.text

    def test_a_look_by_all_heads_is_what_is_calibrated_on(self, base: BaseModel) -> None:
        ids, (case, *_) = plant_facts(base.tokenizer, None, 1000)
        kernel = attention_kernel("auto")
        blocks = calibration.read_chunks(base, ids, 128, kernel)
        heads = ((0, 0), (1, 3))
        ((_, taken),) = calibration._looks(base, blocks, kernel, heads, [case])
        assert taken.shape == (2, len(ids))
        decoder = LookDecoder(base, blocks, kernel=kernel, heads=heads)
        prompt = question_prompt(base.tokenizer, case.question)
        decoder.look(prompt, prompt, QuestionRows(0, len(prompt)))
        own = torch.cat(decoder.question_token_scores(range(decoder.num_chunks)), dim=1)
        assert (taken <= own + 1e-6).all()  # the question's rows are some of the prompt's
