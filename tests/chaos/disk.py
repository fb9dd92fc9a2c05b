"""A disk of its own for a store that is a folder, so small that it can be filled: a tmpfs, where root allows."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SIZE_MB = 192
_BALLAST, _PIECE = "ballast", b"\0" * (1 << 20)


@dataclass(frozen=True)
class Disk:
    """What is mounted at `path`."""

    path: Path

    def fill(self) -> int:
        """Write until no byte is left; how many bytes that took."""
        with open(self.path / _BALLAST, "ab", buffering=0) as file:
            for piece in (_PIECE, _PIECE[:4096], _PIECE[:1]):
                try:
                    while True:
                        file.write(piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
            return file.tell()

    def free(self) -> None:
        """Give it back."""
        (self.path / _BALLAST).unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path) -> Iterator[Disk | None]:
    """A disk at `path` for the block; None, and an ordinary folder, where nothing can be mounted."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
