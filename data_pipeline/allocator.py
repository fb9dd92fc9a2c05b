"""Memory for blocks that come and go: asked of the kernel once, then used again.

glibc gives blocks of some MB back to the kernel whenever one is freed, and the next one begins with a page fault per
4 KB: a third of what reading costs. Told to keep them, it does not. It is a setting of the whole process, so it is the
worker that makes it, not the loader.
"""

from __future__ import annotations

import ctypes

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # mallopt(3)
LARGEST_BLOCK = 32 << 20  # what older versions of glibc allow
KEPT = 512 << 20  # of freed memory at the end of the heap, at most


def keep_freed_blocks() -> bool:
    """Whether the allocator took it; False where it is not glibc's."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(MMAP_THRESHOLD, LARGEST_BLOCK), mallopt(TRIM_THRESHOLD, KEPT)])
