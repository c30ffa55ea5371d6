"""Memory that a training on a CPU frees stays with its process, for its next step."""

from __future__ import annotations

import ctypes
import os
import sys

# Keys of glibc's mallopt(3), and the variables with which a user sets them.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
VARIABLES = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "GLIBC_TUNABLES",
)


def keep_freed_memory() -> None:
    """Let glibc keep blocks that this process frees, large ones too, until it ends.

    glibc returns blocks above 32 MB to the system at once, such as a gradient of the embeddings.
    The next block of that size then costs a page fault for each of its pages, all in all a quarter
    of a full training (docs/benchmarks.md). Other C libraries, and a user's own settings, stay as
    they are.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in VARIABLES):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)
