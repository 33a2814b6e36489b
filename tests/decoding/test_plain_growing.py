"""A cache that grows in place holds what transformers' own does, also behind a cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from focusdoc.decoding import plain
from focusdoc.decoding.plain import GrowingLayer, growing_cache
from tiny_models import tiny_model


def states(tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2, tokens, 4, generator=generator), torch.randn(1, 2, tokens, 4, generator=generator)


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_SPARE_TOKENS", 3)


def test_it_holds_what_the_plain_one_holds() -> None:
    layer, plain = GrowingLayer(), DynamicLayer()
    for seed, (tokens, cut) in enumerate([(5, 0), (1, 0), (1, 0), (2, -3), (1, 0), (4, -8), (1, 0), (9, 0)]):
        for found, wanted in zip(layer.update(*states(tokens, seed)), plain.update(*states(tokens, seed)), strict=True):
            assert torch.equal(found, wanted)
        layer.crop(cut)
        plain.crop(cut)
        assert layer.get_seq_length() == plain.get_seq_length()


def test_a_token_is_written_behind_the_others_which_stay_where_they_are() -> None:
    layer = GrowingLayer()
    layer.update(*states(5, 0))
    places = [layer.update(*states(1, seed))[0].data_ptr() for seed in range(1, 6)]
    assert len(set(places[:4])) == 1  # the first is copied with room for three
    assert places[4] != places[0]


def test_one_that_was_given_other_keys_keeps_to_them() -> None:
    layer, plain = GrowingLayer(), DynamicLayer()
    for each in (layer, plain):
        each.update(*states(5, 0))
        each.update(*states(1, 1))
        each.batch_repeat_interleave(2)
    new = [torch.cat([each, each]) for each in states(1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(layer.update(*new), plain.update(*new), strict=True))


def test_layers_with_a_window_stay_transformers_own() -> None:
    kinds = [type(layer) for layer in growing_cache(tiny_model("gemma3_text").config).layers]
    assert GrowingLayer in kinds
    assert any(kind is not GrowingLayer for kind in kinds)
    assert {type(layer) for layer in growing_cache(tiny_model("llama").config).layers} == {GrowingLayer}
