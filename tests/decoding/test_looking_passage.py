"""The passage in a chunk: the tokens looked at most."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.decoding.looking import PASSAGE_TOKENS, passage_tokens


def test_the_passage_lies_around_the_peak() -> None:
    attention = torch.zeros(500)
    attention[200:212] = 1.0
    first, last, centre = passage_tokens(attention)
    assert first < 200 < 212 < last
    assert 198 <= centre <= 212
    assert last - first == PASSAGE_TOKENS


@given(st.integers(1, 200), st.integers(0, 2**16))
def test_the_passage_stays_in_its_chunk(length: int, seed: int) -> None:
    attention = torch.rand(length, generator=torch.Generator().manual_seed(seed))
    first, last, centre = passage_tokens(attention)
    assert 0 <= first <= centre < last <= length
