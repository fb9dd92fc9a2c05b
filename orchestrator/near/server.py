"""What a node holds, served to its ranks on a unix socket; what it does not hold it looks for on the other nodes.

A request is a line of JSON, `do` says which; the answer is a line, for `read` followed by the bytes:
begin {file, bytes} -> {room}; hold {path, file, bytes} with an open file; find {path, files} -> {here, far};
open {path, file} -> the open file; read {path, file, offset, length} -> {length} or {gone}.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from typing import Any, Protocol

from orchestrator.near import lines
from orchestrator.near.held import Held, Holdings, Room

PATIENCE_S, AGAIN_S = 30.0, 0.1


class Others(Protocol):
    """The other nodes."""

    def find(self, path: str, files: set[str]) -> set[str]:
        """Those of `files` that some other node holds; returns as soon as all are found, or soon."""

    def read(self, path: str, file: str, offset: int, length: int) -> bytes | None:
        """From where find() has seen it; None when it is not there any more."""


class Server:
    """Listens on `path` until close(). `held(item)` is told of each file that a rank of this node gives to hold."""

    def __init__(self, path: str, node: str, others: Others, told: Callable[[Held], None]) -> None:
        self.holdings = Holdings()
        self._node, self._others, self._told = node, others, told
        self._path = path
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        Thread(target=self._accept, name="near", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            os.unlink(self._path)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
                line.settimeout(PATIENCE_S)
                Thread(target=self._serve, args=(line,), name="near request", daemon=True).start()
            except (OSError, RuntimeError):  # no file descriptor, or no thread, is free; or close()
                if self._listener.fileno() < 0:
                    return
                time.sleep(AGAIN_S)

    def _serve(self, line: socket.socket) -> None:
        with line:
            said: dict[str, Any] | None = None
            try:
                said, files = lines.receive(line, 1)
                if said is not None:
                    self._answer(line, said, [Room(file) for file in files])
            except (OSError, ValueError, KeyError, TypeError) as error:
                print(f"near: not served: {said}: {type(error).__name__}: {error}", file=sys.stderr)

    def _answer(self, line: socket.socket, said: dict[str, Any], files: list[Room]) -> None:
        do = said["do"]
        if do == "hold":
            item = Held(self._node, said["path"], said["file"], said["bytes"], files[0])
            self.holdings.put(item)
            self._told(item)
            lines.send(line, {})
        elif do == "begin":
            lines.send(line, {"room": self.holdings.reserve(self._node, said["file"], said["bytes"])})
        elif do == "find":
            here = {file for file in said["files"] if self.holdings.get(said["path"], file)}
            far = self._find_far(said["path"], set(said["files"]) - here)
            lines.send(line, {"here": sorted(here), "far": sorted(far)})
        elif do == "open":
            found = self.holdings.get(said["path"], said["file"])
            lines.send(line, {"here": found is not None}, [found.room.fd] if found else [])
        elif do == "read":
            data = self._others.read(said["path"], said["file"], said["offset"], said["length"])
            lines.send(line, {"gone": True} if data is None else {"length": len(data)})
            if data:
                line.sendall(data)
        else:
            raise ValueError(f"do got {do!r}")

    def _find_far(self, path: str, files: Iterable[str]) -> set[str]:
        wanted = set(files)
        return self._others.find(path, wanted) if wanted else set()
