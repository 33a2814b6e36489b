"""Reading documents into a cluster: each holder reads the chunks it will keep."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import torch

from focusdoc.cluster.head import Cluster
from focusdoc.cluster.holder import Part
from focusdoc.config import BlockDtype, MemoryDtype
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.library import DocumentReader
from focusdoc.memory.plan import SPARE_BYTES, FreeSpace, MemoryPlan
from focusdoc.memory.reading import Progress

#: Chunks per part. Parts are cut on a fixed grid, so that stored ones are found again with any number of holders, and
#: when the document grows.
PART_CHUNKS = 8
#: A document of at most this many parts stays whole on one holder, if one has room. Longer ones are spread: two
#: concurrent questions to two documents take as long either way, and a lone question less (docs/cluster.md).
WHOLE_PARTS = 1


class RemoteBlock(MemoryBlock):
    """A block of a `part` kept by a holder: its tensors have shapes but no contents."""

    part: str
    _num_bytes: int

    @classmethod
    def of(cls, like: Any, num_chunks: int, chunk_len: int, part: str, num_bytes: int) -> RemoteBlock:
        """A block of `num_chunks` chunks of `part`, for the model `like`."""
        shape = (like.num_layers, num_chunks, like.num_kv_heads, chunk_len, like.head_dim)
        block = cls(*(torch.empty(shape, dtype=like.dtype, device="meta") for _ in range(2)))
        object.__setattr__(block, "part", part)
        object.__setattr__(block, "_num_bytes", num_bytes)
        return block

    @property
    def num_bytes(self) -> int:
        """Its bytes at the holder."""
        return self._num_bytes


def placed(sizes: Sequence[int], shares: Sequence[float]) -> list[int]:
    """The holder of each part, given the parts' tokens: consecutive parts, in proportion to the holders' `shares`."""
    total, whole = sum(sizes), sum(shares)
    ends = [sum(shares[: index + 1]) / whole * total for index in range(len(shares))]
    found, begun = [], 0
    for size in sizes:
        middle = begun + size / 2
        found.append(next((index for index, end in enumerate(ends) if middle <= end), len(shares) - 1))
        begun += size
    return found


class SpreadReader(DocumentReader):
    """A `DocumentReader` whose documents are read and kept by the holders of a cluster."""

    def __init__(self, *args: Any, cluster: Cluster, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cluster = cluster

    @property
    def maker(self) -> str:
        """See `DocumentReader.maker`; its memories are usable in this cluster only."""
        return f"{super().maker}, in cluster {self._cluster.id}"

    def forget(self, token_ids: Sequence[int]) -> None:
        """See `DocumentReader.forget`; holders may have separate stores."""
        for kind in get_args(BlockDtype):
            parts = self._parts(token_ids, kind, "")
            self._cluster.call({index: ("forget", (parts,)) for index in range(len(self._cluster))})

    def seconds_per_token(self) -> float:
        """See `DocumentReader.seconds_per_token`; all holders read at once."""
        return super().seconds_per_token() / len(self._cluster)

    def read(
        self,
        token_ids: Sequence[int],
        *,
        progress: Progress | None = None,
        document: str = "",
        on_plan: Callable[[MemoryPlan], None] | None = None,
    ) -> tuple[tuple[MemoryBlock, ...], int]:
        """See `DocumentReader.read`; WorkerLostError if a holder was lost and cannot be replaced."""
        plan = self.plan(token_ids)
        plan.check(document)
        if on_plan is not None:
            on_plan(plan)
        parts = self._parts(token_ids, plan.memory_dtype, document)
        whole = self._whole(parts, plan)
        if not whole:
            return self._read(parts, self._shares(plan), progress)
        with self._cluster.reserved(whole, len(token_ids)) as holder:
            return self._read(parts, [float(index == holder) for index in range(len(self._cluster))], progress)

    def _read(
        self, parts: Sequence[Part], shares: Sequence[float], progress: Progress | None
    ) -> tuple[tuple[MemoryBlock, ...], int]:
        """Have the holders read their shares of `parts`; see `read`."""
        holders = placed([len(part.token_ids) for part in parts], shares)
        total = sum(len(part.token_ids) for part in parts)
        blocks: list[list[RemoteBlock]] = [[] for _ in parts]
        done, encoded, lock = 0, 0, threading.Lock()
        failed = threading.Event()

        def read_own(index: int) -> None:
            nonlocal done, encoded
            for number in (number for number, holder in enumerate(holders) if holder == index):
                if failed.is_set():
                    return
                part = parts[number]
                try:
                    shapes, num_bytes, num_read = self._cluster.keep(index, part)
                    blocks[number] = self._remote(part, shapes, num_bytes)
                    with lock:
                        done, encoded = done + len(part.token_ids), encoded + num_read
                        if progress is not None:
                            progress(done, total)
                except BaseException:
                    failed.set()
                    raise

        with ThreadPoolExecutor(len(self._cluster), thread_name_prefix="focusdoc-spread") as pool:
            for each in [pool.submit(read_own, index) for index in range(len(self._cluster))]:
                each.result()
        return tuple(block for own in blocks for block in own), encoded

    def _remote(self, part: Part, shapes: Sequence[tuple[int, int]], num_bytes: int) -> list[RemoteBlock]:
        """The blocks of a part; its holder frees it when the last of them is finalized."""
        tokens = sum(count * length for count, length in shapes)
        found = [
            RemoteBlock.of(self.base, count, length, part.key, num_bytes * count * length // tokens)
            for count, length in shapes
        ]
        left = [len(found)]

        def finalize_one() -> None:
            left[0] -= 1
            if not left[0]:
                self._cluster.drop(part.key)

        for block in found:
            weakref.finalize(block, finalize_one).atexit = False
        return found

    def _parts(self, token_ids: Sequence[int], kind: MemoryDtype, document: str) -> list[Part]:
        size = PART_CHUNKS * self.chunk_size
        return [
            Part(
                self._cluster.name("part"),
                tuple(token_ids[number * size : (number + 1) * size]),
                self.chunk_size,
                self.base.num_layers,
                self.batch,
                kind,
                f"{document}, part {number + 1}" if number else document,
            )
            for number in range(math.ceil(len(token_ids) / size))
        ]

    def _free_space(self) -> FreeSpace:
        free = self._cluster.free_bytes()
        # Every host keeps SPARE_BYTES free; the plan subtracts them once.
        return FreeSpace(free=sum(free.values()) - SPARE_BYTES * (len(free) - 1))

    def _num_stored(self, token_ids: Sequence[int], kind: BlockDtype) -> int:
        """The document's tokens that are in the store of the holder that will keep them."""
        parts = self._parts(token_ids, kind, "")
        if len(parts) <= WHOLE_PARTS:
            return max(self._stored({index: parts for index in range(len(self._cluster))}).values())
        holders = placed([len(part.token_ids) for part in parts], [1.0] * len(self._cluster))
        shares: dict[int, list[Part]] = {}
        for part, holder in zip(parts, holders, strict=True):
            shares.setdefault(holder, []).append(part)
        return sum(self._stored(shares).values())

    def _stored(self, parts: Mapping[int, Sequence[Part]]) -> dict[int, int]:
        """For each holder, the tokens of its parts that are in its store."""
        return self._cluster.call({index: ("num_stored", (own,)) for index, own in parts.items()})

    def _whole(self, parts: Sequence[Part], plan: MemoryPlan) -> dict[int, int]:
        """The holders with room for the whole document, each with its stored tokens; empty if it is spread."""
        if len(parts) > WHOLE_PARTS:
            return {}
        free, hosts = self._cluster.free_bytes(), self._cluster.holders.hosts()
        needed = plan.bytes_needed
        roomy = [index for index, host in enumerate(hosts) if not needed or needed + SPARE_BYTES <= free[host]]
        return self._stored({index: parts for index in roomy}) if roomy else {}

    def _shares(self, plan: MemoryPlan) -> list[float]:
        """Each holder's share of a spread document: equal, or by free memory if that does not fit."""
        free, hosts = self._cluster.free_bytes(), self._cluster.holders.hosts()
        equal = {host: plan.bytes_needed * hosts.count(host) / len(hosts) for host in free}
        if not plan.bytes_needed or all(equal[host] + SPARE_BYTES <= free[host] for host in free):
            return [1.0] * len(hosts)
        return [max(0, free[host] - SPARE_BYTES) / hosts.count(host) for host in hosts]
