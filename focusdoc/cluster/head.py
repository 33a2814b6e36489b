"""The head of a cluster: tracks which holder keeps which chunks, and replaces lost holders."""

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
#: Maximum retries of a call on a holder that is lost.
_TRIES = 3

_log = logging.getLogger(__name__)


class HolderLostError(Exception):
    """A holder died or hangs, which had been replaced `generation` times before the call. Internal to the cluster."""

    def __init__(self, why: str, generation: int) -> None:
        super().__init__(why)
        self.generation = generation


class Holders(Protocol):
    """A set of running holders."""

    def __len__(self) -> int: ...

    def call(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        """Call several holders concurrently and wait for all; raises the FocusdocErrors of holders.

        Returns:
            Each holder's result, or its HolderLostError or UnknownQuestionError.
        """
        ...

    def tell(self, index: int, call: Call) -> None:
        """Call a holder without waiting for the result; nothing happens if it is lost."""
        ...

    def replace(self, index: int, generation: int) -> bool:
        """Restart a lost holder, without its parts, or raise WorkerLostError; False if another thread already did."""
        ...

    def hosts(self) -> list[str]:
        """The host, or GPU, of each holder."""
        ...

    def close(self) -> None:
        """Stop all holders."""
        ...


class Cluster:
    """Holders and the parts they keep; `num_replaced` holders were lost and replaced so far. Thread-safe."""

    def __init__(self, holders: Holders) -> None:
        self.holders = holders
        self.id = uuid.uuid4().hex
        self.num_replaced = 0
        self._lock = threading.RLock()
        self._names = itertools.count()
        #: Calls that free parts and questions, by holder. Sent with the next call, since finalizers may run at any
        #: time, even during a call.
        self._freed: deque[tuple[int, Call]] = deque()
        #: By key: each part and its holder.
        self._parts: dict[str, tuple[int, Part]] = {}
        #: By holder: tokens of the whole documents it is reading.
        self._reserved: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.holders)

    def free_bytes(self) -> dict[str, int]:
        """Free bytes by host, or by GPU."""
        hosts = self.holders.hosts()
        found = self.call({hosts.index(host): ("free_bytes", ()) for host in set(hosts)})
        return {hosts[index]: free for index, free in found.items()}

    def name(self, kind: str) -> str:
        """A new unique key for a part or a question."""
        return f"{kind}-{next(self._names)}"

    def holder_of(self, part: str) -> int:
        """The holder that keeps a part."""
        return self._parts[part][0]

    @contextmanager
    def reserved(self, stored: Mapping[int, int], tokens: int) -> Iterator[int]:
        """Choose a holder for a whole document, and count its `tokens` as kept by that holder inside the context.

        It is the one whose store has most of the document; among equals, the one that keeps the fewest tokens.

        Args:
            stored: the holders with room for it, each with the number of its tokens in the holder's store.
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
        """Have a holder read and keep a part; see `Holder.read`."""
        found: tuple[list[tuple[int, int]], int, int] = self.call({index: ("read", (part,))})[index]
        with self._lock:
            self._parts[part.key] = index, part
        return found

    def drop(self, key: str) -> None:
        """Have a part's holder free it; may be called by finalizers."""
        self._freed.append((self._parts[key][0], ("drop", (key,))))

    def close_question(self, key: str, indexes: Sequence[int]) -> None:
        """Have holders discard a question; may be called by finalizers."""
        self._freed += ((index, ("close", (key,))) for index in indexes)

    def call(
        self, calls: Mapping[int, Call], rebuild: Callable[[int, Call], Sequence[Call]] = lambda _, call: [call]
    ) -> dict[int, Any]:
        """Call holders; replace lost ones, have them read their parts again, and retry. Returns each holder's result.

        Args:
            rebuild: returns the calls for a retry, on a holder without state; the result of the last one counts.

        Raises:
            WorkerLostError: a lost holder's replacement cannot be placed, or a holder is lost repeatedly.
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
        """Replace a lost holder, without blocking calls to the others."""
        if self.holders.replace(index, lost.generation):
            with self._lock:
                self.num_replaced += 1
                _log.warning("A process that kept %s was lost (%s) and has been restarted.", self._kept(index), lost)

    def _refill(self, index: int) -> None:
        """Have a holder read those of its parts that it lacks."""
        with self._lock:
            parts = [part for holder, part in list(self._parts.values()) if holder == index]
        for part in parts:
            if isinstance(self.holders.call({index: ("read", (part,))})[index], HolderLostError):
                return  # the retry finds it lost again, and replaces it
            with self._lock:
                if part.key not in self._parts:  # freed meanwhile
                    self.holders.tell(index, ("drop", (part.key,)))

    def _kept(self, index: int) -> str:
        """Describe what a holder keeps, for messages."""
        with self._lock:
            parts = [part for holder, part in self._parts.values() if holder == index]
        if not parts:
            return "no document yet"
        tokens = sum(len(part.token_ids) for part in parts)
        documents = ", ".join(sorted({part.document for part in parts if part.document}))
        return f"{tokens:,} tokens of {documents}" if documents else f"{tokens:,} tokens"

    def _free(self) -> None:
        """Send the queued calls that free parts and questions."""
        with self._lock:
            while self._freed:
                index, call = self._freed.popleft()
                if call[0] == "drop":
                    del self._parts[call[1][0]]
                self.holders.tell(index, call)
