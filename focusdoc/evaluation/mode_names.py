"""The names of the modes, known without loading what runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from focusdoc.errors import ConfigError

#: What each mode is, for help and reports.
MODES: Mapping[str, str] = {
    "focus": "ours: the context is a memory, the question the local context",
    "split": "ours, split as in the paper: the prompt's last tokens are the local context, the rest a memory",
    "quoted": "ours, split likewise, with passages of the memory in front of the last tokens",
    "direct": "ours without an adapter: the question attends to the chunks themselves",
    "full": "the base model's full attention, cut in the middle to its own context",
    "truncated": "the base model, cut in the middle to the local window",
    "tail": "the base model with the last tokens of the local window alone",
    "streaming": "StreamingLLM: attention sinks and a sliding window",
    "paper": "the paper's own decoding, refreshed local context and all",
}


def check_modes(names: Sequence[str]) -> list[str]:
    """The names of modes, each once and in order.

    Raises:
        ConfigError: one is unknown, or there is none.
    """
    unknown = next((name for name in names if name not in MODES), None)
    if unknown is not None or not names:
        raise ConfigError(f"The mode {unknown or ''!r} is unknown; choose from {', '.join(MODES)}.")
    return list(dict.fromkeys(names))
