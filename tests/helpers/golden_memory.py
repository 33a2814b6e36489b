"""The memory that the golden model makes of a few tokens, kept in tests/golden to tell when a reading changes.

Run as a program, it writes the file anew: after `READING_VERSION` was counted up because what is computed has changed.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from focusdoc.attention import attention_kernel
from focusdoc.config import BlockDtype
from focusdoc.memory.reading import READING_VERSION, read_chunks
from focusdoc.modeling.base import load_base

GOLDEN = Path(__file__).parents[1] / "golden"
FILE = GOLDEN / "memory.safetensors"
KINDS: tuple[BlockDtype, ...] = ("model", "int8")


def made_now() -> dict[str, Tensor]:
    """Everything that is kept of 20 tokens in chunks of 8, by the kind of memory, the block and the tensor's name."""
    base, ids = load_base(GOLDEN / "model"), [3 + 5 * index % 90 for index in range(20)]
    return {
        f"{kind}.{number}.{name}": tensor.contiguous()
        for kind in KINDS
        for number, block in enumerate(read_chunks(base, ids, 8, attention_kernel("auto"), memory_dtype=kind))
        for name, tensor in block.tensors().items()
    }


if __name__ == "__main__":
    save_file(made_now(), FILE, metadata={"reading_version": str(READING_VERSION)})
