"""Fused MLPs stand for the plain ones, and only for the time of a pass without gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.packed import FusedMlp, can_pack, fused_mlps
from focusdoc.modeling.twin import Replacement, swap_in
from tiny_models import CLASSES, tiny_model

packs = pytest.mark.skipif(
    not can_pack(nn.Linear(2, 2)), reason="torch has no packed matrix products for this processor"
)
IDS, PLACES = torch.tensor([[3, 4, 5, 6]]), torch.arange(4)[None]


class Watching:
    """A layout without attention that notes the MLP's class, layer by layer."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self.seen: list[type] = []

    def attend(self, layer: int, query: torch.Tensor, *_: Any) -> torch.Tensor:
        self.seen.append(type(self._base.decoder.layers[layer].mlp))
        return query.transpose(1, 2)


@packs
@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("rows", [1, 7, 130])
def test_a_fused_mlp_maps_as_the_plain_one(family: str, dtype: torch.dtype, tolerance: float, rows: int) -> None:
    base = BaseModel(tiny_model(family).to(dtype))
    layers = list(base.decoder.layers)
    replacements = fused_mlps(layers)
    assert [place.parent for place in replacements] == layers
    hidden = torch.randn(2, rows, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        for place in replacements:
            plain = place.parent.get_submodule(place.name)
            torch.testing.assert_close(place.module(hidden), plain(hidden), atol=tolerance, rtol=tolerance)


def test_an_mlp_of_unknown_parts_is_left_alone() -> None:
    base = BaseModel(tiny_model())
    first, second = base.decoder.layers
    first.mlp.act_fn = nn.ReLU()
    second.mlp.down_proj = nn.Sequential(second.mlp.down_proj)
    assert fused_mlps([first, second]) == []


@packs
def test_it_is_there_for_a_pass_without_gradients_only() -> None:
    base = BaseModel(tiny_model())
    plain = type(base.decoder.layers[0].mlp)
    modules = list(base.decoder.named_modules())
    for grad, expected in ((False, FusedMlp), (True, plain)):
        watching = Watching(base)
        with torch.set_grad_enabled(grad):
            base.run(IDS, PLACES, watching)
        assert watching.seen == [expected, expected]
        assert list(base.decoder.named_modules()) == modules


@packs
def test_an_error_inside_a_pass_puts_the_plain_ones_back() -> None:
    base = BaseModel(tiny_model())
    modules = list(base.decoder.named_modules())
    with torch.no_grad(), pytest.raises(AttributeError, match="attend"):
        base.run(IDS, PLACES, object())  # type: ignore[arg-type]
    assert list(base.decoder.named_modules()) == modules


def test_children_keep_their_order_and_names() -> None:
    parent = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    base = nn.Identity()
    own = list(parent.named_children())
    with swap_in([Replacement(parent, "1", base)]):
        assert list(parent.named_children()) == [own[0], ("1", base), own[2]]
    assert list(parent.named_children()) == own
