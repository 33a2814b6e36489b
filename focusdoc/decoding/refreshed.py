"""Paper mode: the local context is encoded anew at each step, and all of it sees the candidates."""

from __future__ import annotations

from focusdoc.decoding.candidates import Candidates
from focusdoc.decoding.parallel import ParallelDecoder


class RefreshedDecoder(ParallelDecoder):
    """`ParallelDecoder` as the paper's code has it."""

    def next(self, token: int) -> tuple[list[int], list[int]]:
        """See `ParallelDecoder.next`: the whole local context is fed again."""
        ordinary, newest = super().next(token)
        self._local_ids += newest
        self.local.length = 0
        return ordinary, self._local_ids

    def _sees_from(self, num_local: int) -> int:
        return 0


class Refreshed(Candidates):
    """Answers in paper mode."""

    kind = RefreshedDecoder
