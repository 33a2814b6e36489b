"""The attention interface of this library, and the choice of its implementation."""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from focusdoc.attention import flash, naive, sdpa
from focusdoc.errors import ConfigError

_log = logging.getLogger(__name__)

AttentionName = Literal["auto", "flash", "naive", "sdpa"]


class AttentionKernel(Protocol):
    """Attention with its log-sum-exp, with the contract of `focusdoc.attention.naive.attend`."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        query_start: int,
        window: int | None = None,
        prefix: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Return output [batch, num_heads, num_queries, head_dim] and float32 lse [batch, num_heads, num_queries]."""


def attend_both(
    kernel: AttentionKernel,
    query: Tensor,
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    *,
    scaling: float,
    query_start: int,
    window: int | None = None,
) -> Tensor:
    """Attention over two sets of keys, `second` following `first`; the output of `focusdoc.attention.naive.attend`.

    Args:
        first, second: keys and values [batch, num_kv_heads, num_keys, head_dim].
        query_start: position of the first query, as an index into the keys of `second`.
    """
    if kernel is sdpa.attend and window is None and sdpa.prefers_joint_softmax(query, first[0]):
        return sdpa.attend_both(query, first, second, scaling=scaling, query_start=query_start)
    start = first[0].shape[2] + query_start
    over_first = kernel(query, *first, scaling=scaling, query_start=start, window=window)
    over_second = kernel(query, *second, scaling=scaling, query_start=query_start, window=window)
    return naive.blend(*over_first, *over_second)


def attend_causal(
    kernel: AttentionKernel, query: Tensor, key: Tensor, value: Tensor, *, scaling: float, window: int | None = None
) -> Tensor:
    """Causal self-attention within a chunk; the output of `focusdoc.attention.naive.attend`.

    Query and output are [batch, num_heads, length, head_dim], key and value [batch, num_kv_heads, length, head_dim].
    """
    sees_all = window is None or window >= query.shape[2]
    if kernel is sdpa.attend and sees_all and sdpa.prefers_blocks(query):
        return sdpa.attend_causal(query, key, value, scaling=scaling)
    return kernel(query, key, value, scaling=scaling, query_start=0, window=window)[0]


def attention_kernel(name: str, device: torch.device | None = None) -> AttentionKernel:
    """The attention implementation called `name`.

    Args:
        name: ``"naive"`` (fp32, the specification), ``"sdpa"``, ``"flash"`` (flash-attn, on CUDA), or ``"auto"``: flash
            on a CUDA GPU where flash-attn can be loaded, else sdpa.
        device: the model's device; None if unknown.

    Raises:
        ConfigError: the name is unknown, or it is "flash" and flash-attn cannot be used.
    """
    if name == "naive":
        return naive.attend
    if name == "flash":
        return flash.flash_attention(device)
    if name not in ("auto", "sdpa"):
        raise ConfigError(f"attention is {name!r}; choose one of {', '.join(get_args(AttentionName))}.")
    if name == "auto" and device is not None and device.type == "cuda" and flash.is_installed():
        try:
            return flash.flash_attention(device)
        except ConfigError as error:
            _log.warning("Attention falls back to sdpa: %s", error)
    if device is not None and not sdpa.has_kernel(device):
        _warn_naive_fallback(device.type)
    return sdpa.attend


@cache
def _warn_naive_fallback(device: str) -> None:
    """Warn once per device type."""
    _log.warning(
        "torch %s has no fused attention kernel for %s that returns its log-sum-exp, so attention falls back to plain "
        "float32: the same answers, but several times slower, with memory quadratic in the chunk size. Run on a CPU or "
        "a CUDA GPU with torch 2.6 or newer, or choose a smaller chunk_size.",
        torch.__version__,
        device,
    )
