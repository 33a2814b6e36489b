"""Attention over keys held anywhere, in parts that merge by log-sum-exp."""

from focusdoc.attention.interface import AttentionKernel, AttentionName, attention_kernel
from focusdoc.attention.naive import attention_weights, merge, visibility

__all__ = ["AttentionKernel", "AttentionName", "attention_kernel", "attention_weights", "merge", "visibility"]
