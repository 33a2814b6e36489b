"""The memory of a document: the keys and values of its chunks, made once and only read afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from focusdoc.documents.chunking import Chunk, TokenizedText
from focusdoc.documents.document import Document
from focusdoc.errors import MemoryMismatchError


@dataclass(frozen=True, eq=False, slots=True)
class MemoryBlock:
    """KV of consecutive chunks of one length; each chunk's keys are rotated at positions 0..chunk_len-1.

    Attributes:
        keys, values: [num_layers, num_chunks, num_kv_heads, chunk_len, head_dim].
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device) -> MemoryBlock:
        """Room for a block of `shape`, to be filled by reading."""
        return cls(torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))

    @property
    def num_chunks(self) -> int:
        """Chunks in the block."""
        return self.keys.shape[1]

    @property
    def chunk_len(self) -> int:
        """Tokens of each chunk."""
        return self.keys.shape[3]

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values."""
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True, eq=False)
class DocumentMemory:
    """What the model keeps of one document: blocks of full chunks (one, unless it grew) and the ragged last chunk.

    Attributes:
        token_ids: the document's tokens.
        chunks: each chunk's tokens, characters and pages, in order.
        blocks: the KV; their chunks, in order, are `chunks`.
        maker: names the base model, dtype and chunk size that made it.
        document, tokenized: the text it was made from; None when made from bare token ids.
        tokens_encoded: how many tokens went through the model for it; 0 when the store knew them all.
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


def check_maker(memories: Sequence[DocumentMemory], maker: str) -> None:
    """Raise MemoryMismatchError unless every memory was made by `maker`."""
    for memory in memories:
        if memory.maker != maker:
            raise MemoryMismatchError(
                f"This memory was made by {memory.maker}, the engine is {maker}; read the document again with it."
            )
