"""Memories kept in RAM, found by the text they were made from."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

import torch

from focusdoc.memory.chunk_memory import DocumentMemory


class MemoryPool:
    """An LRU cache of memories, thread-safe, limited to `max_bytes` of keys and values; a larger memory is not kept."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._memories: OrderedDict[str, DocumentMemory] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """Number of memories."""
        return len(self._memories)

    @property
    def num_bytes(self) -> int:
        """Bytes of all keys and values."""
        with self._lock:
            return sum(memory.num_bytes for memory in self._memories.values())

    def find(self, text: str) -> DocumentMemory | None:
        """The memory of exactly this text."""
        with self._lock:
            memory = self._memories.get(text)
            if memory is not None:
                self._memories.move_to_end(text)
            return memory

    def longest_prefix(self, text: str) -> str | None:
        """The longest cached text that is a prefix of `text`."""
        with self._lock:
            return max((known for known in self._memories if text.startswith(known)), key=len, default=None)

    def keep(self, text: str, memory: DocumentMemory) -> None:
        """Keep the memory of `text`, and evict the least recently used ones beyond the limit."""
        with self._lock:
            self._memories.pop(text, None)
            if memory.num_bytes > self.max_bytes:
                return
            self._memories[text] = memory
            while self.num_bytes > self.max_bytes:
                self._memories.popitem(last=False)

    def forget(self, text: str) -> DocumentMemory | None:
        """Remove the memory of `text`, and return it."""
        with self._lock:
            return self._memories.pop(text, None)

    def clear(self) -> None:
        """Drop all memories."""
        with self._lock:
            self._memories.clear()


def total_memory(device: torch.device) -> int:
    """Bytes of the machine's RAM, or of the GPU's memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
