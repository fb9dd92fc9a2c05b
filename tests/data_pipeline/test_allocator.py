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


def test_a_freed_block_is_used_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) < 100 * 1024 / 4  # a block of 4 MiB has 1,024 pages
