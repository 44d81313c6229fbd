"""Memory for weights in large pages: a token that is decoded reads every page of them once.

With pages of 4 KiB the processor looks up half a million addresses for 2 GB; with pages of 2 MiB a
thousand. Linux gives them where they are asked for before anything is written.
"""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor

LARGE = 2 << 20
"""Bytes of a large page, of processors with pages of 4 KiB."""


def empty(*shape: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """A tensor for weights, in large pages where it fills some and the system has them."""
    num_bytes = math.prod(shape) * dtype.itemsize
    is_here = device is None or device.type == "cpu"
    if not is_here or num_bytes < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(*shape, dtype=dtype, device=device)
    # Of its own: what the allocator has used before is in small pages already. What is left over at
    # the end stays in those, so that no memory is taken beside the tensor's.
    try:
        memory = mmap.mmap(-1, num_bytes + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:  # PyTorch says what there is too little of
        return torch.empty(*shape, dtype=dtype, device=device)
    start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % LARGE
    memory.madvise(mmap.MADV_HUGEPAGE, start, num_bytes // LARGE * LARGE)
    whole = torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=start)
    return whole.view(shape)
