"""Candidate projections wrap a model without a trace: same logits inside, same modules afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from focusdoc.attention import attention_kernel
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import CandidateLinear, CandidateRows, candidate_projections
from focusdoc.modeling.families import attention_layers
from focusdoc.modeling.rotary import rotate
from tiny_models import CLASSES, random_weights, tiny_model

TOKENS = torch.arange(3, 15)[None]


def snapshot(model: Any) -> dict[str, int]:
    return {name: id(module) for name, module in model.named_modules()}


@pytest.mark.parametrize("family", CLASSES)
def test_without_candidates_the_logits_are_bit_identical(family: str) -> None:
    model = tiny_model(family)
    with torch.no_grad():
        before = model(TOKENS).logits
        with candidate_projections(attention_layers(model), random_weights(model)):
            wrapped = model(TOKENS).logits
        after = model(TOKENS).logits
    assert torch.equal(before, wrapped)
    assert torch.equal(before, after)


@pytest.mark.parametrize("family", CLASSES)
def test_on_leaving_the_model_is_exactly_as_before(family: str) -> None:
    model = tiny_model(family)
    base = BaseModel(model)
    modules, names = snapshot(base.decoder), set(base.decoder.state_dict())
    read_chunks(base, list(range(3, 40)), 16, attention_kernel("auto"))
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        candidate_projections(base.attention_layers, random_weights(model)),
    ):
        raise RuntimeError("on purpose")
    assert snapshot(base.decoder) == modules
    assert set(base.decoder.state_dict()) == names


def test_a_failing_pass_leaves_the_model_as_before() -> None:
    model = tiny_model()
    base = BaseModel(model)
    modules = snapshot(base.decoder)

    class Failing:
        def attend(self, *args: Any) -> torch.Tensor:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        base.run(TOKENS, torch.arange(12)[None], Failing(), weights=random_weights(model), num_candidates=2)
    assert snapshot(base.decoder) == modules


@pytest.mark.parametrize("count", [0, 1, 3, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_only_the_last_rows_take_the_candidate_weight(count: int, bias: bool) -> None:
    base = torch.nn.Linear(4, 6, bias=bias)
    weight = torch.randn(6, 4)
    rows = CandidateRows()
    rows.count = count
    hidden = torch.randn(2, 5, 4)
    output = CandidateLinear(base, weight, rows)(hidden)
    split = 5 - count
    torch.testing.assert_close(output[:, :split], base(hidden[:, :split]))
    torch.testing.assert_close(output[:, split:], functional.linear(hidden[:, split:], weight, base.bias))


def test_a_parameter_as_candidate_weight_gets_a_gradient() -> None:
    rows = CandidateRows()
    rows.count = 2
    weight = torch.randn(6, 4, requires_grad=True)
    CandidateLinear(torch.nn.Linear(4, 6), weight, rows)(torch.randn(1, 3, 4)).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("family", CLASSES)
def test_a_key_moved_by_rotation_is_the_key_at_the_other_position(family: str) -> None:
    """The key that the model makes at position 40, turned back by 37, is the key it makes at position 3."""
    model = tiny_model(family)
    base = BaseModel(model)
    made: dict[int, list[torch.Tensor]] = {}

    class Recording:
        def __init__(self, place: int) -> None:
            self.keys = made.setdefault(place, [])

        def attend(self, layer: int, query: Any, key: Any, value: Any, scaling: float, window: Any) -> torch.Tensor:
            self.keys.append(key)
            return torch.zeros_like(query).transpose(1, 2)  # so that later layers' inputs do not depend on positions

    for place in (3, 40):
        with torch.no_grad():
            base.run(torch.tensor([[5]]), torch.tensor([[place]]), Recording(place))
    rotations = base.rotary.rotations(torch.tensor([-37]))
    for layer in range(base.num_layers):
        moved = rotate(made[40][layer], base.rotary.of_layer(rotations, layer))
        torch.testing.assert_close(moved, made[3][layer], atol=1e-5, rtol=1e-4)


def test_yarn_scaling_is_not_applied_twice() -> None:
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
    model = tiny_model("llama", rope_parameters=rope)
    base = BaseModel(model)
    assert model.model.rotary_emb.attention_scaling != 1
    key = torch.randn(1, 2, 1, 8)
    there = rotate(key, base.rotary.of_layer(base.rotary.rotations(torch.tensor([9])), 0))
    back = rotate(there, base.rotary.of_layer(base.rotary.rotations(torch.tensor([-9])), 0))
    torch.testing.assert_close(back, key, atol=1e-5, rtol=1e-4)


def test_a_pass_under_a_causal_layout_is_the_models_own_forward() -> None:
    class Causal:
        def attend(self, layer, query, key, value, scaling, window):  # type: ignore[no-untyped-def]
            kernel = attention_kernel("naive")
            return kernel(query, key, value, scaling=scaling, query_start=0, window=window)[0].transpose(1, 2)

    model = tiny_model()
    base = BaseModel(model)
    with torch.no_grad():
        hidden = base.run(TOKENS, torch.arange(12)[None], Causal())
        torch.testing.assert_close(base.logits(hidden), model(TOKENS).logits, atol=1e-5, rtol=1e-4)
