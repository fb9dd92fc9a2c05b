"""Blocks that come and go do not cost a page fault per 4 KB each time."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from data_pipeline.allocator import keep_freed_blocks
assert keep_freed_blocks()
source = bytes(4 << 20)
def fetch(n):
    return bytearray(source)
with ThreadPoolExecutor(4) as pool:
    blocks = []
    for n, block in enumerate(pool.map(fetch, range(200))):
        blocks = [*blocks[-3:], block]
        if n == 100:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


LARGE = """
import ctypes, resource
from data_pipeline.allocator import keep_freed_blocks
assert keep_freed_blocks(large=True)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for n in range(10):
    if n == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(200 << 20)
    ctypes.memset(block, n, 200 << 20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

ONE_AT_A_TIME = """
import ctypes
from data_pipeline.allocator import keep_freed_blocks
assert keep_freed_blocks()
libc, block, kept = ctypes.CDLL(None), ctypes.c_void_p(), []
def taken():
    return int(open("/proc/self/statm").read().split()[0]) * 4096
before = taken()
for n in range(24):
    assert libc.posix_memalign(ctypes.byref(block), ctypes.c_size_t(64), ctypes.c_size_t(200 << 20)) == 0
    kept.append(bytes(20_000 + n))
    libc.free(block)
    kept.append(bytes(20_000 + n))
print((taken() - before) >> 20)
"""

GIVEN_BACK = """
import ctypes
from data_pipeline.allocator import give_back_freed, keep_freed_blocks
assert keep_freed_blocks(large=True)
libc, block, kept = ctypes.CDLL(None), ctypes.c_void_p(), []
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
for n in range(6):
    assert libc.posix_memalign(ctypes.byref(block), ctypes.c_size_t(64), ctypes.c_size_t(100 << 20)) == 0
    ctypes.memset(block, 1, 100 << 20)
    kept.append(bytes(20_000 + n))
    libc.free(block)
    kept.append(bytes(20_000 + n))
assert resident() - before > 100 << 20
give_back_freed()
print((resident() - before) >> 20)
"""


def _number(code: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout)


def test_a_freed_block_is_used_again() -> None:
    assert _number(CODE) < 100 * 1024 / 4  # a block of 4 MiB has 1,024 pages


def test_a_large_freed_block_is_used_again() -> None:
    """As large as the gradients of a network: glibc maps those afresh each time unless told not to."""
    assert _number(LARGE) < 51_200 / 4  # a block of 200 MiB has 51,200 pages


def test_large_blocks_one_at_a_time_take_the_room_of_one() -> None:
    """In the heap, what is allocated after a free is cut out of what was freed, and the next block, aligned as torch asks, fits no more."""
    assert _number(ONE_AT_A_TIME) < 2 * 200


def test_what_is_kept_is_given_back_when_told_to() -> None:
    """Holes in the middle of the heap too, where something that lasts lies behind them."""
    assert _number(GIVEN_BACK) < 10
