"""A rank's side: give the file of a save to the node to hold; read a checkpoint from memory where it is, else from the bucket.

The node's memory is a help and never a duty: what does not answer in time, or answers wrong, is not asked again.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, Protocol

from data_pipeline.storage import Bytes
from orchestrator.near import lines
from orchestrator.near.held import Room, memory_file

ENVIRONMENT = "MIXER_NEAR"  # the socket of the node
PATIENCE_S = 5.0


class Source(Protocol):
    """Where ranges of objects are read from; a Store is one."""

    def read_into(self, key: str, start: int, buffers: Sequence[memoryview]) -> None:
        """Fills writable byte `buffers`, one after the other, from byte `start`."""


class Near:
    """The memory of this rank's node, or none. For one save at a time and for any number of readers."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._copy: Room | None = None
        self._at = 0
        self._name = ""

    @classmethod
    def of_environment(cls) -> Near:
        """What the shell has told, else none."""
        return cls(os.environ.get(ENVIRONMENT))

    # -- a save ---------------------------------------------------------------------------------------------------------
    def begin(self, file: str, size: int) -> None:
        """A copy of `file` will be written, over the one before."""
        if self._path is None:
            return
        self._name, self._at = file, 0
        before, self._copy = self._copy, None
        with suppress(OSError, ValueError):
            copy = before or memory_file(file)
            more = max(0, size - copy.allocated)
            if self._ask({"do": "begin", "file": file, "bytes": more})[0].get("room"):
                copy.resize(size)
                self._copy = copy

    def write(self, data: Bytes) -> None:
        """The next bytes."""
        if self._copy is None:
            return
        try:
            self._at = self._copy.write(data, self._at)
        except OSError:  # no memory
            self._copy = None

    def hold(self, path: str) -> bool:
        """All is written, and in the bucket at `path`: the node holds it from now. Whether it does."""
        if self._path is None or self._copy is None:
            return False
        request = {"do": "hold", "path": path, "file": self._name, "bytes": self._at}
        try:
            self._ask(request, [self._copy.fd])
        except (OSError, ValueError):
            self._copy = None
            return False
        return True

    # -- a load ---------------------------------------------------------------------------------------------------------
    def over(self, store: Source, path: str, files: Iterable[str]) -> NearFirst:
        """Reads `files` of the checkpoint at `path` from memory, and from `store` what is not there."""
        found: dict[str, list[str]] = {}
        rooms: dict[str, Room] = {}
        if self._path is not None:
            with suppress(OSError, ValueError, KeyError):
                found = self._ask({"do": "find", "path": path, "files": list(files)})[0]
                for file in found["here"]:
                    given = self._ask({"do": "open", "path": path, "file": file})[1]
                    rooms.update((file, Room(fd)) for fd in given)
        return NearFirst(self, store, path, rooms, set(found.get("far", ())))

    def read_far(self, path: str, file: str, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill `buffers` from what another node holds. OSError when it has it no more."""
        length = sum(len(buffer) for buffer in buffers)
        with self._connect() as line:
            lines.send(line, {"do": "read", "path": path, "file": file, "offset": offset, "length": length})
            answer = b""
            while not answer.endswith(b"\n"):
                byte = line.recv(1)
                if not byte:
                    raise OSError("the node's memory did not answer")
                answer += byte
            if answer != b'{"length": %d}\n' % length:
                raise OSError(f"{path}/{file} is not in another node's memory any more")
            for buffer in buffers:
                rest = buffer
                while rest:
                    done = line.recv_into(rest)
                    if not done:
                        raise OSError("the node's memory broke off")
                    rest = rest[done:]

    def _ask(self, said: dict[str, Any], files: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        try:
            with self._connect() as line:
                lines.send(line, said, files)
                answer, given = lines.receive(line, 1)
                return answer or {}, given
        except TimeoutError:
            self._path = None  # it is stuck; what is saved and loaded from now on does without
            raise

    def _connect(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(PATIENCE_S)
        try:
            line.connect(self._path or "")
        except OSError:
            line.close()
            raise
        return line


class NearFirst:
    """One checkpoint: from this node's memory, from another's, from the store. `took` counts bytes by "here", "far" and "bucket"."""

    def __init__(self, near: Near, store: Source, path: str, rooms: dict[str, Room], far: set[str]) -> None:
        self._near, self._store, self._path = near, store, path
        self._rooms, self._far = rooms, far
        self._read: set[tuple[str, int]] = set()
        self._lock = Lock()
        self.took: Counter[str] = Counter()

    def read_into(self, key: str, start: int, buffers: Sequence[memoryview]) -> None:
        """As a store. What is asked for a second time was wrong the first time: it and all of its file come from the store then."""
        file = key.removeprefix(f"{self._path}/")
        with self._lock:
            if (file, start) in self._read:
                self._leave(file)
            self._read.add((file, start))
        where = self._from_memory(file, start, buffers)
        if where is None:
            where = "bucket"
            self._store.read_into(key, start, buffers)
        with self._lock:
            self.took[where] += sum(len(buffer) for buffer in buffers)

    def _from_memory(self, file: str, start: int, buffers: Sequence[memoryview]) -> str | None:
        room = self._rooms.get(file)
        try:
            if room is not None:
                room.read_into(buffers, start)
                return "here"
            if file in self._far:
                self._near.read_far(self._path, file, start, buffers)
                return "far"
        except TimeoutError:
            with self._lock:
                self._far.clear()
        except OSError:
            with self._lock:
                self._leave(file)
        return None

    def _leave(self, file: str) -> None:
        self._rooms.pop(file, None)
        self._far.discard(file)
