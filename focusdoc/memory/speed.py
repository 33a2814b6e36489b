"""How fast a model reads on this machine."""

from __future__ import annotations

from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.dimensions import ModelSize
from focusdoc.modeling.size import CHUNK_TOKENS, estimate_seconds_per_token

#: A reading of fewer tokens tells little about the next one.
_TELLING = 1024


class ReadingSpeed:
    """Seconds that a token takes to be read: those of the last reading, or before it an estimate from one layer.

    Args:
        chunk_size: tokens of a chunk.
    """

    def __init__(self, base: BaseModel, chunk_size: int) -> None:
        self._base = base
        self._chunk_size = chunk_size
        self._seconds: float | None = None

    def seconds_per_token(self) -> float:
        """What a token takes."""
        if self._seconds is None:
            base = self._base
            size = ModelSize.of(base.config.to_dict(), base.name, str(base.dtype).removeprefix("torch."))
            chunk_size = min(self._chunk_size, CHUNK_TOKENS)
            # As short as can be: the reading that waits for it may be short too.
            whole = estimate_seconds_per_token(size, str(base.device), chunk_size=chunk_size, budget=0)
            self._seconds = whole * base.num_layers / size.num_layers
        return self._seconds

    def measured(self, num_tokens: int, seconds: float) -> None:
        """Learn that so many tokens were read in so many seconds."""
        if num_tokens >= _TELLING:
            self._seconds = seconds / num_tokens
