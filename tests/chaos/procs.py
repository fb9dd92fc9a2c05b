"""The processes of a Ray cluster we started, found by its mark and told apart by what they are. Nothing else is ever signalled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clusters.local_state import MARK, NODE_MARK
from clusters.processes import Process

_SERVANTS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


@dataclass(frozen=True)
class Seen:
    """One process: `title` is its command line, `node` the index of its node."""

    process: Process
    parent: int
    title: str
    node: int

    @property
    def is_raylet(self) -> bool:
        return self.title.split(" ", 1)[0].endswith("/raylet")

    @property
    def is_gcs(self) -> bool:
        return self.title.split(" ", 1)[0].endswith("/gcs_server")

    @property
    def is_worker(self) -> bool:
        """A process of Ray that runs an actor or a task."""
        return self.title.startswith("ray::") and not self.title.startswith(_SERVANTS)

    @property
    def node_id(self) -> str:
        """Of a raylet: the hexadecimal id of its node."""
        found = re.search(r"--node_id=([0-9a-f]+)", self.title)
        return found[1] if found else ""


def scan(mark: str) -> list[Seen]:
    """Every living process of the cluster that carries `mark`, those under one of its raylets included."""
    found = {seen.process.pid: seen for seen in _marked(mark)}
    grown = True
    while grown:  # Ray titles a process over its environment: then its parent tells
        strangers = [seen for seen in _all() if seen.process.pid not in found and seen.parent in found]
        grown = bool(strangers)
        for seen in strangers:
            node = found[seen.parent].node
            found[seen.process.pid] = Seen(seen.process, seen.parent, seen.title, node)
    return [seen for seen in found.values() if seen.process.alive()]


def _marked(mark: str) -> Iterator[Seen]:
    wanted = f"{MARK}={mark}".encode()
    for seen in _all():
        places = _environment(seen.process.pid)
        if wanted in places:
            node = next((p for p in places if p.startswith(f"{NODE_MARK}=".encode())), b"/-1")
            yield Seen(seen.process, seen.parent, seen.title, int(node.rpartition(b"/")[2]))


def look(pid: int, node: int = -1) -> Seen | None:
    """The process of this pid, None when it is gone."""
    entry = Path(f"/proc/{pid}")
    parent = _parent(entry)
    try:
        title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    return Seen(Process.of(pid), parent, title.strip(), node) if parent else None


def _all() -> Iterator[Seen]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return (seen for pid in pids if (seen := look(pid)))


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
