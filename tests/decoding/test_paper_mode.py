"""Paper mode reproduces the numbers of the authors' code (tests/golden), with the chunks in one batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from focusdoc import FocusConfig, FocusEngine
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.modeling.rotary import rotate
from paper_reference import PaperReference

GOLDEN = Path(__file__).parents[1] / "golden"
RECORD = json.loads((GOLDEN / "cases.json").read_text())
CASES = {case["name"]: case for case in RECORD["inference"]}
TOLERANCE = RECORD["tolerance"]


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "expected.safetensors")


def paper_engine(case: dict[str, Any], *, attention: str = "auto", **overrides: Any) -> FocusEngine:
    settings = {"direct_threshold": case["local_window"], **overrides}  # golden replaces the authors' 4,096 by W
    config = FocusConfig.paper(local_window=case["local_window"], chunk_size=case["memory_stride"][0], **settings)
    adapter = GOLDEN / "candidate_official_names.safetensors"
    return FocusEngine.from_pretrained(GOLDEN / "model", adapter=adapter, config=config, attention=attention)


@pytest.mark.parametrize("attention", ["naive", "sdpa"])
@pytest.mark.parametrize("chunk_batch", [None, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_greedy_tokens(
    name: str, chunk_batch: int | None, attention: str, expected: dict[str, torch.Tensor]
) -> None:
    case = CASES[name]
    engine = paper_engine(case, chunk_batch=chunk_batch, attention=attention)
    tokens = case["steps"] + 1
    ids = expected[f"{case['key']}.input_ids"].tolist()
    output = engine.generate(ids, max_new_tokens=tokens, return_logits=True, ignore_eos=True)
    assert output.token_ids == case["greedy"]
    assert output.usage.num_chunks == case["n_chunks"]
    assert output.logits is not None
    assert (output.logits - expected[f"{case['key']}.logits"]).abs().max() < TOLERANCE["logits_abs"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["n_chunks"]])
def test_candidates_and_chunk_caches(
    name: str, expected: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidate KV after the prompt and after the last step, and what each chunk's cache then holds."""
    case = CASES[name]
    key = case["key"]
    seen: list[ParallelDecoder] = []
    prefill: dict[str, torch.Tensor] = {}
    start = ParallelDecoder.start

    def watched(self: ParallelDecoder, *args: Any) -> torch.Tensor:
        logits = start(self, *args)
        seen.append(self)
        prefill.update(_unrotated_candidates(self))
        return logits

    monkeypatch.setattr(ParallelDecoder, "start", watched)
    engine = paper_engine(case)
    engine.generate(expected[f"{key}.input_ids"].tolist(), max_new_tokens=case["steps"] + 1, ignore_eos=True)
    decoder = seen[0]
    for phase, found in (("cand_prefill", prefill), ("cand_last", _unrotated_candidates(decoder))):
        for layer in (0, 3):
            for side in "kv":
                difference = found[f"{layer}{side}"] - expected[f"{key}.{phase}.layer{layer}.{side}"]
                assert difference.abs().max() < TOLERANCE["cand_abs"], (phase, layer, side)
    lengths = [group.chunk_len + decoder.tail_len for group in decoder.groups for _ in range(group.num_chunks)]
    assert lengths == case["cache_lens"][-1]
    for chunk in range(case["n_chunks"]):
        if f"{key}.cache_last.chunk{chunk}.layer0.k" not in expected:
            continue
        group = decoder.single(chunk)
        for layer in (0, 3):
            block, tail_len = group.block, decoder.tail_len
            keys = torch.cat((block.keys[layer, 0], group.tail_keys[layer, 0, :, :tail_len]), dim=1)
            values = torch.cat((block.values[layer, 0], group.tail_values[layer, 0, :, :tail_len]), dim=1)
            keys = _turned(decoder, keys, -torch.arange(keys.shape[1]))
            for found_side, side in ((keys, "k"), (values, "v")):
                wanted = expected[f"{key}.cache_last.chunk{chunk}.layer{layer}.{side}"]
                assert (found_side - wanted).abs().max() < TOLERANCE["cand_abs"], (chunk, layer, side)


