"""The memory of a document: the keys and values of its chunks, computed once and read-only afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel, attend_both, blend
from focusdoc.documents.chunking import Chunk, TokenizedText
from focusdoc.documents.document import Document
from focusdoc.errors import ConfigError, MemoryMismatchError

#: Shape of keys and of values: [num_layers, num_chunks, num_kv_heads, chunk_len, head_dim].
BlockShape = tuple[int, int, int, int, int]


@dataclass(frozen=True, eq=False, slots=True)
class MemoryBlock:
    """KV of consecutive chunks of one length; each chunk's keys are rotated at positions 0..chunk_len-1.

    This class stores KV as computed; subclasses quantize it (`focusdoc.memory.int8`) or keep it in host RAM
    (`focusdoc.memory.host`). `attend` and `layer` hide the difference.

    Attributes:
        keys, values: [num_layers, num_chunks, num_kv_heads, chunk_len, head_dim].
    """

    keys: Tensor
    values: Tensor
    #: Whether `keys` and `values` can be attended to as they are, without dequantizing or copying.
    ready: ClassVar[bool] = True

    @classmethod
    def parts(cls, shape: BlockShape, dtype: torch.dtype) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each tensor of a block, in the order of the fields, for a model in `dtype`."""
        return {"keys": (shape, dtype), "values": (shape, dtype)}

    @classmethod
    def empty(cls, shape: BlockShape, dtype: torch.dtype, device: torch.device) -> Self:
        """An uninitialized block of `shape` for a model in `dtype`, to be filled by `put`."""
        parts = cls.parts(shape, dtype).values()
        return cls(*(torch.empty(shape, dtype=dtype, device=device) for shape, dtype in parts))

    @classmethod
    def bytes_of(cls, shape: BlockShape, dtype: torch.dtype) -> int:
        """Bytes of a block of `shape` for a model in `dtype`."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in cls.parts(shape, dtype).values())

    @property
    def num_chunks(self) -> int:
        """Chunks in the block."""
        return self.keys.shape[1]

    @property
    def chunk_len(self) -> int:
        """Tokens of each chunk."""
        return self.keys.shape[3]

    @property
    def device(self) -> torch.device:
        """The device that it is computed on."""
        return self.keys.device

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; each begins with the axes [num_layers, num_chunks]."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def chunks(self, start: int, stop: int) -> Self:
        """Chunks `start` to `stop`, as a view."""
        return self._each(lambda tensor: tensor[:, start:stop])

    def piece(self, layer: int, start: int, stop: int) -> Self:
        """One layer of chunks `start` to `stop`, as a view."""
        return self._each(lambda tensor: tensor[layer : layer + 1, start:stop])

    def select(self, index: Tensor) -> MemoryBlock:
        """A copy of the chunks at `index`, int64 [chunks]."""
        return self._each(lambda tensor: tensor.index_select(1, index))

    def clone(self) -> Self:
        """A copy."""
        return self._each(torch.clone)

    def to(self, device: torch.device) -> MemoryBlock:
        """The block on `device`, copied if necessary."""
        return self._each(lambda tensor: tensor.to(device))

    def put(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """Store one layer's KV [chunks, num_kv_heads, chunk_len, head_dim] of the chunks from `first` on."""
        self.keys[layer, first : first + len(keys)].copy_(keys)
        self.values[layer, first : first + len(values)].copy_(values)

    def copy_chunk(self, chunk: int, at: int) -> None:
        """Copy `chunk` to index `at`."""
        for tensor in self.tensors().values():
            tensor[:, at].copy_(tensor[:, chunk])

    def layer(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """One layer's keys and values, dequantized, [num_chunks, num_kv_heads, chunk_len, head_dim] in `dtype`."""
        return self.keys[layer].to(dtype), self.values[layer].to(dtype)

    def attend(
        self,
        layer: int,
        query: Tensor,
        *,
        kernel: AttentionKernel,
        scaling: float,
        query_start: int,
        window: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attention of the rows behind each chunk over that chunk, in one layer; see `focusdoc.attention.naive.attend`.

        Query and output are [num_chunks, num_heads, rows, head_dim], and the float32 lse [num_chunks, num_heads, rows].
        """
        keys, values = self.keys[layer], self.values[layer]
        return kernel(query, keys, values, scaling=scaling, query_start=query_start, window=window)

    def attend_with(
        self,
        layer: int,
        query: Tensor,
        tail: tuple[Tensor, Tensor],
        *,
        kernel: AttentionKernel,
        scaling: float,
        tail_start: int,
        window: int | None = None,
    ) -> Tensor:
        """Attention of the rows behind each chunk over that chunk and its tail, in one layer: output as of `attend`.

        Args:
            tail: keys and values [num_chunks, num_kv_heads, tail_len, head_dim], ending with the rows' own.
            tail_start: index of the first row in the tail.
        """
        if self.ready:
            stored = self.keys[layer], self.values[layer]
            return attend_both(kernel, query, stored, tail, scaling=scaling, query_start=tail_start, window=window)
        start = self.chunk_len + tail_start
        over_chunk = self.attend(layer, query, kernel=kernel, scaling=scaling, query_start=start, window=window)
        return blend(*over_chunk, *kernel(query, *tail, scaling=scaling, query_start=tail_start, window=window))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*map(change, self.tensors().values()))


@dataclass(frozen=True, eq=False)
class DocumentMemory:
    """The memory of one document: one or more blocks of full chunks, and the ragged last chunk.

    Attributes:
        token_ids: the document's tokens.
        chunks: each chunk's tokens, characters and pages, in order.
        blocks: the KV of `chunks`, in the same order; several blocks of full chunks if the document grew.
        maker: identifies the base model, dtype and chunk size.
        document, tokenized: the text it was made from; None if made from bare token ids.
        tokens_encoded: tokens that went through the model; 0 if the store had them all.
    """

    token_ids: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    blocks: tuple[MemoryBlock, ...]
    maker: str
    document: Document | None = None
    tokenized: TokenizedText | None = None
    tokens_encoded: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the document."""
        return len(self.token_ids)

    @property
    def num_chunks(self) -> int:
        """Chunks of the document."""
        return len(self.chunks)

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(block.num_bytes for block in self.blocks)


#: What a question is asked of: one memory, or several.
Memories = DocumentMemory | Sequence[DocumentMemory]


def checked_memories(memories: Memories, makers: Sequence[str]) -> list[DocumentMemory]:
    """One or several memories as a list, if each was made by one of `makers`.

    Raises:
        ConfigError: there is no memory, or something else. MemoryMismatchError: another engine made one.
    """
    found = list(memories) if isinstance(memories, Iterable) else [memories]
    if not found or not all(isinstance(memory, DocumentMemory) for memory in found):
        raise ConfigError("There is no memory to ask; pass what engine.read returned, one memory or several.")
    for memory in found:
        if memory.maker not in makers:
            raise MemoryMismatchError(
                f"This memory was made by {memory.maker}, but the engine is {makers[0]}; read the document again with "
                "it."
            )
    return found
