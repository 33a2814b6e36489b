"""Attention over keys in separate places, computed in parts that are merged by log-sum-exp."""

from focusdoc.attention.frozen import attend_frozen, masked_attention
from focusdoc.attention.interface import AttentionKernel, AttentionName, attend_both, attend_causal, attention_kernel
from focusdoc.attention.naive import attention_weights, blend, merge, visibility

__all__ = [
    "AttentionKernel",
    "AttentionName",
    "attend_both",
    "attend_causal",
    "attend_frozen",
    "attention_kernel",
    "attention_weights",
    "blend",
    "masked_attention",
    "merge",
    "visibility",
]
