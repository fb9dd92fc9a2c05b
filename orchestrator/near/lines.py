"""One line of JSON over a unix socket, with open files beside it."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

MOST = 1 << 15  # bytes sent together with the files; the receiver takes at least so many at once


def send(line: socket.socket, said: dict[str, Any], files: Sequence[int] = ()) -> None:
    """Send `said`, and the open files with its first bytes."""
    data = json.dumps(said).encode() + b"\n"
    if files:
        socket.send_fds(line, [data[:MOST]], files)
        data = data[MOST:]
    if data:  # who has all of it may have gone
        line.sendall(data)


def receive(line: socket.socket, most_files: int = 2) -> tuple[dict[str, Any] | None, list[int]]:
    """What was said and the files that came with it; None for an empty line. ValueError when it is no line of a JSON object."""
    data, files, _flags, _address = socket.recv_fds(line, 1 << 16, most_files)
    while not data.endswith(b"\n"):
        more = line.recv(1 << 16)
        if not more:
            raise ValueError("it ended in the middle")
        data += more
    if data == b"\n":
        return None, files
    said = json.loads(data)
    if not isinstance(said, dict):
        raise ValueError("it is not an object")
    return said, files
