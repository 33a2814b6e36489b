"""Holders in this process, without Ray: they can be killed, and count what is sent to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from focusdoc.cluster.head import Call, Cluster, HolderLostError
from focusdoc.cluster.holder import Holder, HolderSettings, UnknownQuestionError
from focusdoc.errors import WorkerLostError


class HoldersHere:
    """See `focusdoc.cluster.head.Holders`.

    Attributes:
        rounds: for each method, how often it was called, on however many holders at once.
        dies_after: a holder, and the number of rounds after which it dies once.
        stores: the store of each holder, where they do not share one.
        has_place: whether a lost holder can be started again.
    """

    def __init__(self, count: int, settings: HolderSettings, stores: Sequence[str] | None = None) -> None:
        self._settings = settings
        self.stores = [settings.store] * count if stores is None else list(stores)
        self._holders: list[Holder | None] = [self._started(index) for index in range(count)]
        self._generations = [0] * count
        self.rounds: Counter[str] = Counter()
        self.told: list[Call] = []
        self.dies_after: tuple[int, int] | None = None
        self.has_place = True

    def __len__(self) -> int:
        return len(self._holders)

    def _started(self, index: int) -> Holder:
        return Holder(replace(self._settings, store=self.stores[index]))

    def kill(self, index: int) -> None:
        self._holders[index] = None

    def call(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        self.rounds.update({method for method, _ in calls.values()})
        if self.dies_after is not None and sum(self.rounds.values()) >= self.dies_after[1]:
            self.kill(self.dies_after[0])
            self.dies_after = None
        found: dict[int, Any] = {}
        for index, (method, arguments) in calls.items():
            holder = self._holders[index]
            if holder is None:
                found[index] = HolderLostError("killed", self._generations[index])
                continue
            try:
                found[index] = getattr(holder, method)(*arguments)
            except UnknownQuestionError as error:
                found[index] = error
        return found

    def tell(self, index: int, call: Call) -> None:
        self.told.append(call)
        if (holder := self._holders[index]) is not None:
            getattr(holder, call[0])(*call[1])

    def replace(self, index: int, generation: int) -> bool:
        if not self.has_place:
            raise WorkerLostError("there is no place")
        if self._generations[index] != generation:
            return False
        self._holders[index] = self._started(index)
        self._generations[index] += 1
        return True

    def hosts(self) -> list[str]:
        return ["here"] * len(self._holders)

    def close(self) -> None:
        self._holders = [None] * len(self._holders)


def open_here(where: int | str, settings: HolderSettings) -> Cluster:
    """In place of `focusdoc.cluster.ray_holders.open_cluster`: so many holders in this process."""
    return Cluster(HoldersHere(int(where), settings))


def cluster_here(
    count: int, base: Any, adapter: Any, *, stores: Sequence[str] | None = None, **settings: Any
) -> Cluster:
    """A cluster of holders in this process."""
    given = {"model": base.model, "adapter": adapter, "fingerprint": base.fingerprint, "store": None, **settings}
    return Cluster(HoldersHere(count, HolderSettings(**given), stores))
