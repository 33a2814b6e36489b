"""The names and settings of the modes, without imports that load a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from focusdoc.errors import ConfigError

#: A description of each mode, for help and reports.
MODES: Mapping[str, str] = {
    "focus": "ours: the context is a memory, the question the local context",
    "split": "ours, split as in the paper: the prompt's last tokens are the local context, the rest a memory",
    "quoted": "like split, with passages of the memory in front of the last tokens",
    "look": "ours without an adapter: the model's retrieval heads find passages, which it reads",
    "full": "the base model's full attention, truncated in the middle to its context",
    "truncated": "the base model, truncated in the middle to the local window",
    "tail": "the base model with only the last tokens, as many as the local window",
    "streaming": "StreamingLLM: attention sinks and a sliding window",
    "paper": "the paper's decoding with refreshed local context",
    "ask": "ours as in `focusdoc ask`, with its sources",
    "read": "the same with a reader, which answers from the passages that ours finds",
    "bm25": "retrieval by words (BM25), with the same reader",
    "embedding": "retrieval by embeddings (all-MiniLM-L6-v2), with the same reader",
    "place": "oracle retrieval: the same reader with the paragraph that has the answer",
}
#: The reader name for no reader: only retrieval is measured.
NO_READER = "none"
#: Of retrieval: most passages for a reader, and characters of a window before it is widened to whole sentences; the
#: same as for our passages.
PASSAGES, WINDOW = 8, 400


def _option(default: Any, metavar: str, help: str) -> Any:
    return field(default=default, metadata={"help": help, "panel": "Modes", "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class ModeSettings:
    """The settings of a mode, besides the model.

    Attributes:
        chunk_size: None for the adapter's (ours) or 2,048 (paper).
        max_tokens: of ours; None or 0 for no limit.
        sinks: tokens that StreamingLLM never drops; its window is ``local_window - sinks``.
        chat: whether prompts are chat messages; None for the benchmark's choice.
    """

    chunk_size: int | None = _option(None, "TOKENS", "Tokens of a chunk; without it, the adapter's.")
    local_window: int = _option(2048, "TOKENS", "Tokens of the local context; truncated prompts keep as many.")
    max_tokens: int | None = _option(None, "TOKENS", "Truncate longer prompts in the middle; 0 for never.")
    sinks: int = 4
    chat: bool | None = None
    passages: int = _option(PASSAGES, "N", "For bm25 and embedding: most passages for the reader.")
    window: int = _option(
        WINDOW,
        "CHARACTERS",
        "For bm25 and embedding: width of passages before they are widened to whole sentences.",
    )


def check_modes(names: Sequence[str]) -> list[str]:
    """`names` without duplicates; ConfigError if one is unknown, or there is none."""
    unknown = next((name for name in names if name not in MODES), None)
    if unknown is not None or not names:
        raise ConfigError(f"The mode {unknown or ''!r} is unknown; choose from {', '.join(MODES)}.")
    return list(dict.fromkeys(names))
