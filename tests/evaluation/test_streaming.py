"""StreamingLLM against its definition: a cache of un-rotated keys, and positions counted within it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from focusdoc import FocusEngine
from focusdoc.attention import attention_kernel
from focusdoc.errors import ConfigError
from focusdoc.evaluation import streaming
from focusdoc.evaluation.streaming import StreamingDecoder
from focusdoc.modeling.base import BaseModel
from tiny_models import tiny_model

SINKS, WINDOW = 3, 8


def by_definition(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits [tokens, vocab], token by token, with every layer of a Llama written out.

    The cache holds keys as they were before RoPE; for each token, those of the sinks and of the window are rotated
    at 0, 1, 2, ... and the query at the place behind them.
    """
    decoder, config = model.model, model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    cache: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in decoder.layers]
    logits = []
    for token in ids:
        hidden = decoder.embed_tokens(torch.tensor([[token]]))
        for layer, held in zip(decoder.layers, cache, strict=True):
            normed = layer.input_layernorm(hidden)
            query, key, value = (
                projection(normed).view(1, 1, count, -1).transpose(1, 2)
                for projection, count in (
                    (layer.self_attn.q_proj, heads),
                    (layer.self_attn.k_proj, kv_heads),
                    (layer.self_attn.v_proj, kv_heads),
                )
            )
            held.append((key, value))
            if len(held) > SINKS + WINDOW:
                del held[SINKS]
            keys, values = (torch.cat(states, dim=2) for states in zip(*held, strict=True))
            cos, sin = decoder.rotary_emb(keys, torch.arange(len(held))[None])
            _, keys = apply_rotary_pos_emb(keys, keys, cos, sin)
            query, _ = apply_rotary_pos_emb(query, query, cos[:, -1:], sin[:, -1:])
            keys, values = (states.repeat_interleave(heads // kv_heads, dim=1) for states in (keys, values))
            weights = (query @ keys.transpose(-1, -2) * layer.self_attn.scaling).softmax(dim=-1)
            mixed = (weights @ values).transpose(1, 2).flatten(2)
            hidden = hidden + layer.self_attn.o_proj(mixed)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        logits.append(model.lm_head(decoder.norm(hidden))[0, 0])
    return torch.stack(logits)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel(tiny_model("llama"), name="tiny")


@pytest.mark.parametrize("kernel", ["naive", "sdpa"])
@pytest.mark.parametrize("block", [1, 4, 64])
@torch.no_grad()
def test_blocks_give_what_token_by_token_does(
    base: BaseModel, kernel: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "BLOCK", block)
    ids = torch.randint(3, 96, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    expected = by_definition(base.model, ids)
    decoder = StreamingDecoder(base, attention_kernel(kernel), sinks=SINKS, window=WINDOW)
    hidden = decoder.run(ids[:33], keep=33)
    torch.testing.assert_close(base.logits(hidden), expected[:33], atol=2e-5, rtol=1e-4)
    for place in range(33, 40):
        torch.testing.assert_close(decoder.step(ids[place]), expected[place], atol=2e-5, rtol=1e-4)
    assert decoder.num_cached == SINKS + WINDOW


@torch.no_grad()
def test_before_anything_drops_out_it_is_the_base_model(base: BaseModel) -> None:
    ids = list(range(3, 30))
    decoder = StreamingDecoder(base, attention_kernel("sdpa"), sinks=4, window=64)
    logits = decoder.start(ids)
    torch.testing.assert_close(logits, base.model(torch.tensor([ids])).logits[0, -1], atol=1e-5, rtol=1e-4)
    assert decoder.num_cached == 27


def test_a_short_prompt_within_the_sinks(base: BaseModel) -> None:
    decoder = StreamingDecoder(base, attention_kernel("sdpa"), sinks=4, window=8)
    first = decoder.start([5, 6])
    assert first.shape == (96,)
    with torch.no_grad():
        expected = base.model(torch.tensor([[5, 6, 7]])).logits[0, -1]
    torch.testing.assert_close(decoder.step(7), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("sinks", "window"), [(0, 8), (4, 0), (4, 10_000)])
def test_settings_that_make_no_sense(engine: FocusEngine, sinks: int, window: int) -> None:
    with pytest.raises(ConfigError):
        StreamingDecoder(engine.base, engine.kernel, sinks=sinks, window=window)
