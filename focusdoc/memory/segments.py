"""Chunks in a file: safetensors, written layer by layer, and memory-mapped when opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.manifest import DamagedEntryError, Segment, checksums

#: The format's names of the dtypes that a model may compute in.
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}
#: The tensors start at a multiple of this, so that mapped ones are aligned as allocated ones are.
_ALIGNMENT = 64


def write_segment(path: Path, blocks: Sequence[MemoryBlock]) -> Segment:
    """Write consecutive blocks, of one dtype and one length of chunks, as one block into a new file.

    Only one layer of one block is copied at a time, so that saving takes no second memory of the document's size;
    the blocks may be on any device and need not be contiguous.

    Raises:
        OSError: the file cannot be written. ValueError: safetensors has no name for the dtype.
    """
    first = blocks[0]
    if first.keys.dtype not in _DTYPES:
        raise ValueError(f"A memory of dtype {first.keys.dtype} cannot be stored; use bfloat16 or float32.")
    layers, _, heads, chunk_len, head_dim = first.keys.shape
    shape = (layers, sum(block.num_chunks for block in blocks), heads, chunk_len, head_dim)
    with open(path, "xb") as file:
        file.write(_header(shape, first.keys.dtype))
        for name in ("keys", "values"):
            for layer in range(layers):
                for block in blocks:
                    part = getattr(block, name)[layer].contiguous().cpu()
                    file.write(part.view(torch.uint8).numpy().data)
    return Segment(
        file=path.name,
        num_bytes=path.stat().st_size,
        dtype=str(first.keys.dtype).removeprefix("torch."),
        shape=shape,
        checksums=checksums(path),
    )


def open_segment(path: Path, segment: Segment) -> MemoryBlock:
    """Map a file: nothing is read before it is used, and the system may drop what it read.

    The mapping is private: a write to the tensors would not reach the file.

    Raises:
        DamagedEntryError: the file does not hold what the manifest says. OSError: it cannot be opened.
    """
    try:
        with safe_open(path, framework="pt") as file:
            block = MemoryBlock(file.get_tensor("keys"), file.get_tensor("values"))
    except SafetensorError as error:
        raise DamagedEntryError(f"{path.name} is no safetensors file ({error})") from error
    for tensor in (block.keys, block.values):
        found = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        if found != (segment.shape, segment.dtype):
            raise DamagedEntryError(f"{path.name} holds {found}, not {(segment.shape, segment.dtype)}")
    return block


def _header(shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    """The length of the header in 8 bytes, and the header, padded with spaces as the format allows."""
    size = torch.Size(shape).numel() * dtype.itemsize
    header = json.dumps(
        {
            name: {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [index * size, (index + 1) * size]}
            for index, name in enumerate(("keys", "values"))
        },
        separators=(",", ":"),
    ).encode()
    header += b" " * (-(len(header) + 8) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header
