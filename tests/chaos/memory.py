"""A memory limit for one process, small enough that the kernel kills it at its next allocations: cgroup v1, as root."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from clusters.processes import Process

ROOT = Path("/sys/fs/cgroup/memory")
LIMIT_BYTES = 1 << 20


def can_limit() -> bool:
    """Whether this machine lets us make such limits."""
    return (ROOT / "cgroup.procs").exists() and os.access(ROOT, os.W_OK) and os.geteuid() == 0


def limit(process: Process, mark: str) -> None:
    """From now on every page it asks for is one too many."""
    folder = ROOT / f"mixer-chaos-{mark}-{process.pid}"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    with suppress(ProcessLookupError):
        (folder / "cgroup.procs").write_text(str(process.pid))


def tidy(mark: str) -> None:
    """Take away the groups of processes that are gone."""
    for folder in ROOT.glob(f"mixer-chaos-{mark}-*") if can_limit() else ():
        with suppress(OSError):
            folder.rmdir()
