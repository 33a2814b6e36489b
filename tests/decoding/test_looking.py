"""Where retrieving heads look is told from where attention rests."""

from __future__ import annotations

import torch
from torch import Tensor

from focusdoc.decoding.looking import POOL_WIDTH, SINK_TOKENS, retrieval_scores
from focusdoc.decoding.quoting import points

LENGTH, HEADS = 200, 9


def rows(**places: tuple[int, float]) -> Tensor:
    """One row of each of nine heads over a chunk, uniform but for what is at `places`, (token, attention)."""
    weights = torch.full((1, HEADS, 1, LENGTH), 0.1 / LENGTH)
    for name, (token, weight) in places.items():
        weights[0, slice(None) if name == "all" else slice(0, 1), 0, token] = weight
    return weights


def place(looked: Tensor) -> int:
    """The token in the middle of the place that is looked at most."""
    return next(points([0], [looked.sum(dim=(0, 1, 2))]))[1]


def test_one_head_that_is_sure_outweighs_all_that_rest_on_a_word() -> None:
    weights, values = rows(all=(50, 0.2), first=(120, 0.8)), torch.ones(1, 3, LENGTH, 8)
    assert abs(place(weights) - 50) < POOL_WIDTH
    assert abs(place(retrieval_scores(weights, values)) - 120) < POOL_WIDTH


def test_attention_on_a_word_of_small_value_is_rest() -> None:
    weights, values = rows(all=(50, 0.7), first=(120, 0.6)), torch.ones(1, 3, LENGTH, 8)
    values[:, :, 50] *= 0.05
    assert abs(place(retrieval_scores(weights, values)) - 120) < POOL_WIDTH


def test_the_first_tokens_count_as_nothing() -> None:
    weights, values = rows(all=(SINK_TOKENS - 1, 0.9)), torch.ones(1, 3, LENGTH, 8)
    assert not retrieval_scores(weights, values)[..., :SINK_TOKENS].any()


def test_a_place_is_told_that_attention_is_spread_over() -> None:
    weights, values = rows(all=(50, 0.2)), torch.ones(1, 3, LENGTH, 8)
    weights[0, 0, 0, 120 : 120 + POOL_WIDTH // 2] = 0.9 / (POOL_WIDTH // 2)
    assert abs(place(retrieval_scores(weights, values)) - 124) < POOL_WIDTH


def test_chunks_shorter_than_a_place_keep_their_length() -> None:
    for length in (1, 3, 7):
        assert retrieval_scores(torch.rand(2, 4, 3, length), torch.rand(2, 2, length, 8)).shape == (2, 4, 3, length)
