"""Blocks kept in a folder of this machine, for the epochs to come and for the next worker of the node.

A block is one file, named by what it is (data set, shard, bytes), written beside and renamed: there entirely or not
at all. Several processes share the folder without talking: a hit renews the file's time, and whoever writes more
than a share of the limit looks at all blocks, under a lock, and removes what was used longest ago. Blocks lie in a
folder of this user's own, which nobody else may look into; what else lies there or beside it is left alone. Nothing
in it is trusted: whoever reads a block proves it by the index, and drops what does not fit. It may be deleted at any
time. A disk that is full or broken makes reading slower, never wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

TEMP = ".tmp-"
PART, BLOCK = re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{38}")
LOOK_SHARE = 0.01  # of the limit: written by one process before it looks at the folder again
LARGEST_SHARE = 0.25  # of the limit: a larger block is not kept
KEEP_SHARE = 0.9  # of the limit: what stays when room is made
ABANDONED_S = 600.0  # after which a temporary file is a dead writer's


class BlockCache:
    """At most about `limit` bytes in a folder of its own below `folder`, made when first needed.

    Safe to use from several threads and processes.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        self._folder, self._limit = Path(folder).expanduser() / f"blocks-of-{os.getuid()}", limit
        self._lock = threading.Lock()
        self._unseen: float = limit  # bytes written since the folder was looked at; at first nothing is known
        self.hits, self.hit_bytes, self.misses, self.failures = 0, 0, 0, 0

    def get(self, *name: object) -> bytes | None:
        """The bytes put under `name`, not yet proven; None where there are none."""
        path = self._path(name)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            self.misses += 1
            return None
        self.hits, self.hit_bytes = self.hits + 1, self.hit_bytes + len(data)
        return data

    def put(self, data: bytes, *name: object) -> None:
        """Keep `data` under `name`, and make room if that is due. A disk that refuses is counted in `failures`, nothing else."""
        if len(data) > self._limit * LARGEST_SHARE:
            return
        path = self._path(name)
        temp = path.with_name(f"{TEMP}{uuid.uuid4().hex}")
        try:
            self._make_folder(path.parent)
            try:
                temp.write_bytes(data)
                temp.replace(path)
            finally:
                temp.unlink(missing_ok=True)
            self._wrote(len(data))
        except OSError:
            self.failures += 1

    def _make_folder(self, part: Path) -> None:
        """PermissionError where somebody else was there first."""
        if not part.exists():
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if self._folder.lstat().st_uid != os.getuid():
                raise PermissionError(f"{self._folder} is somebody else's")
            part.mkdir(mode=0o700, exist_ok=True)

    def drop(self, *name: object) -> None:
        """Forget what is kept under `name`."""
        with suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: tuple[object, ...]) -> Path:
        digest = hashlib.sha256(repr(name).encode()).hexdigest()[:40]
        return self._folder / digest[:2] / digest[2:]

    def _wrote(self, count: int) -> None:
        with self._lock:
            self._unseen += count
            due = self._unseen > self._limit * LOOK_SHARE
            if due:
                self._unseen = 0
        if due:
            self._make_room()

    def _make_room(self) -> None:
        """Removes what was used longest ago, until KEEP_SHARE of the limit is left. One process at a time; the others go on."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        with open(os.open(self._folder / ".lock", flags, 0o600), "r+b", buffering=0) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            files = sorted(_files(self._folder))
            total = sum(size for _, size, _ in files)
            if total <= self._limit:
                return
            for _, size, path in files:
                with suppress(OSError):
                    os.unlink(path)
                total -= size
                if total <= self._limit * KEEP_SHARE:
                    return


def _files(folder: Path) -> list[tuple[float, int, str]]:
    """(last use, bytes, path) of every block; what dead writers left is removed on the way."""
    found, old = [], time.time() - ABANDONED_S
    for part in os.scandir(folder):
        if not PART.fullmatch(part.name) or not part.is_dir(follow_symlinks=False):
            continue
        for entry in os.scandir(part.path):
            with suppress(OSError):
                stat = entry.stat(follow_symlinks=False)
                if BLOCK.fullmatch(entry.name):
                    found.append((stat.st_mtime, stat.st_size, entry.path))
                elif entry.name.startswith(TEMP) and stat.st_mtime < old:
                    os.unlink(entry.path)
    return found
