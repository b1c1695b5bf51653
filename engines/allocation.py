"""What glibc keeps of freed memory, on a CPU, where a picture's tensors take megabytes at each step.

By default it gives them back at once, and each page of the next ones is then cleared and mapped anew, which costs more
than arithmetic as cheap as a picture's normalisation (``tests/engines/test_allocation.py`` counts the pages). Another
allocator, preloaded, does not read this.
"""

from __future__ import annotations

import ctypes

MMAP_THRESHOLD = 32 * 2**20
"""Bytes from which on an allocation is mapped by itself; glibc takes no more."""
TRIM_THRESHOLD = 512 * 2**20
"""Bytes at the heap's end from which on they are given back."""

KEEPING = {
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD),
}
"""For a child process, as environment variables (mallopt(3))."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """For this process, from now on. False where the C library has no such thing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)) and bool(
        mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)
    )
