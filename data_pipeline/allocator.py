"""Memory for blocks that come and go: asked of the kernel once, then used again.

glibc gives blocks of some MB back to the kernel whenever one is freed, and those of more than 32 MB always; the next one begins with
a page fault per 4 KB. That is a third of what reading costs, and a tenth of a training step on a CPU, whose activations and gradients
come and go with every step. Told to keep them, it does not. It is a setting of the whole process, so it is the worker that makes it,
not the loader.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # mallopt(3)
KEPT = 2**31 - 1  # of freed memory at the end of the heap, at most: all that mallopt can be told


def keep_freed_blocks() -> bool:
    """Whether the allocator took it; False where it is not glibc's."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # No block of its own mapping, whatever its size: one that is freed stays in the heap.
    return all([mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, KEPT)])
