"""Memory for blocks that come and go: asked of the kernel once, then used again.

glibc gives blocks of some MB back to the kernel whenever one is freed, and those of more than 32 MB always; the next one begins with
a page fault per 4 KB. That is a third of what reading costs, and a tenth of a training step on a CPU, whose activations and gradients
come and go with every step. Told to keep them, it does not. It is a setting of the whole process, so it is the worker that makes it,
not the loader.

Large blocks are kept only where that is asked for. In the heap a small thing that outlives a step may be cut out of a freed block, and the
next of the same size, aligned as torch asks, then needs new room (glibc 2.36 often passes over a whole one too). A
step that repeats itself settles; large blocks among many lasting small ones take several times what they need at once. So whoever keeps
them gives back, now and then, what nothing uses: `give_back_freed()`.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # mallopt(3)
LARGE = 32 << 20  # the largest threshold that glibc takes
KEPT = 512 << 20  # of freed memory at the end of the heap, at most
KEPT_OF_LARGE = 2**31 - 1  # likewise: the most that mallopt takes as a number


def keep_freed_blocks(*, large: bool = False) -> bool:
    """Whether the allocator took it; False where it is not glibc's. With `large` those of more than 32 MB too.

    In threads other than the first, blocks of more than 64 MB go back to the kernel all the same.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    if large:  # no block of its own mapping, whatever its size: one that is freed stays in the heap
        return all([mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, KEPT_OF_LARGE)])
    return all([mallopt(MMAP_THRESHOLD, LARGE), mallopt(TRIM_THRESHOLD, KEPT)])


def give_back_freed() -> None:
    """Every page that no block uses goes back to the kernel, wherever in the heap it is. The next step asks for its own again."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
