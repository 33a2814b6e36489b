"""The names of the modes and what shapes them, known without loading what runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def check_modes(names: Sequence[str]) -> list[str]:
    """The names of modes, each once and in order.

    Raises:
        ConfigError: one is unknown, or there is none.
    """
    unknown = next((name for name in names if name not in MODES), None)
    if unknown is not None or not names:
        raise ConfigError(f"The mode {unknown or ''!r} is unknown; choose from {', '.join(MODES)}.")
    return list(dict.fromkeys(names))
