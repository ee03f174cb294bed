"""Pinned host memory of exactly the size asked for, which a GPU copies into while the processor goes on."""

import weakref

import torch
from torch import Tensor


def pinned_bytes(size: int) -> Tensor:
    """uint8 [size], page-locked.

    Torch's own pinned memory is rounded up to a power of two, so that 9 GB would take 16; hence memory of the usual kind is
    registered with the driver. Where the driver cannot register it (WSL2; a limit on locked memory), torch's own is used.
    """
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    memory = torch.empty(size, dtype=torch.uint8)
    runtime = torch.cuda.cudart()
    if int(runtime.cudaHostRegister(memory.data_ptr(), size, 0)) != 0:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    # Views share the storage, so it is this object's end that counts: its owner keeps it for as long as any view is read.
    weakref.finalize(memory, runtime.cudaHostUnregister, memory.data_ptr()).atexit = False
    return memory