def _unrotated_candidates(decoder: ParallelDecoder) -> dict[str, torch.Tensor]:
    """Candidate KV [kv_heads, k, head_dim] of the newest step by layer and side, keys un-rotated."""
    count = decoder.num_chunks
    found: dict[str, torch.Tensor] = {}
    for layer in (0, 3):
        found[f"{layer}k"] = _turned(decoder, decoder.local.keys[layer, :, :count], -torch.arange(count))
        found[f"{layer}v"] = decoder.local.values[layer, :, :count].clone()
    return found


def _turned(decoder: ParallelDecoder, keys: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    rotary = decoder.base.rotary
    return rotate(keys, rotary.of_layer(rotary.rotations(by), 0))


def test_below_the_threshold_there_are_no_chunks() -> None:
    case = CASES["len100_ragged20"]
    config = FocusConfig.paper(local_window=48, chunk_size=32)
    engine = FocusEngine.from_pretrained(
        GOLDEN / "model", adapter=GOLDEN / "candidate_official_names.safetensors", config=config
    )
    ids = load_file(GOLDEN / "expected.safetensors")[f"{case['key']}.input_ids"].tolist()
    assert config.threshold == 4096
    assert engine.generate(ids, max_new_tokens=1).usage.num_chunks == 0


#: Every case of the method's first section, with or without a golden number:
#: (input length, local window, chunk size, threshold, where the input has BOS tokens).
SECTION_1: dict[str, tuple[int, int, int, int, tuple[int, ...]]] = {
    "no chunk, no BOS": (40, 48, 32, 48, ()),
    "no chunk, BOS in front": (40, 48, 32, 48, (0,)),
    "no chunk, BOS in the middle": (40, 48, 32, 48, (7,)),
    "no chunk, one token": (1, 48, 32, 48, ()),
    "as long as the window": (48, 48, 32, 48, ()),
    "longer than the window, below the threshold": (100, 48, 32, 4096, ()),
    "one token more than the window": (49, 48, 32, 48, ()),
    "full chunks only": (48 + 64, 48, 32, 48, ()),
    "a ragged last chunk": (48 + 65, 48, 32, 48, ()),
    "one ragged chunk": (48 + 20, 48, 32, 48, ()),
    "BOS in front of the text": (130, 48, 32, 48, (0,)),
    "BOS in front of the local context": (130, 48, 32, 48, (130 - 48,)),
    "BOS in front of the prompt": (130, 48, 32, 48, (130 - 32,)),
    "BOS in front of local context and prompt, which are one": (130, 32, 32, 32, (130 - 32,)),
    "a prompt as long as the window, shorter than a chunk": (200, 24, 64, 24, ()),
    "a prompt of 512, shorter than window and chunk": (1300, 520, 600, 520, ()),
    "chunks of one token": (40, 33, 1, 33, ()),
}


@pytest.mark.parametrize("name", SECTION_1)
def test_every_case_of_the_first_section(name: str) -> None:
    length, window, chunk, threshold, places = SECTION_1[name]
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 90, (length,), generator=generator).tolist()
    for place in places:
        ids[place] = 1
    case = {"local_window": window, "memory_stride": [chunk]}
    engine = paper_engine(case, attention="naive", direct_threshold=threshold)
    reference = PaperReference(
        engine.base.model,
        engine.require_adapter(),
        window=window,
        chunk=chunk,
        threshold=threshold + (length == window),
    )
    tokens, logits = reference.decode(ids, 5)
    found = engine.generate(ids, max_new_tokens=5, return_logits=True, ignore_eos=True)
    assert found.logits is not None
    assert (found.logits - logits).abs().max() < TOLERANCE["logits_abs"]
    assert found.token_ids == tokens


@pytest.mark.parametrize("name", CASES)
def test_the_reference_gives_the_numbers_of_the_authors(name: str, expected: dict[str, torch.Tensor]) -> None:
    case = CASES[name]
    engine = paper_engine(case)
    window, chunk = case["local_window"], case["memory_stride"][0]
    reference = PaperReference(
        engine.base.model, engine.require_adapter(), window=window, chunk=chunk, threshold=window
    )
    tokens, logits = reference.decode(expected[f"{case['key']}.input_ids"].tolist(), case["steps"] + 1)
    assert tokens == case["greedy"]
    assert (logits - expected[f"{case['key']}.logits"]).abs().max() < TOLERANCE["logits_abs"]
