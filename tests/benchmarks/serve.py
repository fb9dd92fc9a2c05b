"""A competitor that burns CPU time: `python -m tests.benchmarks.serve burn|burn_in_child SECONDS`, per picture."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.data.turns import serve

CHILD = """
import sys, time
for line in sys.stdin:
    until = time.process_time() + float(line)
    while time.process_time() < until: pass
    print(flush=True)
"""


def burn(seconds: float) -> Iterator[list[int]]:
    while True:
        until = time.process_time() + 10 * seconds
        while time.process_time() < until:
            pass
        yield [0] * 10


def burn_in_child(seconds: float) -> Iterator[list[int]]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    while True:
        print(10 * seconds, file=child.stdin, flush=True)
        child.stdout.readline()
        yield [0] * 10


if __name__ == "__main__":
    ways = {"burn": burn, "burn_in_child": burn_in_child}
    way, seconds = sys.argv[1:]
    if way not in ways:
        sys.exit(f"{way}: no such way")
    serve(ways[way](float(seconds)))
