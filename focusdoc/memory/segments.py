"""Chunks in safetensors files, written layer by layer and memory-mapped when opened."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open

from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.int8 import Int8Block
from focusdoc.memory.manifest import DamagedEntryError, Segment, checksums

#: safetensors' names of the supported dtypes.
_DTYPES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int8: "I8",
}
#: Alignment of the tensors in the file, so that mapped ones are aligned like allocated ones.
_ALIGNMENT = 64


class SegmentWriter:
    """Writes consecutive blocks as one block into a new file; a context manager.

    Copies one layer of one block at a time, so that saving needs no second copy of the memory. The blocks may be on any
    device and need not be contiguous.

    Args:
        like: a block of the same kind, dtype and chunk length as all blocks.
        num_chunks: total of all blocks.

    Raises:
        OSError: the file cannot be written. ValueError: safetensors does not support the dtype.
    """

    def __init__(self, path: Path, like: MemoryBlock, num_chunks: int) -> None:
        if like.keys.dtype not in _DTYPES:
            raise ValueError(f"A memory of dtype {like.keys.dtype} cannot be stored; use bfloat16 or float32.")
        self._path = path
        self._dtype = like.keys.dtype
        layers, _, heads, chunk_len, head_dim = like.keys.shape
        self._shape = (layers, num_chunks, heads, chunk_len, head_dim)
        parts = {
            name: ((layers, num_chunks, *tensor.shape[2:]), tensor.dtype) for name, tensor in like.tensors().items()
        }
        header, self._starts = _header(parts)
        self._written = 0
        self._file = open(path, "xb")  # noqa: SIM115  # closed by __exit__
        self._file.write(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, block: MemoryBlock) -> None:
        """Append chunks to the file. OSError: it cannot be written."""
        for name, tensor in block.tensors().items():
            of_chunk = math.prod(tensor.shape[2:]) * tensor.dtype.itemsize
            for layer, part in enumerate(tensor):  # the file is ordered by layer
                self._file.seek(self._starts[name] + (layer * self._shape[1] + self._written) * of_chunk)
                self._file.write(part.contiguous().cpu().view(torch.uint8).numpy().data)
        self._written += block.num_chunks

    def segment(self) -> Segment:
        """The file's record for the manifest, after all chunks were written."""
        if self._written != self._shape[1]:
            raise ValueError(f"{self._written} of {self._shape[1]} chunks were written.")
        self._file.close()
        return Segment(
            file=self._path.name,
            num_bytes=self._path.stat().st_size,
            dtype=_name(self._dtype),
            shape=self._shape,
            checksums=checksums(self._path),
        )


def write_segment(path: Path, blocks: Sequence[MemoryBlock]) -> Segment:
    """Write consecutive blocks of one kind, dtype and chunk length as one block into a new file.

    Raises:
        OSError, ValueError: see `SegmentWriter`.
    """
    with SegmentWriter(path, blocks[0], sum(block.num_chunks for block in blocks)) as writer:
        for block in blocks:
            writer.write(block)
        return writer.segment()


def open_segment(path: Path, segment: Segment) -> MemoryBlock:
    """Memory-map a file: pages are read on use, and the system may drop them.

    The mapping is private: writes to the tensors do not reach the file.

    Raises:
        DamagedEntryError: the file does not match its record in the manifest. OSError: it cannot be opened.
    """
    dtype = next((known for known in _DTYPES if _name(known) == segment.dtype), None)
    if dtype is None:
        raise DamagedEntryError(f"{path.name} is of the unknown dtype {segment.dtype!r}")
    kind = Int8Block if dtype == torch.int8 else MemoryBlock
    parts = kind.parts(segment.shape, dtype)
    try:
        with safe_open(path, framework="pt") as file:
            block = kind(*(file.get_tensor(name) for name in parts))
    except SafetensorError as error:
        raise DamagedEntryError(f"{path.name} is not a safetensors file with {', '.join(parts)} ({error})") from error
    except RuntimeError as error:  # torch opens the file again, and it may be evicted meanwhile
        raise FileNotFoundError(f"{path.name} cannot be opened ({error})") from error
    for name, tensor in block.tensors().items():
        found, wanted = (tuple(tensor.shape), tensor.dtype), parts[name]
        if found != wanted:
            raise DamagedEntryError(f"{path.name} holds {name} of {found}, not {wanted}")
    return block


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _header(parts: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> tuple[bytes, dict[str, int]]:
    """The file up to its first tensor, and the offset of each tensor.

    The header is preceded by its length in 8 bytes, and padded with spaces as the format allows.
    """
    entries: dict[str, object] = {}
    begins: dict[str, int] = {}
    end = 0
    # Widest dtype first, so that all numbers are aligned.
    for name, (shape, dtype) in sorted(parts.items(), key=lambda part: -part[1][1].itemsize):
        begins[name], end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [begins[name], end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % _ALIGNMENT)
    offset = 8 + len(header)
    return len(header).to_bytes(8, "little") + header, {name: offset + begin for name, begin in begins.items()}
