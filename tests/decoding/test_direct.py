"""Direct mode: local rows over the chunks' own KV, as one pass of transformers' model under an explicit mask."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.errors import ConfigError, PromptTooLongError
from focusdoc.modeling.base import BaseModel
from tiny_models import tiny_model

CHUNK = 16


def some_ids(count: int, seed: int) -> list[int]:
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def engine_of(family: str = "llama", attention: str = "auto", **config: int) -> FocusEngine:
    settings = FocusConfig(chunk_size=CHUNK, local_window=9, condensing="none", **config)
    return FocusEngine(BaseModel(tiny_model(family)), None, settings, attention)


@torch.no_grad()
def reference(base: BaseModel, document: list[int], local: list[int], anchor: int = 0) -> Tensor:
    """Logits [len(local), vocab] of one pass of the whole: chunks side by side, the local context behind them all."""
    chunks = [document[start : start + CHUNK] for start in range(0, len(document), CHUNK)]
    ids, positions, owners = [], [], []
    for number, chunk in enumerate(chunks):
        ids += document[:anchor] + chunk
        positions += range(anchor + len(chunk))
        owners += [(number, False)] * anchor + [(number, True)] * len(chunk)
    ids += local
    positions += range(anchor + CHUNK, anchor + CHUNK + len(local))
    owners += [(-1, True)] * len(local)
    seen = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for row, (number, _) in enumerate(owners):
        for column, (other, kept) in enumerate(owners[: row + 1]):
            seen[row, column] = other == number or (number == -1 and kept)
    mask = torch.zeros(len(ids), len(ids)).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    base.model.config._attn_implementation = "eager"
    logits: Tensor = base.model(
        input_ids=torch.tensor([ids]), position_ids=torch.tensor([positions]), attention_mask=mask, use_cache=False
    ).logits
    return logits[0, -len(local) :]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("attention", ["naive", "sdpa"])
@pytest.mark.parametrize(
    ("length", "anchor"),
    [(16, 0), (48, 0), (53, 0), (7, 0), (48, 5), (53, 5)],
    ids=["one chunk", "three", "ragged", "one short", "anchor", "anchor and ragged"],
)
def test_logits_are_those_of_one_masked_pass(family: str, attention: str, length: int, anchor: int) -> None:
    engine = engine_of(family, attention, anchor=anchor)
    document, local = some_ids(length, 1), some_ids(9, 2)
    found = engine.generate(document + local, max_new_tokens=4, return_logits=True, ignore_eos=True)
    expected = reference(engine.base, document, local + found.token_ids[:-1], anchor)
    torch.testing.assert_close(found.logits, expected[-4:], atol=2e-5, rtol=1e-4)


def test_results_do_not_depend_on_how_chunks_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ids = engine_of(), some_ids(70, 3)
    whole = engine.generate(ids, max_new_tokens=3, return_logits=True)
    monkeypatch.setattr("focusdoc.decoding.direct.MAX_PAIRS", 1)
    pieces = engine.generate(ids, max_new_tokens=3, return_logits=True)
    torch.testing.assert_close(pieces.logits, whole.logits, atol=2e-6, rtol=1e-5)


def test_sources_are_ranked_by_the_attention_paid_to_chunks(tiny_tokenizer: Any) -> None:
    base = BaseModel(tiny_model("llama", vocab_size=len(tiny_tokenizer)), tiny_tokenizer)
    engine = FocusEngine(base, None, FocusConfig(chunk_size=64, condensing="none"))
    memory = engine.read(Document.from_text("one two three four five six seven eight nine ten. " * 12))
    answer = engine.ask(memory, "What?", max_new_tokens=3, ignore_eos=True)
    assert 1 <= len(answer.sources) <= 3
    assert [source.score for source in answer.sources] == sorted((s.score for s in answer.sources), reverse=True)
    assert sum(answer.chunk_shares) == pytest.approx(1)
    assert all(memory.document.text[s.start : s.end] == s.text for s in answer.sources)  # type: ignore[union-attr]


def test_an_engine_without_adapter_takes_it_and_says_so(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "focusdoc"):
        engine = FocusEngine.from_pretrained(tmp_path, adapter=None, config=FocusConfig(chunk_size=16))
    assert engine.config.direct
    assert len(caplog.records) == 1
    assert "direct mode" in caplog.text


def test_who_asks_for_it_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    engine_of()
    assert not caplog.records


def test_memories_behind_an_anchor_are_another_makers() -> None:
    assert engine_of().maker != engine_of(anchor=4).maker


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"condensing": "all"}, "condensing is 'all'"),
        ({"condensing": "none", "local_attention": "refresh"}, "refreshed"),
        ({"anchor": 4}, "anchor is 4"),
        ({"anchor": -1, "condensing": "none"}, "anchor is -1"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FocusConfig(**settings)  # type: ignore[arg-type]


def test_what_does_not_fit_the_context_is_refused() -> None:
    engine = FocusEngine(BaseModel(tiny_model()), None, FocusConfig(chunk_size=64, local_window=9, condensing="none"))
    with pytest.raises(PromptTooLongError, match="positions"):
        engine.generate(some_ids(80, 1), max_new_tokens=engine.base.context_length)
