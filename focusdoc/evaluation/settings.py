"""The names of the modes and what shapes them, known without loading what runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from focusdoc.errors import ConfigError

#: What each mode is, for help and reports.
MODES: Mapping[str, str] = {
    "focus": "ours: the context is a memory, the question the local context",
    "split": "ours, split as in the paper: the prompt's last tokens are the local context, the rest a memory",
    "quoted": "ours, split likewise, with passages of the memory in front of the last tokens",
    "look": "ours without training: the model's own heads find passages, which it reads",
    "full": "the base model's full attention, cut in the middle to its own context",
    "truncated": "the base model, cut in the middle to the local window",
    "tail": "the base model with the last tokens of the local window alone",
    "streaming": "StreamingLLM: attention sinks and a sliding window",
    "paper": "the paper's own decoding, refreshed local context and all",
    "ask": "ours as `focusdoc ask` answers, with its sources",
    "read": "the same with a reader, which writes from the passages that ours finds",
    "bm25": "retrieval by words (BM25), and the same reader",
    "embedding": "retrieval by embeddings (all-MiniLM-L6-v2), and the same reader",
    "place": "the paragraph that holds the answer, and the same reader: what reading can reach",
}
#: In place of a reader's name: nothing is written, and only the finding is measured.
NO_READER = "none"
#: Of retrieval: passages for a reader at most, and characters of a window before it is widened to whole sentences; as
#: many and as wide as the passages of the candidates.
PASSAGES, WINDOW = 8, 400


def _told(default: Any, metavar: str, help: str) -> Any:
    return field(default=default, metadata={"help": help, "panel": "How it is answered", "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class ModeSettings:
    """What shapes a mode besides the model.

    Attributes:
        chunk_size: None for the adapter's (ours) or 2,048 (paper).
        local_window: also the paper's.
        max_tokens: of ours; None or 0 for no limit.
        sinks: tokens that StreamingLLM never drops; its window is ``local_window - sinks``.
        chat: overrides whether prompts are messages of a chat; None leaves it to the benchmark.
    """

    chunk_size: int | None = _told(None, "TOKENS", "Tokens of one chunk; without it, the adapter's own.")
    local_window: int = _told(2048, "TOKENS", "Tokens that are seen in full; also what truncation keeps.")
    max_tokens: int | None = _told(None, "TOKENS", "Cut longer prompts in the middle; 0 for never.")
    sinks: int = 4
    chat: bool | None = None
    passages: int = _told(PASSAGES, "N", "Of bm25 and embedding: passages for the reader at most.")
    window: int = _told(
        WINDOW,
        "CHARACTERS",
        "Of bm25 and embedding: the width of passages, before they are widened to whole sentences.",
    )


def check_modes(names: Sequence[str]) -> list[str]:
    """The names of modes, each once and in order.

    Raises:
        ConfigError: one is unknown, or there is none.
    """
    unknown = next((name for name in names if name not in MODES), None)
    if unknown is not None or not names:
        raise ConfigError(f"The mode {unknown or ''!r} is unknown; choose from {', '.join(MODES)}.")
    return list(dict.fromkeys(names))
