"""The plain path feeds a prompt from where it differs from the last one, and says the same."""

from __future__ import annotations

import pytest
import torch

from focusdoc.decoding.plain import PlainDecoder, PrefixCache
from focusdoc.modeling.base import BaseModel
from tiny_models import tiny_model

FIRST, SECOND = [5, 9, 33, 70, 8, 14], [5, 9, 33, 11, 12]


def said(base: BaseModel, prompt: list[int], prefixes: PrefixCache | None) -> torch.Tensor:
    decoder = PlainDecoder(base, prefixes)
    logits = [decoder.start(prompt), decoder.step(7), decoder.step(21)]
    decoder.close()
    return torch.stack(logits)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
@pytest.mark.parametrize("prompt", [FIRST, SECOND, [*FIRST, 7, 21, 44], FIRST[:2], [90, 91]])
def test_a_known_beginning_changes_nothing(family: str, prompt: list[int]) -> None:
    base, prefixes = BaseModel(tiny_model(family)), PrefixCache()
    said(base, FIRST, prefixes)
    torch.testing.assert_close(said(base, prompt, prefixes), said(base, prompt, None), atol=1e-5, rtol=1e-4)


def test_what_is_alike_is_not_fed_again() -> None:
    base, prefixes = BaseModel(tiny_model("llama")), PrefixCache()
    said(base, FIRST, prefixes)
    known, cache = prefixes.take(SECOND)
    assert known == FIRST[:3]
    assert cache.get_seq_length() == 3
    assert prefixes.take(SECOND) == ([], None)  # another thread has it


def test_the_last_token_is_always_fed() -> None:
    base, prefixes = BaseModel(tiny_model("llama")), PrefixCache()
    said(base, FIRST, prefixes)
    assert prefixes.take(FIRST)[0] == FIRST[:-1]


def test_a_sliding_window_cannot_be_cut_and_is_not_kept() -> None:
    base, prefixes = BaseModel(tiny_model("gemma3_text")), PrefixCache()
    said(base, FIRST, prefixes)
    assert prefixes.take(FIRST) == ([], None)
