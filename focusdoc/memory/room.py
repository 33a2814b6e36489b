"""How much memory is free where the keys and values go."""

from __future__ import annotations

import torch

from focusdoc.container import memory_left

#: Left free beside the memory, for the activations of reading and for whatever else runs.
SPARE_BYTES = 512 << 20


def free_beside(device: torch.device) -> int | None:
    """Bytes of RAM that can be used beside a GPU's own memory; None where there is no GPU."""
    return free_bytes(torch.device("cpu")) if device.type == "cuda" else None


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be used on `device`: the RAM that this process may have, or the GPU's memory."""
    if device.type == "cuda":
        # What torch holds of the GPU without using it counts as free.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    import psutil

    free, left = int(psutil.virtual_memory().available), memory_left()
    return free if left is None else min(free, left)
