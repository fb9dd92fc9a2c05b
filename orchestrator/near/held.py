"""Files of checkpoints that a node holds in memory, each in an anonymous file: it is gone when nobody has it open any more."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from data_pipeline.storage import Bytes

SPARE_BYTES = 1 << 30  # left free when a copy is taken in
_PATH = re.compile(r"checkpoints/([0-9]+)-([0-9]+)")


class Room:
    """An open file, closed when nobody refers to it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    def resize(self, size: int) -> None:
        """Have `size` bytes."""
        os.ftruncate(self.fd, size)

    def write(self, data: Bytes, at: int) -> int:
        """Write all of `data` at byte `at`; where it ends."""
        rest = memoryview(data).cast("B")
        while rest:
            done = os.pwrite(self.fd, rest, at)
            at, rest = at + done, rest[done:]
        return at

    def read_into(self, buffers: Sequence[memoryview], at: int) -> None:
        """Fill `buffers` from byte `at`. OSError when there are not so many."""
        for buffer in buffers:
            rest = buffer
            while rest:
                done = os.preadv(self.fd, [rest], at)
                if not done:
                    raise OSError("it ends before the range does")
                at, rest = at + done, rest[done:]


@dataclass
class Held:
    """A file `file` of the checkpoint at `path`, written by a rank of node `source`. Byte for byte what the bucket has."""

    source: str
    path: str
    file: str
    size: int
    room: Room = field(repr=False)
    dropped: bool = False  # it is being written over: what is read now may be of another save

    def read(self, offset: int, length: int) -> bytes | None:
        """`length` bytes from `offset`; None when it does not have them."""
        if self.dropped or offset < 0 or offset + length > self.size:
            return None
        data = os.pread(self.room.fd, length, offset)
        return data if len(data) == length and not self.dropped else None


class Holdings:
    """What one node holds: of each rank of its own and of each neighbour's rank one file, of the two newest checkpoints it has seen."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Held] = {}  # by source and file
        self._lock = Lock()

    def put(self, held: Held) -> None:
        """Hold it, instead of what was held of the same rank, and drop what is of older checkpoints than the two newest."""
        with self._lock:
            self._drop((held.source, held.file))
            self._held[held.source, held.file] = held
            newest = sorted({item.path for item in self._held.values()}, key=age)[-2:]
            for key in [key for key, item in self._held.items() if item.path not in newest]:
                self._drop(key)

    def drop(self, source: str, file: str) -> None:
        """It is held no more."""
        with self._lock:
            self._drop((source, file))

    def get(self, path: str, file: str) -> Held | None:
        """The file, if it is here."""
        with self._lock:
            return next(
                (item for item in self._held.values() if (item.path, item.file) == (path, file)), None
            )

    def __iter__(self) -> Iterator[Held]:
        with self._lock:
            return iter(list(self._held.values()))

    def _drop(self, key: tuple[str, str]) -> None:
        if (item := self._held.pop(key, None)) is not None:
            item.dropped = True


def age(path: str) -> tuple[int, int]:
    """Orders paths of checkpoints: by attempt, then by step."""
    match = _PATH.fullmatch(path)
    return (int(match[2]), int(match[1])) if match else (-1, -1)


def memory_file(name: str) -> Room:
    """A file that exists only in memory, and only while some process has it open."""
    return Room(os.memfd_create(f"mixer {name}", os.MFD_CLOEXEC))


def has_room(size: int) -> bool:
    """Whether `size` more bytes leave this machine, and this container, SPARE_BYTES."""
    return free_bytes() >= size + SPARE_BYTES


def free_bytes() -> int:
    """Memory that can be had without swapping: of the machine, or of the control group where that has less."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = int(Path("/sys/fs/cgroup", most).read_text())
            free = min(free, limit - int(Path("/sys/fs/cgroup", used).read_text()) + _cached())
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return free


def _cached() -> int:
    """Bytes of this control group that the kernel gives back when asked: the page cache is counted as used."""
    for name in ("memory.stat", "memory/memory.stat"):
        try:
            lines = Path("/sys/fs/cgroup", name).read_text().splitlines()
        except OSError:
            continue
        return sum(
            int(line.split()[1])
            for line in lines
            if line.split()[0] in ("inactive_file", "total_inactive_file")
        )
    return 0
