"""Memory of the C library that stays with the process between steps.

A step asks for the same large tensors again and again. glibc gives them back to the system when
they are freed, and every page has to be found and cleared anew: a tenth of a step's time.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEEP, _USUAL = 2**30, 2**17


@contextmanager
def kept_memory() -> Iterator[None]:
    """Freed memory is kept for the next step, and given back at the end; elsewhere than on glibc
    nothing happens.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    set_thresholds(library, _KEEP)
    try:
        yield
    finally:
        set_thresholds(library, _USUAL)
        library.malloc_trim(0)


def set_thresholds(library: ctypes.CDLL, size: int) -> None:
    """From which size on memory is asked for, and given back, by the piece."""
    library.mallopt(_MMAP_THRESHOLD, size)
    library.mallopt(_TRIM_THRESHOLD, size)
