"""Perplexity of every mode against a plainer way to the same number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.errors import ConfigError, EvaluationError
from focusdoc.evaluation.engines import focus_engine
from focusdoc.evaluation.item import ModeSettings
from focusdoc.evaluation.perplexity import Job, PerplexityMode, make_jobs
from focusdoc.evaluation.results import ResultFolder, Results, run
from focusdoc.memory.reading import read_chunks

IDS = tuple(torch.randint(5, 250, (300,), generator=torch.Generator().manual_seed(2)).tolist())
TARGETS = 12
SETTINGS = ModeSettings(local_window=80)


def job(chunk_size: int | None = None, ids: tuple[int, ...] = IDS) -> Job:
    return Job("text", ids, TARGETS, chunk_size)


def loss(logits: torch.Tensor, ids: tuple[int, ...] = IDS) -> float:
    return float(functional.cross_entropy(logits.float(), torch.tensor(ids[-TARGETS:])))


@torch.no_grad()
@pytest.mark.parametrize("chunk_size", [50, 220])
def test_ours_is_decoding_step_by_step(engine: FocusEngine, chunk_size: int) -> None:
    ours = focus_engine(engine, ModeSettings(local_window=80, chunk_size=chunk_size))
    blocks = read_chunks(engine.base, IDS[:-80], chunk_size, engine.kernel)
    weights = ours.require_adapter()
    decoder = ParallelDecoder(
        engine.base, weights, blocks, kernel=engine.kernel, config=ours.config, max_new_tokens=TARGETS
    )
    local = list(IDS[-80:-TARGETS])
    logits = [decoder.start(local, local)] + [decoder.step(token) for token in IDS[-TARGETS:-1]]
    found = PerplexityMode("focus", engine, SETTINGS).work(job(chunk_size))
    assert found["nll"] == pytest.approx(loss(torch.stack(logits)), abs=1e-4)
    assert found["targets"] == TARGETS


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "kept"),
    [("full", IDS), ("tail", IDS[-80:]), ("truncated", IDS[:40] + IDS[-40:])],
)
def test_plain_modes_are_the_base_models(engine: FocusEngine, name: str, kept: tuple[int, ...]) -> None:
    expected = loss(engine.base.model(torch.tensor([kept])).logits[0, -TARGETS - 1 : -1])
    assert PerplexityMode(name, engine, SETTINGS).work(job())["nll"] == pytest.approx(expected, abs=1e-5)


def test_streaming_with_a_wide_window_is_full_attention(engine: FocusEngine) -> None:
    wide = PerplexityMode("streaming", engine, ModeSettings(local_window=1000)).work(job())["nll"]
    narrow = PerplexityMode("streaming", engine, ModeSettings(local_window=40)).work(job())["nll"]
    full = PerplexityMode("full", engine, SETTINGS).work(job())["nll"]
    assert wide == pytest.approx(full, abs=1e-4)
    assert abs(narrow - full) > 1e-3


@torch.no_grad()
def test_the_papers_first_target_is_what_generate_gives(engine: FocusEngine) -> None:
    ids = IDS * 15
    mode = PerplexityMode("paper", engine, SETTINGS)
    paper = FocusEngine(engine.base, engine.adapter, FocusConfig.paper(local_window=80, chunk_size=512))
    output = paper.generate([1, *ids[:-TARGETS]], max_new_tokens=1, return_logits=True)
    assert output.logits is not None
    expected = float(functional.cross_entropy(output.logits, torch.tensor([ids[-TARGETS]])))
    one = Job("text", ids[: len(ids) - TARGETS + 1], 1, 512)
    assert mode.work(one)["nll"] == pytest.approx(expected, abs=1e-4)
    assert math.isfinite(mode.work(job(512, ids))["nll"])


def test_texts_within_the_window_are_the_base_models(engine: FocusEngine) -> None:
    mode = PerplexityMode("focus", engine, ModeSettings(local_window=500))
    full = PerplexityMode("full", engine, SETTINGS)
    assert mode.work(job(50))["nll"] == pytest.approx(full.work(job())["nll"], abs=1e-6)


def test_jobs(engine: FocusEngine) -> None:
    texts = [
        Document.from_text(word * 200, {"name": word.strip()}) for word in ("short ", "rather long ", "also long ")
    ]
    jobs = make_jobs(engine, texts, [2000, 400], chunk_sizes=[64, 128], targets=8, limit=2)
    assert [one.id for one in jobs] == [
        "short@400/64", "rather long@400/64", "short@400/128", "rather long@400/128",
        "rather long@2000/64", "also long@2000/64", "rather long@2000/128", "also long@2000/128",
    ]  # fmt: skip
    assert dict(jobs[0].facts) == {"length": 400, "chunk_size": 64, "text": "short"}
    with pytest.raises(EvaluationError, match="No text has 9,000 tokens; the longest has 2,400"):
        make_jobs(engine, texts, [9000], targets=8)
    with pytest.raises(EvaluationError, match="too short to predict 300"):
        make_jobs(engine, texts, [400], targets=300)


def test_modes_that_there_are_none_of(engine: FocusEngine) -> None:
    with pytest.raises(ConfigError, match="'best' is unknown; choose from focus, split, quoted, look"):
        PerplexityMode("best", engine, SETTINGS)
    for name in ("split", "quoted"):  # cut as "focus" is here
        with pytest.raises(ConfigError, match=f"no mode '{name}'; choose from focus, paper"):
            PerplexityMode(name, engine, SETTINGS)


def test_full_attention_ends_with_the_models_positions(engine: FocusEngine) -> None:
    assert PerplexityMode("full", engine, SETTINGS).lengths([1024, 8192]) == [1024]
    assert PerplexityMode("tail", engine, SETTINGS).lengths([1024, 8192]) == [1024, 8192]


def test_chunk_sizes_matter_to_ours_alone(engine: FocusEngine) -> None:
    assert PerplexityMode("focus", engine, SETTINGS).chunk_sizes([]) == [64]
    assert PerplexityMode("focus", engine, SETTINGS).chunk_sizes([32, 128]) == [32, 128]
    assert PerplexityMode("tail", engine, SETTINGS).chunk_sizes([32, 128]) == [None]


def test_figures_weigh_tokens_and_leave_failures_out(engine: FocusEngine, tmp_path: Any) -> None:
    told = ({"nll": 1.0, "targets": 1}, {"nll": 2.0, "targets": 3}, {"error": "x"})
    rows = [{"task": "perplexity", "id": str(place), "facts": {}, **row} for place, row in enumerate(told)]
    figures = Results(tmp_path, {"benchmark": "perplexity"}, rows).figures("task")
    assert list(figures.loc["perplexity"]) == [pytest.approx(math.exp(7 / 4)), 3, 1]
    mode = PerplexityMode("tail", engine, SETTINGS)
    folder = ResultFolder(tmp_path / "tail", {"benchmark": "perplexity", "mode": "tail", **mode.facts})
    run([job(), job(None, IDS[:200])], mode.work, folder)
    lines = Results.open(folder.path).figures("length", "chunk_size").reset_index()
    assert set(lines["length"]) == {300, 200}
    assert lines["chunk_size"].isna().all()
