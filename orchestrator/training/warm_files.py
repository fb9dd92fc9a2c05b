"""Where the warm server of a node listens, and its memory. No torch here: shells and agents ask too."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

DUMP = "MIXER_DUMP"  # where a rank writes its stack when it gets SIGUSR2


def socket_of(node: str, token: str) -> str:
    """The unix socket of node `node` for the driver that `token` names: several nodes and drivers may share a machine, or a /tmp."""
    short = hashlib.sha256(f"{node} {token}".encode()).hexdigest()[:16]
    return str(folder() / f"{short}.sock")


def near_socket_of(node: str, token: str) -> str:
    """As socket_of, of the node's memory."""
    return near_beside(socket_of(node, token))


def near_beside(path: str) -> str:
    """The socket of the node's memory beside that of its warm server."""
    return path.removesuffix(".sock") + ".near"


def folder() -> Path:
    """The user's own folder for sockets; made if missing. PermissionError when it is somebody else's."""
    path = Path(tempfile.gettempdir()) / f"mixer-warm-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    facts = path.lstat()  # what lies there may be somebody's link
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise PermissionError(f"{path} is not a private folder of this user; remove it")
    return path
