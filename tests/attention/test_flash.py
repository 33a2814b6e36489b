"""flash-attn: how it is called, against the naive form through a stand-in of its meaning, and on a GPU for real."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import flash_stand_in
from attention_shapes import SHAPES, TOLERANCE, inputs, settings_of
from focusdoc import FocusConfig, FocusEngine
from focusdoc.attention import attention_kernel, flash, merge, naive, sdpa
from focusdoc.attention.flash import FlashAttention, flash_mask
from focusdoc.errors import ConfigError
from focusdoc.modeling.base import BaseModel
from tiny_models import tiny_model

#: Shapes that flash-attn has no words for: a window that spares candidates, or a query that sees nothing.
SPARED = {
    "window that spares candidates",
    "chunk wholly out of the window",
    "chunk out of the window for the last query",
}


@pytest.fixture
def calls() -> list[tuple[str, dict[str, Any]]]:
    """What the stand-in is called with in this test."""
    flash_stand_in.calls.clear()
    return flash_stand_in.calls


def stand_in(dtype: torch.dtype = torch.float32) -> FlashAttention:
    """The kernel on the stand-in, which takes float32 too, so that agreement can be close."""
    return FlashAttention(flash_stand_in, (dtype,))


class TestPreparedCalls:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("name", SHAPES)
    def test_agree_with_naive(self, name: str, dtype: torch.dtype, calls: list[Any]) -> None:
        settings = settings_of(SHAPES[name])
        query, key, value = inputs(SHAPES[name], dtype)
        wanted, wanted_lse = naive.attend(query.float(), key.float(), value.float(), **settings)
        found, found_lse = stand_in(dtype)(query, key, value, **settings)
        assert found.dtype == dtype
        assert found_lse.dtype == torch.float32
        assert found_lse.is_contiguous()
        torch.testing.assert_close(found.float(), wanted, **TOLERANCE[dtype])
        torch.testing.assert_close(found_lse, wanted_lse, **TOLERANCE[dtype])
        assert bool(calls) == (name not in SPARED)

    @pytest.mark.parametrize(
        ("name", "function", "causal", "window_size"),
        [
            ("reading a chunk", "flash_attn_func", True, (-1, 0)),
            ("reading with a window", "flash_attn_func", True, (7, 0)),
            ("prompt over a chunk", "flash_attn_with_kvcache", False, (-1, -1)),
            # The first query stands 7 places behind the last key: of 20 places, 12 are left before the key it is at.
            ("prompt over a chunk with a window", "flash_attn_with_kvcache", False, (12, -1)),
            ("prompt over its own tail", "flash_attn_func", True, (-1, 0)),
            ("two new tokens over a tail", "flash_attn_with_kvcache", True, (-1, 0)),
            ("local tokens over candidates", "flash_attn_with_kvcache", True, (-1, 0)),
            ("keys that end between the queries", "flash_attn_with_kvcache", False, (-1, 2)),
        ],
    )  # fmt: skip
    def test_speak_of_masks_as_flash_attn_does(
        self, name: str, function: str, causal: bool, window_size: tuple[int, int], calls: list[Any]
    ) -> None:
        stand_in()(*inputs(SHAPES[name]), **settings_of(SHAPES[name]))
        assert calls == [(function, {"causal": causal, "window_size": window_size})]

    def test_hand_over_views_and_never_expand_grouped_heads(self) -> None:
        query, key, value = inputs(SHAPES["prompt over a chunk"])
        given: list[torch.Tensor] = []

        class Watched:
            @staticmethod
            def flash_attn_with_kvcache(*tensors: torch.Tensor, **settings: Any) -> Any:
                given.extend(tensors)
                return flash_stand_in.flash_attn_with_kvcache(*tensors, **settings)

        kernel = FlashAttention(Watched(), (torch.float32,))
        kernel(query, key, value, scaling=0.25, query_start=40)
        assert [each.data_ptr() for each in given] == [each.data_ptr() for each in (query, key, value)]
        assert [tuple(each.shape) for each in given] == [(3, 7, 6, 16), (3, 40, 2, 16), (3, 40, 2, 16)]

    def test_merge_with_a_tail_into_attention_over_both(self) -> None:
        """What a decoding step does: two tokens over a chunk, and over a tail of which they are the last."""
        query, key, value = inputs((3, 6, 2, 2, 52))
        wanted, wanted_lse = naive.attend(query, key, value, scaling=0.25, query_start=50)
        over_chunk = stand_in()(query, key[:, :, :40], value[:, :, :40], scaling=0.25, query_start=50)
        over_tail = stand_in()(query, key[:, :, 40:], value[:, :, 40:], scaling=0.25, query_start=10)
        found, found_lse = merge(*over_chunk, *over_tail)
        torch.testing.assert_close(found, wanted, **TOLERANCE[torch.float32])
        torch.testing.assert_close(found_lse, wanted_lse, **TOLERANCE[torch.float32])

    def test_are_not_made_for_what_the_kernels_do_not_take(self, calls: list[Any]) -> None:
        shape = SHAPES["reading a chunk"]
        half_only = FlashAttention(flash_stand_in)
        for states in (inputs(shape), inputs(shape, torch.bfloat16, head_dim=264)):
            found, wanted = half_only(*states, **settings_of(shape)), sdpa.attend(*states, **settings_of(shape))
            assert torch.equal(found[0], wanted[0])
        query, key, value = inputs(shape, torch.bfloat16)
        half_only(query.requires_grad_(), key, value, **settings_of(shape))
        assert calls == []

    def test_are_not_made_over_no_keys(self) -> None:
        assert flash_mask(2, 0, query_start=4, window=None, prefix=0) is None

    @pytest.mark.parametrize("name", SHAPES)
    def test_have_masks_that_show_what_the_specification_shows(self, name: str) -> None:
        *_, num_queries, num_keys, query_start, window, prefix = SHAPES[name]
        mask = flash_mask(num_queries, num_keys, query_start=query_start, window=window, prefix=prefix)
        wanted = naive.visibility(num_queries, num_keys, query_start=query_start, window=window, prefix=prefix)
        wanted = torch.ones(num_queries, num_keys, dtype=torch.bool) if wanted is None else wanted
        if mask is None:
            assert name in SPARED
            return
        place = torch.arange(num_queries)[:, None] + mask.num_keys - num_queries
        distance = torch.arange(num_keys)[None, :] - place
        left, right = mask.window_size
        found = torch.arange(num_keys)[None, :] < mask.num_keys
        found = found & (distance <= (right if right >= 0 else num_keys)) & (distance >= (-left if left >= 0 else -999))
        assert torch.equal(found, wanted)


class TestEngine:
    @pytest.mark.parametrize("family", ["llama", "gemma3_text"])
    @pytest.mark.parametrize("condensing", ["candidates", "look"])
    def test_decodes_to_the_same_logits(self, family: str, condensing: Any, calls: list[Any]) -> None:
        """Reading, prompt and steps of a whole engine, over chunks of which the last is ragged."""
        model = tiny_model(family, **({"sliding_window": 24} if family == "gemma3_text" else {}))
        ids = torch.randint(3, 96, (150,), generator=torch.Generator().manual_seed(0))

        def logits(kernel: Any) -> torch.Tensor:
            config = FocusConfig(
                chunk_size=40, local_window=16, condensing=condensing, heads=((1, 2),), allow_untrained=True
            )
            engine = FocusEngine(BaseModel(model), None, config)
            engine.kernel = kernel
            found = engine.generate(ids, max_new_tokens=4, return_logits=True, ignore_eos=True).logits
            assert found is not None
            return found

        torch.testing.assert_close(logits(stand_in()), logits(naive.attend), atol=2e-4, rtol=1e-4)
        assert {name for name, _ in calls} == {"flash_attn_func", "flash_attn_with_kvcache"}


class TestChoice:
    CUDA = torch.device("cuda")

    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The stand-in is what `import flash_attn` finds."""
        monkeypatch.setitem(sys.modules, "flash_attn", flash_stand_in)

    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """flash-attn is there, but was built for another torch."""
        monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
        (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol')")
        monkeypatch.syspath_prepend(tmp_path)

    @pytest.mark.usefixtures("installed")
    def test_auto_takes_flash_on_a_gpu_and_sdpa_elsewhere(self) -> None:
        assert attention_kernel("auto", self.CUDA) == FlashAttention(flash_stand_in)
        assert attention_kernel("auto", torch.device("cpu")) is sdpa.attend
        assert attention_kernel("auto") is sdpa.attend

    def test_auto_takes_sdpa_without_flash_attn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "flash_attn", None)
        assert attention_kernel("auto", self.CUDA) is sdpa.attend

    @pytest.mark.usefixtures("broken")
    def test_auto_says_why_an_installed_flash_attn_is_not_used(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            assert attention_kernel("auto", self.CUDA) is sdpa.attend
        assert "undefined symbol" in caplog.text

    @pytest.mark.usefixtures("broken")
    def test_flash_that_cannot_be_loaded_is_refused_with_the_remedy(self) -> None:
        with pytest.raises(ConfigError, match=r"undefined symbol.*focusdoc\[flash\].*'sdpa'"):
            attention_kernel("flash", self.CUDA)

    @pytest.mark.usefixtures("installed")
    def test_flash_on_a_cpu_is_refused_with_the_remedy(self) -> None:
        with pytest.raises(ConfigError, match=r"'flash'.*'cpu'.*CUDA.*'sdpa'"):
            attention_kernel("flash", torch.device("cpu"))
        with pytest.raises(ConfigError, match="CUDA"):
            FocusEngine(BaseModel(tiny_model()), None, attention="flash")


@pytest.mark.gpu
class TestOnAGpu:
    """The same comparisons with flash-attn itself."""

    @pytest.fixture
    def kernel(self) -> FlashAttention:
        if not torch.cuda.is_available():
            pytest.skip("flash-attn needs a CUDA GPU, and there is none")
        if not flash.is_installed():
            pytest.skip("the package flash-attn is not installed (the extra flash)")
        return FlashAttention(importlib.import_module("flash_attn"))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("name", SHAPES)
    def test_agrees_with_naive(self, kernel: FlashAttention, name: str, dtype: torch.dtype) -> None:
        settings = settings_of(SHAPES[name])
        states = inputs(SHAPES[name], dtype, head_dim=64)
        settings["scaling"] = 64**-0.5
        wanted, wanted_lse = naive.attend(*(each.float() for each in states), **settings)
        found, found_lse = kernel(*(each.cuda() for each in states), **settings)
        torch.testing.assert_close(found.cpu().float(), wanted, **TOLERANCE[dtype])
        torch.testing.assert_close(found_lse.cpu(), wanted_lse, **TOLERANCE[dtype])
