"""Whether a document's memory fits, before any of it is read: a refusal with numbers beats a killed process."""

from __future__ import annotations

import torch

from focusdoc.errors import MemoryShortageError
from focusdoc.modeling.base import BaseModel

#: Left free beside the memory, for the activations of reading and for whatever else runs.
SPARE_BYTES = 512 << 20


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be used on `device`: the machine's RAM, or the GPU's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def check_memory_room(base: BaseModel, num_tokens: int, document: str = "") -> None:
    """Make sure that the keys and values of `num_tokens` tokens fit into memory.

    Raises:
        MemoryShortageError: they do not; the message tells the bytes needed and free.
    """
    needed, free = num_tokens * base.kv_bytes_per_token, free_bytes(base.device)
    if needed + SPARE_BYTES <= free:
        return
    what = f"{document!r}" if document else "The document"
    most = max(0, free - SPARE_BYTES) // base.kv_bytes_per_token
    raise MemoryShortageError(
        f"{what} needs {needed:,} bytes of memory for its {num_tokens:,} tokens, but {free:,} are free; "
        f"close other programs, or ask a part of at most {most:,} tokens."
    )
