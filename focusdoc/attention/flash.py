"""Attention through the package flash-attn (version 2, from 2.7 on), for CUDA.

Its kernels support grouped heads, return the log-sum-exp, and align masks at the bottom right: the last query is at the
position of the last key. Anything they do not support falls back to `focusdoc.attention.sdpa`.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from focusdoc.attention import sdpa
from focusdoc.errors import ConfigError

_PACKAGE = "flash_attn"
#: There are no kernels for larger heads.
_MAX_HEAD_DIM = 256
#: flash-attn's value for a window without a limit.
_UNBOUNDED = -1


@dataclass(frozen=True, slots=True)
class FlashMask:
    """A mask in flash-attn's terms.

    Attributes:
        num_keys: the number of leading keys to pass; no query sees the ones after them.
        causal, window_size: flash-attn's arguments; the window is (left, right), inclusive, around the query's own key.
    """

    num_keys: int
    causal: bool
    window_size: tuple[int, int]


def flash_mask(
    num_queries: int, num_keys: int, *, query_start: int, window: int | None, prefix: int
) -> FlashMask | None:
    """`focusdoc.attention.naive.visibility` as a flash-attn mask.

    Returns:
        None if flash-attn cannot express it: a window with an exempt prefix, or a query that sees nothing.
    """
    num_keys = min(num_keys, query_start + num_queries)
    # flash-attn assumes that the last query is at the last key; ours is this far past it.
    ahead = query_start + num_queries - num_keys
    sees_all = num_keys - 1 <= query_start
    right = _UNBOUNDED if sees_all else ahead
    left = _UNBOUNDED
    if window is not None and query_start + num_queries - 1 - prefix >= window:
        left = window - 1 - ahead
        if prefix or left < 0:
            return None
    if num_keys < 1:
        return None
    return FlashMask(num_keys, causal=right == 0, window_size=(left, right))


@dataclass(frozen=True, slots=True)
class FlashAttention:
    """An `AttentionKernel` on flash-attn, with the contract of `focusdoc.attention.naive.attend`.

    Attributes:
        functions: the package flash-attn, or a stand-in with the same semantics.
        dtypes: the supported dtypes; others fall back to sdpa.
    """

    functions: Any
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)

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
        """See `focusdoc.attention.naive.attend`."""
        num_queries = query.shape[2]
        mask = flash_mask(num_queries, key.shape[2], query_start=query_start, window=window, prefix=prefix)
        needs_gradient = torch.is_grad_enabled() and query.requires_grad  # flash_attn_with_kvcache has no backward pass
        fits = query.dtype in self.dtypes and query.shape[-1] <= _MAX_HEAD_DIM and not needs_gradient
        if mask is None or not fits:
            return sdpa.attend(
                query, key, value, scaling=scaling, query_start=query_start, window=window, prefix=prefix
            )
        # [batch, num_heads, length, head_dim] -> [batch, length, num_heads, head_dim], as views
        rows, keys, values = (states.transpose(1, 2) for states in (query, key, value))
        keys, values = keys[:, : mask.num_keys], values[:, : mask.num_keys]
        options: dict[str, Any] = {
            "softmax_scale": scaling, "causal": mask.causal, "window_size": mask.window_size,
        }  # fmt: skip
        if num_queries == mask.num_keys:
            output, lse, _ = self.functions.flash_attn_func(rows, keys, values, return_attn_probs=True, **options)
        else:  # few queries: the keys are split over the GPU's multiprocessors (split-KV)
            output, lse = self.functions.flash_attn_with_kvcache(rows, keys, values, return_softmax_lse=True, **options)
        return output.transpose(1, 2), lse.float().contiguous()


def flash_attention(device: torch.device | None = None) -> FlashAttention:
    """The kernel of the installed flash-attn.

    Args:
        device: the model's device; None for a CUDA GPU if there is one.

    Raises:
        ConfigError: the model is not on a CUDA GPU, or flash-attn is not installed or cannot be loaded.
    """
    place = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if place.type != "cuda":
        raise ConfigError(
            f"attention is 'flash', but the model is on '{place}'; it needs a CUDA GPU, so choose 'sdpa'."
        )
    try:
        return FlashAttention(importlib.import_module(_PACKAGE))
    except (ImportError, OSError) as error:  # not installed, or built for another torch or CUDA
        raise ConfigError(
            f"attention is 'flash', but flash-attn cannot be loaded ({error}); install it with "
            "pip install 'focusdoc[flash]', or choose 'sdpa'."
        ) from error


def is_installed() -> bool:
    """Whether flash-attn is installed, without importing it."""
    return importlib.util.find_spec(_PACKAGE) is not None
