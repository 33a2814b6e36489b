"""Packed weights: the same numbers up to rounding, and a model that is as before when they are taken off."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.packed import JoinedLinear, JoinedPart, PackedLinear, PackedProjections, can_pack
from tiny_models import CLASSES, random_weights, tiny_model

packs = pytest.mark.skipif(not can_pack(nn.Linear(4, 4)), reason="this build of torch has no packed matrix kernels")


@packs
@pytest.mark.parametrize("rows", [(1,), (7,), (1, 5), (2, 3), (400,)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_packed_linear_maps_as_the_plain_one(
    rows: tuple[int, ...], bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, 80, bias=bias, dtype=dtype)
    hidden = torch.randn(*rows, 48, dtype=dtype)
    with torch.no_grad():
        found, expected = PackedLinear(plain.weight, plain.bias)(hidden), plain(hidden)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@packs
@pytest.mark.parametrize("family", CLASSES)
def test_packed_projections_stand_for_the_plain_ones(family: str) -> None:
    base = BaseModel(tiny_model(family))
    weights = random_weights(base.model)
    modules = list(base.decoder.named_modules())
    packed = base.packed(weights)
    assert isinstance(packed, PackedProjections)

    class Causal:
        def attend(self, layer, query, key, value, scaling, window):  # type: ignore[no-untyped-def]
            groups = query.shape[1] // key.shape[1]
            keys, values = (states.repeat_interleave(groups, dim=1) for states in (key, value))
            return nn.functional.scaled_dot_product_attention(
                query, keys, values, is_causal=True, scale=scaling
            ).transpose(1, 2)

    ids = torch.randint(3, 90, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = (
            base.run(ids, torch.arange(9)[None], Causal(), weights=each, num_candidates=4) for each in (packed, weights)
        )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert list(base.decoder.named_modules()) == modules


@packs
def test_an_error_inside_a_pass_detaches_them() -> None:
    base = BaseModel(tiny_model())
    modules = list(base.decoder.named_modules())
    packed = base.packed(random_weights(base.model))
    assert isinstance(packed, PackedProjections)
    ids, places = torch.tensor([[3, 4, 5]]), torch.arange(3)[None]
    with pytest.raises(AttributeError, match="attend"):
        base.run(ids, places, object(), weights=packed, num_candidates=2)  # type: ignore[arg-type]
    assert list(base.decoder.named_modules()) == modules
    with packed.attached() as rows:
        assert rows.count == 0


def test_joined_projections_are_made_in_one_product() -> None:
    calls = []

    class Counted(nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            calls.append(hidden)
            return super().forward(hidden)

    whole = Counted(8, 12, bias=False)
    joined = JoinedLinear(whole, [6, 2, 4])
    query, key, value = (JoinedPart(joined, index) for index in range(3))
    for hidden in (torch.randn(1, 5, 8), torch.randn(1, 5, 8)):
        found = torch.cat((query(hidden), key(hidden), value(hidden)), dim=-1)
        torch.testing.assert_close(found, nn.functional.linear(hidden, whole.weight))
    assert len(calls) == 2


def test_joined_projections_do_not_take_another_input_for_the_last() -> None:
    whole = nn.Linear(4, 4, bias=False)
    joined = JoinedLinear(whole, [2, 2])
    gate, up = JoinedPart(joined, 0), JoinedPart(joined, 1)
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    gate(first)  # its second part is never asked for
    torch.testing.assert_close(gate(second), nn.functional.linear(second, whole.weight)[:, :2])
    torch.testing.assert_close(up(second), nn.functional.linear(second, whole.weight)[:, 2:])


@packs
@pytest.mark.parametrize("letters", ["q", "qk", "o", "qkvo"])
def test_projections_that_differ_are_not_joined(letters: str) -> None:
    base = BaseModel(tiny_model("qwen2"))  # q, k and v have a bias, o has none
    weights = [{letter: layer[letter] for letter in letters} for layer in random_weights(base.model)]
    packed = base.packed(weights)
    assert isinstance(packed, PackedProjections)
    attention = base.attention_layers[0]
    with packed.attached():
        assert isinstance(attention.q_proj, JoinedPart) == (letters in ("o", "qkvo"))
    assert type(attention.q_proj) is nn.Linear


def test_large_models_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    base = BaseModel(tiny_model())
    weights = random_weights(base.model)
    monkeypatch.setattr("focusdoc.modeling.packed.MAX_BYTES", 1000)
    assert base.packed(weights) is weights
