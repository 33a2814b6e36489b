"""The paper's objective: the authors' numbers (tests/golden), the decoder's logits, and plain autograd's gradients."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from focusdoc.attention import attention_kernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.condense import RefreshedLocal
from focusdoc.decoding.parallel import RefreshedDecoder
from focusdoc.errors import ConfigError, TrainingError
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.adapter_files import load_adapter
from focusdoc.modeling.base import BaseModel, load_base
from focusdoc.modeling.rotary import rotate
from focusdoc.training.objectives import PaperSample, draw_paper_sample, paper_logits, paper_loss
from tiny_models import random_weights, tiny_model

GOLDEN = Path(__file__).parents[1] / "golden"
RECORD = json.loads((GOLDEN / "cases.json").read_text())
CASES = {case["name"]: case for case in RECORD["training"]}
TOLERANCE = RECORD["tolerance"]
BOS = 1


class Script(random.Random):
    """Replays recorded draws, and makes sure that each is made from the recorded range."""

    def __init__(self, draws: list[dict[str, int]]) -> None:
        super().__init__()
        self.draws = list(draws)

    def choice(self, seq: Sequence[int]) -> int:  # type: ignore[override]
        draw = self.draws.pop(0)
        assert (min(seq), max(seq), len(seq)) == (draw["low"], draw["high"], draw["n"])
        return draw["value"]


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="module")
def golden_base() -> BaseModel:
    base = load_base(GOLDEN / "model")
    base.model.requires_grad_(False)
    return base


def sample_of(case: dict[str, Any], expected: dict[str, Tensor]) -> PaperSample:
    script = Script(case["random_choice_script"])
    sample = draw_paper_sample(
        expected[f"{case['key']}.input_ids"].tolist(),
        autoencoder=case["autoencoder"],
        local_window=case["local_window"],
        memory_strides=case["memory_stride"],
        rng=script,
    )
    assert script.draws == []
    return sample


def golden_weights(base: BaseModel) -> list[dict[str, Tensor]]:
    adapter = load_adapter(GOLDEN / "candidate_official_names.safetensors", base.model)
    return [
        {letter: weight.clone().requires_grad_() for letter, weight in adapter.of_layer(layer).items()}
        for layer in range(base.num_layers)
    ]


@pytest.mark.parametrize("name", CASES)
class TestAgainstTheAuthorsCode:
    def test_sample(self, name: str, expected: dict[str, Tensor]) -> None:
        case = CASES[name]
        sample = sample_of(case, expected)
        assert sample.local_start == case["local_query_start"]
        assert len(sample.local_ids) == case["local_size"]
        assert len(sample.context_ids) == case["context_len"]
        assert -(-len(sample.context_ids) // sample.chunk_size) == case["n_chunks"]
        assert sample.chunk_size == case["stride"]
        assert len(sample.prompt_ids) == case["prompt_len_without_bos"]
        assert sample.target == case["target_token"]
        assert sample.local_start + len(sample.local_ids) == case["target_index"]

    @pytest.mark.parametrize("attention", ["naive", "sdpa"])
    def test_logits_loss_and_gradients(
        self, name: str, attention: str, expected: dict[str, Tensor], golden_base: BaseModel
    ) -> None:
        case = CASES[name]
        sample, weights = sample_of(case, expected), golden_weights(golden_base)
        logits = paper_logits(golden_base, weights, sample, attention_kernel(attention), BOS)
        loss = paper_loss(logits, sample)
        loss.backward()
        last_logits = expected[f"{case['key']}.last_logits"]
        assert (logits.detach() - last_logits).abs().max() < TOLERANCE["logits_abs"]
        assert abs(float(loss.detach()) - case["loss"]) < TOLERANCE["loss_abs"]
        compared = 0
        for layer, of_layer in enumerate(weights):
            for letter, weight in of_layer.items():
                full_name = f"model.layers.{layer}.self_attn.beacon_{letter}_proj.weight"
                norm = case["grad_norms"][full_name]
                if norm is None:
                    assert weight.grad is None or not weight.grad.any(), full_name
                    continue
                assert weight.grad is not None
                assert float(weight.grad.norm()) == pytest.approx(norm, rel=TOLERANCE["grad_norm_rel"]), full_name
                stored = expected.get(f"{case['key']}.grad.{full_name}")
                if stored is not None:
                    difference = (weight.grad - stored).norm() / stored.norm()
                    assert float(difference) < TOLERANCE["grad_norm_rel"], full_name
                    compared += 1
        assert compared == 8

    def test_candidates(
        self, name: str, expected: dict[str, Tensor], golden_base: BaseModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[int, tuple[Tensor, Tensor]] = {}
        attend = RefreshedLocal.attend

        def watched(self: RefreshedLocal, layer: int, query: Tensor, candidates: tuple[Tensor, Tensor], *rest: Any):  # type: ignore[no-untyped-def]
            seen[layer] = candidates
            return attend(self, layer, query, candidates, *rest)

        monkeypatch.setattr(RefreshedLocal, "attend", watched)
        case = CASES[name]
        kernel = attention_kernel("auto")
        paper_logits(golden_base, golden_weights(golden_base), sample_of(case, expected), kernel, BOS)
        back = golden_base.rotary.rotations(-torch.arange(case["n_chunks"]))
        for layer in (0, 3):
            keys, values = (states[:, :, 0].detach() for states in seen[layer])
            keys = rotate(keys, golden_base.rotary.of_layer(back, layer))
            for found, side in ((keys, "k"), (values, "v")):
                wanted = expected[f"{case['key']}.cand.layer{layer}.{side}"]
                assert (found - wanted).abs().max() < TOLERANCE["cand_abs"], (layer, side)


def some_ids(count: int, seed: int = 1) -> list[int]:
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


class TestLogits:
    """Those of the decoder that answers questions in refresh mode."""

    @pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
    @pytest.mark.parametrize("positions", ["sequential", "shared"])
    @pytest.mark.parametrize("attention", ["naive", "sdpa"])
    @pytest.mark.parametrize(
        ("context", "chunk_size"), [(58, 16), (7, 16), (1, 64), (32, 16)], ids=["ragged", "one", "one token", "even"]
    )
    def test_equal_those_of_decoding(
        self, family: str, positions: Any, attention: str, context: int, chunk_size: int
    ) -> None:
        base = BaseModel(tiny_model(family))
        self.check(base, some_ids(context), some_ids(33, 2), chunk_size, positions, attention)

    @pytest.mark.parametrize("window", [3, 9, 20])
    def test_under_a_sliding_window(self, window: int) -> None:
        base = BaseModel(tiny_model("gemma3_text", sliding_window=window))
        self.check(base, some_ids(40), some_ids(33, 2), 16, "sequential", "auto")

    def test_no_second_bos_is_put_in_front(self) -> None:
        self.check(BaseModel(tiny_model()), some_ids(40), [BOS, *some_ids(9, 2)], 16, "sequential", "auto")

    def check(
        self, base: BaseModel, context: list[int], local: list[int], chunk_size: int, positions: Any, attention: str
    ) -> None:
        weights, kernel = random_weights(base.model), attention_kernel(attention)
        sample = PaperSample(tuple(context), tuple(local), 5, chunk_size, 0, "continuation")
        found = paper_logits(base, weights, sample, kernel, BOS, candidate_positions=positions)
        config = FocusConfig.paper(candidate_positions=positions)
        blocks = read_chunks(base, context, chunk_size, kernel)
        decoder = RefreshedDecoder(base, weights, blocks, kernel=kernel, config=config, max_new_tokens=1)
        prompt = local[-min(512, chunk_size) :]
        local, prompt = ([BOS] * (ids[0] != BOS) + ids for ids in (local, prompt))
        torch.testing.assert_close(found, decoder.start(local, prompt), atol=2e-5, rtol=1e-4)
        assert found.dtype == torch.float32

    def test_the_gradient_is_the_slope_of_the_loss(self) -> None:
        base = BaseModel(tiny_model(num_hidden_layers=3).requires_grad_(False))
        weights = [{letter: w.requires_grad_() for letter, w in layer.items()} for layer in random_weights(base.model)]
        sample = PaperSample(tuple(some_ids(40)), tuple(some_ids(12, 2)), 5, 16, 0, "continuation")

        def loss() -> Tensor:
            return paper_loss(paper_logits(base, weights, sample, attention_kernel("auto"), BOS), sample)

        loss().backward()
        for weight in (weights[0]["q"], weights[1]["o"], weights[2]["v"]):
            assert weight.grad is not None
            direction = weight.grad / weight.grad.norm()
            slope = float(weight.grad.norm())
            with torch.no_grad():
                weight += direction * 5e-3
                above = loss()
                weight -= direction * 1e-2
                below = loss()
                weight += direction * 5e-3
            assert float(above - below) / 1e-2 == pytest.approx(slope, rel=0.02)
        assert all(parameter.grad is None for parameter in base.model.parameters())

    def test_an_error_leaves_the_model_as_it_was(self) -> None:
        base = BaseModel(tiny_model())
        modules, weights = [*base.model.state_dict()], random_weights(base.model)
        weights[1]["q"] = weights[1]["q"][:, :-1]
        sample = PaperSample(tuple(some_ids(40)), tuple(some_ids(12, 2)), 5, 16, 0, "continuation")
        with pytest.raises(RuntimeError):
            paper_logits(base, weights, sample, attention_kernel("auto"), BOS)
        assert [*base.model.state_dict()] == modules
        assert base.model.config._attn_implementation == "eager"


class TestDraws:
    def draw(self, length: int, seed: int, *, autoencoder: bool, window: int = 40) -> PaperSample:
        ids = list(range(length))
        return draw_paper_sample(
            ids, autoencoder=autoencoder, local_window=window, memory_strides=[8, 16], rng=random.Random(seed)
        )

    @pytest.mark.parametrize("length", [40, 41, 79, 80, 203])
    def test_continuation_takes_what_stands_before(self, length: int) -> None:
        for seed in range(50):
            sample = self.draw(length, seed, autoencoder=False)
            assert sample.context_ids == tuple(range(sample.local_start))
            assert sample.local_start > (length // 40 - 1) * 40
            assert sample.local_ids == tuple(range(sample.local_start, sample.local_start + len(sample.local_ids)))
            assert sample.target == sample.local_ids[-1] + 1 < length
            assert 30 <= len(sample.local_ids) <= 38

    @pytest.mark.parametrize("length", [40, 79, 203])
    def test_repetition_takes_the_whole_text(self, length: int) -> None:
        starts = set()
        for seed in range(50):
            sample = self.draw(length, seed, autoencoder=True)
            assert sample.context_ids == tuple(range(length))
            assert sample.target == sample.local_ids[-1] + 1 < length
            assert sample.objective == "repetition"
            starts.add(sample.local_start // 40)
        assert starts == set(range(length // 40))

    def test_all_sizes_come_up(self) -> None:
        samples = [self.draw(100, seed, autoencoder=False, window=33) for seed in range(60)]
        assert {len(sample.local_ids) for sample in samples} == {30, 31}
        assert {sample.chunk_size for sample in samples} == {8, 16}

    def test_a_text_shorter_than_the_window_is_refused(self) -> None:
        with pytest.raises(TrainingError, match="39 tokens, fewer than the local window of 40"):
            self.draw(39, 0, autoencoder=True)

    def test_a_window_that_is_too_small_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="local_window is 31"):
            self.draw(100, 0, autoencoder=True, window=31)

    @pytest.mark.parametrize("strides", [[], [0, 8]])
    def test_chunk_sizes_are_needed(self, strides: list[int]) -> None:
        with pytest.raises(ConfigError, match="memory_strides"):
            draw_paper_sample(
                range(99), autoencoder=True, local_window=40, memory_strides=strides, rng=random.Random(0)
            )
