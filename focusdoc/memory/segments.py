"""Chunks in safetensors files, written layer by layer and memory-mapped when opened."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

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


def write_segment(path: Path, blocks: Iterable[MemoryBlock], num_chunks: int) -> Segment:
    """Write consecutive blocks as one block into a new file; return its record for the manifest.

    Copies one layer of one block at a time, so that saving needs no second copy of the memory. The blocks may be on any
    device and need not be contiguous.

    Args:
        blocks: at least one; all of one kind, dtype and chunk length. They may be made while they are written.
        num_chunks: total of all blocks.

    Raises:
        OSError: the file cannot be written. ValueError: safetensors does not support the dtype.
    """
    blocks = iter(blocks)
    first = next(blocks)
    dtype = first.keys.dtype
    if dtype not in _DTYPES:
        raise ValueError(f"A memory of dtype {dtype} cannot be stored; use bfloat16 or float32.")
    layers, _, heads, chunk_len, head_dim = first.keys.shape
    header, starts = _header(
        {name: ((layers, num_chunks, *tensor.shape[2:]), tensor.dtype) for name, tensor in first.tensors().items()}
    )
    blocks = chain([first], blocks)
    del first  # a block that was made to be written goes when the next one comes
    written = 0
    with open(path, "xb") as file:
        file.write(header)
        for block in blocks:
            for name, tensor in block.tensors().items():
                bytes_per_chunk = math.prod(tensor.shape[2:]) * tensor.dtype.itemsize
                for layer, part in enumerate(tensor):  # the file is ordered by layer
                    file.seek(starts[name] + (layer * num_chunks + written) * bytes_per_chunk)
                    file.write(part.contiguous().cpu().view(torch.uint8).numpy().data)
            written += block.num_chunks
    if written != num_chunks:
        raise ValueError(f"{written} of {num_chunks} chunks were written.")
    return Segment(
        file=path.name,
        num_bytes=path.stat().st_size,
        dtype=_name(dtype),
        shape=(layers, num_chunks, heads, chunk_len, head_dim),
        checksums=checksums(path),
    )


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
