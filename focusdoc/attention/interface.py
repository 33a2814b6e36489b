"""The one way attention is called in this library, and the choice of its implementation."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from focusdoc.attention import naive, sdpa
from focusdoc.errors import ConfigError

AttentionName = Literal["auto", "naive", "sdpa"]


class AttentionKernel(Protocol):
    """Attention with its log-sum-exp; the contract is that of `focusdoc.attention.naive.attend`."""

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
        ...


def attention_kernel(name: str) -> AttentionKernel:
    """The implementation called `name`: ``"naive"`` (fp32, the specification), ``"sdpa"`` or ``"auto"``.

    Raises:
        ConfigError: for any other name.
    """
    kernels: dict[str, AttentionKernel] = {"naive": naive.attend, "sdpa": sdpa.attend, "auto": sdpa.attend}
    if name not in kernels:
        raise ConfigError(f"attention is {name!r}; choose one of {', '.join(sorted(kernels))}.")
    return kernels[name]
