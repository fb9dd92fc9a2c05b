"""Files of checkpoints that a node holds in memory, each in an anonymous file: it is gone when nobody has it open any more."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from data_pipeline.storage import Bytes

SPARE_BYTES, SPARE_SHARE = (
    1 << 30,
    0.08,
)  # left free, of the whole: Ray kills workers of a node that is 95 % full
_PATH = re.compile(r"checkpoints/([0-9]+)-([0-9]+)")


class Room:
    """An open file, closed when nobody refers to it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    @property
    def allocated(self) -> int:
        """Bytes of memory that it takes."""
        return os.fstat(self.fd).st_blocks * 512

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
    since: float = field(default_factory=time.monotonic)
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
        self._promised: dict[tuple[str, str], int] = {}  # bytes that are still to be written
        self._lock = Lock()

    def reserve(self, source: str, file: str, size: int) -> bool:
        """Room for `size` more bytes of a file that will come instead of the one held. False: there is none."""
        with self._lock:
            self._drop((source, file))
            if not has_room(size + sum(self._promised.values())):
                return False
            self._promised[source, file] = size
            return True

    def put(self, held: Held) -> None:
        """Hold it, instead of what was held of the same rank, and drop what is of older checkpoints than the two newest."""
        with self._lock:
            self._drop((held.source, held.file))
            self._held[held.source, held.file] = held
            newest = sorted({item.path for item in self._held.values()}, key=age)[-2:]
            for key in [key for key, item in self._held.items() if item.path not in newest]:
                self._drop(key)

    def keep(self, sources: set[str], orphans_s: float = 0.0) -> None:
        """Drop what other nodes than `sources` gave longer than `orphans_s` ago. They are gone, which is what it was kept for."""
        with self._lock:
            old = time.monotonic() - orphans_s
            for key in [
                key for key, item in self._held.items() if key[0] not in sources and item.since <= old
            ]:
                self._drop(key)
            self._promised = {key: size for key, size in self._promised.items() if key[0] in sources}

    def relieve(self) -> bool:
        """Drop everything when this machine is short of memory. Whether it was."""
        if free_bytes() >= spare_bytes() // 2:
            return False
        self.keep(set())
        return True

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
        self._promised.pop(key, None)
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
    """Whether `size` more bytes leave this machine, and this container, enough."""
    return free_bytes() >= size + spare_bytes()


def spare_bytes() -> int:
    """What must stay free."""
    limits = [limit for limit, _ in _groups()]
    return max(SPARE_BYTES, int(SPARE_SHARE * min([_meminfo()["MemTotal"], *limits])))


def free_bytes() -> int:
    """Memory that can be had without swapping: of the machine, or of the control group that has least."""
    return min([_meminfo()["MemAvailable"], *(limit - used for limit, used in _groups())])


def _meminfo() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}


def _groups() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each control group of this process that has a limit. The page cache does not count."""
    for group in _paths():
        for most, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                limit, taken = int((group / most).read_text()), int((group / used).read_text())
                lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such file, or "max"
                continue
            cached = {words[0]: int(words[1]) for words in lines}
            yield limit, taken - cached.get("total_inactive_file", cached.get("inactive_file", 0))


def _paths() -> Iterator[Path]:
    """The control groups of this process, from its own to the root."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, name = line.split(":", 2)
        root = Path("/sys/fs/cgroup", "memory" if "memory" in kinds.split(",") else "")
        if not kinds or "memory" in kinds.split(","):
            own = root / name.lstrip("/")
            yield from (path for path in (own, *own.parents) if path.is_relative_to(root))
