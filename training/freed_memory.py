"""Keep freed memory in the heap of glibc for the next step."""

import ctypes
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def yield_batches(loader: Iterable) -> Iterator:
    """Yield the batches of a loader and keep freed memory for the next ones, until the process grows."""
    if _LIBC is None:
        yield from loader
        return
    keep_freed_memory()
    if not getattr(loader, "started", True):
        # Loader processes are forked from this one. Freed memory that they share would be copied page by page when it
        # is used again, which makes the first step slow.
        _LIBC.malloc_trim(0)
    for batch in loader:
        yield batch
        _HEAP.trim_if_needed()


def keep_freed_memory() -> None:
    """Let glibc, if the system has it, keep freed memory for the next batch; see `_Heap`."""
    for parameter, value in _KEEP if _LIBC is not None else ():
        _LIBC.mallopt(parameter, value)


class _Heap:
    """The freed memory that glibc keeps for this process.

    By default glibc returns every large block to the system at once and gets the next one page by page, which slows
    training and inference down (docs/performance.md). But it does not find all of the kept memory again, so the process
    would grow. Therefore all is returned whenever the process is a quarter larger than its batches need.
    """

    def __init__(self) -> None:
        self.batches = 0  # since the last trim
        self.needed = 0  # bytes, once some batches are done

    def trim_if_needed(self) -> None:
        """Return memory to the system if the process has grown; called after every batch."""
        self.batches += 1
        if self.batches < SETTLED:
            return
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
        held = (int(resident) - int(shared)) * PAGE
        if self.batches == SETTLED:
            self.needed = max(self.needed, held)
        elif held > 1.25 * self.needed + 2**26:
            _LIBC.malloc_trim(0)
            self.batches = 0


def _find_libc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
    except OSError:  # macOS, Windows, and Linux with another C library
        return None


SETTLED = 5  # batches after which the memory of a process is settled
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
# Of mallopt(3): M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_MAX. No block is mapped separately, and the heap grows in large
# steps and shrinks only when it is trimmed.
_KEEP = ((-1, 2**31 - 1), (-2, 64 * 2**20), (-4, 0))
HELD_BYTES = 2**30  # of images that are kept while networks take turns
_LIBC, _HEAP = _find_libc(), _Heap()
