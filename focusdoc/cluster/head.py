"""The head of a cluster: knows which holder keeps which chunks, and replaces holders that are lost."""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from focusdoc.cluster.holder import Part, UnknownQuestionError
from focusdoc.errors import WorkerLostError

#: A method of `Holder` and its arguments.
Call = tuple[str, tuple[Any, ...]]
#: How often a call is tried again on a holder that was lost meanwhile.
_TRIES = 3

_log = logging.getLogger(__name__)


class HolderLostError(Exception):
    """A holder died, or hangs; never leaves the cluster.

    Attributes:
        generation: how often the holder had been replaced when it was called.
    """

    def __init__(self, why: str, generation: int) -> None:
        super().__init__(why)
        self.generation = generation


class Holders(Protocol):
    """Where holders run."""

    def __len__(self) -> int: ...

    def call(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        """Call several holders at once and wait for all.

        Returns:
            For each holder what it returned, or its HolderLostError or UnknownQuestionError.

        Raises:
            FocusdocError: what a holder raised.
        """
        ...

    def tell(self, index: int, call: Call) -> None:
        """Call a holder without waiting; it does not matter if it is lost."""
        ...

    def replace(self, index: int, generation: int) -> bool:
        """Start a lost holder again, without its parts; False if another thread has done so.

        Raises:
            WorkerLostError: there is no place for it.
        """
        ...

    def hosts(self) -> list[str]:
        """The host, or GPU, of each holder."""
        ...

    def close(self) -> None:
        """End all holders."""
        ...


class Cluster:
    """Holders and the parts that they keep. Thread-safe.

    Attributes:
        id: tells it from other clusters.
        num_replaced: holders that were lost and replaced so far.
    """

    def __init__(self, holders: Holders) -> None:
        self.holders = holders
        self.id = uuid.uuid4().hex
        self.num_replaced = 0
        self._lock = threading.RLock()
        self._names = itertools.count()
        #: What holders need not keep any more. It is told with the next call: objects are collected at any moment,
        #: also while a call is under way.
        self._freed: deque[tuple[int, Call]] = deque()
        #: Each part, and the holder that keeps it.
        self._parts: dict[str, tuple[int, Part]] = {}
        #: Tokens of documents that a holder is reading as a whole.
        self._reserved: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.holders)

    def free_bytes(self) -> dict[str, int]:
        """Free bytes of each host, or of each GPU, by its name."""
        hosts = self.holders.hosts()
        found = self.call({hosts.index(host): ("free_bytes", ()) for host in set(hosts)})
        return {hosts[index]: free for index, free in found.items()}

    def name(self, kind: str) -> str:
        """A new name for a part or a question."""
        return f"{kind}-{next(self._names)}"

    def holder_of(self, part: str) -> int:
        """The holder that keeps a part."""
        return self._parts[part][0]

    @contextmanager
    def reserved(self, stored: Mapping[int, int], tokens: int) -> Iterator[int]:
        """Choose a holder for a whole document of so many tokens; they count as its own while it reads them.

        Args:
            stored: the holders with room for it, and how many of its tokens each has in its store.

        Yields:
            The one with most of it in its store; of those, the one that keeps the fewest tokens.
        """
        with self._lock:
            kept = Counter(self._reserved)
            for index, part in self._parts.values():
                kept[index] += len(part.token_ids)
            chosen = min(stored, key=lambda index: (-stored[index], kept[index]))
            self._reserved[chosen] += tokens
        try:
            yield chosen
        finally:
            with self._lock:
                self._reserved[chosen] -= tokens

    def keep(self, index: int, part: Part) -> tuple[list[tuple[int, int]], int, int]:
        """Let a holder read a part; see `Holder.read`."""
        found: tuple[list[tuple[int, int]], int, int] = self.call({index: ("read", (part,))})[index]
        with self._lock:
            self._parts[part.key] = index, part
        return found

    def drop(self, key: str) -> None:
        """Let a part's holder free it; may be called while objects are collected."""
        self._freed.append((self._parts[key][0], ("drop", (key,))))

    def close_question(self, key: str, indexes: Sequence[int]) -> None:
        """Let holders forget a question."""
        self._freed += ((index, ("close", (key,))) for index in indexes)

    def call(
        self, calls: Mapping[int, Call], rebuild: Callable[[int, Call], Sequence[Call]] = lambda _, call: [call]
    ) -> dict[int, Any]:
        """Call holders; those that are lost are replaced, their parts are read again, and the call is repeated.

        Args:
            rebuild: the calls that a new holder needs in place of this one; the last one's result counts.

        Returns:
            The result of each holder.

        Raises:
            WorkerLostError: a holder is lost and there is no place for another one, or it is lost again and again.
        """
        self._free()
        found: dict[int, Any] = {}
        tries: Counter[int] = Counter()
        waiting = {index: [call] for index, call in calls.items()}
        while waiting:
            for index, result in self.holders.call({index: todo[0] for index, todo in waiting.items()}).items():
                if isinstance(result, HolderLostError | UnknownQuestionError):
                    tries[index] += 1
                    if tries[index] > _TRIES:
                        raise WorkerLostError(
                            f"The process that keeps {self._kept(index)} was lost {tries[index]} times ({result})."
                        )
                    if isinstance(result, HolderLostError):
                        self._replace(index, result)
                    self._refill(index)
                    waiting[index] = list(rebuild(index, calls[index]))
                elif waiting[index].pop(0) and not waiting[index]:
                    found[index] = result
                    del waiting[index]
        return found

    def _replace(self, index: int, lost: HolderLostError) -> None:
        """Start a lost holder again; meanwhile, questions to others go on."""
        if self.holders.replace(index, lost.generation):
            with self._lock:
                self.num_replaced += 1
                _log.warning("A process that kept %s was lost (%s); it was started again.", self._kept(index), lost)

    def _refill(self, index: int) -> None:
        """Let a holder read those of its parts that it does not have."""
        with self._lock:
            parts = [part for holder, part in list(self._parts.values()) if holder == index]
        for part in parts:
            if isinstance(self.holders.call({index: ("read", (part,))})[index], HolderLostError):
                return  # the call that follows finds it lost, and it is replaced again

    def _kept(self, index: int) -> str:
        """What a holder keeps, in words."""
        parts = [part for holder, part in self._parts.values() if holder == index]
        if not parts:
            return "no document yet"
        tokens = sum(len(part.token_ids) for part in parts)
        documents = ", ".join(sorted({part.document for part in parts if part.document}))
        return f"{tokens:,} tokens of {documents}" if documents else f"{tokens:,} tokens"

    def _free(self) -> None:
        """Tell holders what they need not keep any more."""
        with self._lock:
            while self._freed:
                index, call = self._freed.popleft()
                if call[0] == "drop":
                    del self._parts[call[1][0]]
                self.holders.tell(index, call)
