"""Whatever decodes over chunks decodes the same over chunks of any kind as over plain ones of the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from focusdoc import FocusConfig, FocusEngine
from focusdoc.attention import attention_kernel
from focusdoc.decoding.candidates import start_batch, step_batch
from focusdoc.decoding.look import LookDecoder
from focusdoc.decoding.parallel import ParallelDecoder, RefreshedDecoder
from focusdoc.decoding.state import QuestionRows
from focusdoc.memory import host, int8
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.host import HostBlock
from focusdoc.memory.reading import read_chunks
from focusdoc.memory.ring import Ring, Streams
from focusdoc.modeling.base import BaseModel
from int8_samples import dequantized
from tiny_models import random_weights, tiny_model

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
LOCAL, ANSWER = [5, 9, 33, 70, 8, 14, 21], [40, 41, 42, 43]
Blocks = Sequence[MemoryBlock]


@pytest.fixture(autouse=True, params=[1, 1 << 20], ids=["chunk by chunk", "all at once"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "SCRATCH", request.param)
    monkeypatch.setattr(host, "PART_BYTES", request.param)


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma3_text"])
def base(request: pytest.FixtureRequest) -> BaseModel:
    settings = {} if request.param == "llama" else {"sliding_window": 20}
    return BaseModel(tiny_model(request.param, **settings))


@pytest.fixture(scope="module", params=["int8", "host", "host int8"])
def both(base: BaseModel, request: pytest.FixtureRequest) -> tuple[Blocks, Blocks]:
    ids = torch.randint(3, 96, (58,), generator=torch.Generator().manual_seed(1)).tolist()
    kind = "int8" if "int8" in request.param else "model"
    ring = Ring(Streams(base.device)) if "host" in request.param else None
    blocks = read_chunks(base, ids, 16, attention_kernel("auto"), memory_dtype=kind, ring=ring)
    assert all(isinstance(block, HostBlock) == (ring is not None) for block in blocks)
    return blocks, dequantized(blocks)


def decoder(
    base: BaseModel, blocks: Blocks, kind: type[ParallelDecoder] = ParallelDecoder, **config: object
) -> ParallelDecoder:
    settings = FocusConfig(candidate_positions="sequential", prompt_window=6, **config)  # type: ignore[arg-type]
    return kind(
        base, random_weights(base.model), blocks, kernel=attention_kernel("auto"), config=settings, max_new_tokens=6
    )


def logits_of(one: ParallelDecoder) -> Tensor:
    return torch.stack([one.start(LOCAL, LOCAL[-6:]), *(one.step(token) for token in ANSWER)])


@pytest.mark.parametrize("kind", [ParallelDecoder, RefreshedDecoder])
@pytest.mark.parametrize("chunk_batch", [1, 2, None])
def test_both_modes(
    base: BaseModel, both: tuple[Blocks, Blocks], kind: type[ParallelDecoder], chunk_batch: int | None
) -> None:
    special, plain = (decoder(base, blocks, kind, chunk_batch=chunk_batch) for blocks in both)
    torch.testing.assert_close(logits_of(special), logits_of(plain), **TOLERANCE)
    torch.testing.assert_close(special.candidate_mass, plain.candidate_mass, **TOLERANCE)


def test_where_candidates_looked(base: BaseModel, both: tuple[Blocks, Blocks]) -> None:
    found = []
    for blocks in both:
        one = decoder(base, blocks)
        logits_of(one)
        masses = torch.rand(5, one.num_chunks, generator=torch.Generator().manual_seed(2))
        found.append(one.answer_token_scores([0, 3], [LOCAL[-1], *ANSWER], masses, prompt_len=6))
    for one_chunk, other in zip(*found, strict=True):
        torch.testing.assert_close(one_chunk, other, **TOLERANCE)


def test_with_chunks_that_sit_out(base: BaseModel, both: tuple[Blocks, Blocks]) -> None:
    special, plain = (decoder(base, blocks, active_chunks=2) for blocks in both)
    torch.testing.assert_close(logits_of(special), logits_of(plain), **TOLERANCE)
    assert special.active == plain.active
    assert len(special.active) == 2


def test_several_questions_together(base: BaseModel, both: tuple[Blocks, Blocks]) -> None:
    questions = [(LOCAL, LOCAL[-6:]), (LOCAL[:4], LOCAL[:4])]
    found = []
    for blocks in both:
        decoders = [decoder(base, blocks, chunk_batch=2) for _ in questions]
        steps = [start_batch(decoders, questions)]
        steps += [step_batch(decoders, [token, token + 1]) for token in ANSWER]
        found.append(torch.stack([torch.stack(step) for step in steps]))
    torch.testing.assert_close(*found, **TOLERANCE)


def test_a_look(base: BaseModel, both: tuple[Blocks, Blocks]) -> None:
    looked = []
    for blocks in both:
        decoder = LookDecoder(base, blocks, kernel=attention_kernel("auto"), heads=((0, 1), (1, 2)))
        decoder.look(LOCAL, LOCAL, QuestionRows(0, len(LOCAL)))
        looked.append(torch.cat(decoder.question_token_scores(range(decoder.num_chunks)), dim=1))
    torch.testing.assert_close(*looked, **TOLERANCE)


def test_the_engine_reads_what_its_setting_says(base: BaseModel) -> None:
    ids = torch.randint(3, 96, (67,), generator=torch.Generator().manual_seed(3)).tolist()
    logits = {}
    for kind in ("model", "int8"):
        settings = FocusConfig(chunk_size=16, local_window=9, allow_untrained=True, memory_dtype=kind)
        found = FocusEngine(base, None, settings).generate(ids, max_new_tokens=1, return_logits=True)
        logits[kind] = found.logits
    assert not torch.equal(logits["model"], logits["int8"])
    torch.testing.assert_close(logits["model"], logits["int8"], atol=0.05, rtol=0)
