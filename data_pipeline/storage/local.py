"""A store in a local folder (or a network file system with hard links and atomic rename).

A write goes to a temporary file beside its target, is flushed to disk, and then takes its name in one step:
by rename, which replaces, or by hard link, which fails where the name is taken; that is the conditional put.
Readers so see an object whole or not at all. Links that somebody made inside the folder are followed; keys
cannot leave it.

Does not lock. Temporary files of killed writers are never listed, and go when somebody who knows that the
writers are dead sweeps.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from data_pipeline.errors import AccessDenied, NotFound, StoreError, Unavailable
from data_pipeline.storage.types import (
    Bytes,
    Honours,
    ObjectInfo,
    check_key,
    check_range,
    check_total,
    join_prefix,
)

TEMP = ".mixer-tmp-"
BUFFERS = 1000  # that one read may fill; Linux allows 1024
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)
FULL = (errno.ENOSPC, errno.EDQUOT)
PASSING = (errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EAGAIN, *FULL)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
T = TypeVar("T")


class _NoHardLinks(StoreError):
    """The file system has no hard links."""


class LocalStore:
    """Objects as files under `root`, which is made at the first write. A write waits up to `patience_s` for a full disk."""

    def __init__(self, root: Path, *, patience_s: float = 0.0) -> None:
        self.root = root.absolute()
        self.patience_s = patience_s
        self.retries = 0

    @property
    def url(self) -> str:
        return self.root.as_uri()

    @property
    def remote(self) -> bool:
        return False

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            self._fail("read", key, error)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(f"{self.url}/{key}", start, length)
        try:
            with self._path(key).open("rb", buffering=0) as file:
                data = _pread(file.fileno(), start, length)
        except OSError as error:
            self._fail("read", key, error)
        self._check_whole(key, start, length, len(data))
        return data

    def read_into(self, key: str, start: int, buffers: Sequence[memoryview]) -> None:
        length = sum(buffer.nbytes for buffer in buffers)
        check_range(f"{self.url}/{key}", start, length)
        try:
            with self._path(key).open("rb", buffering=0) as file:
                filled = _fill(file.fileno(), start, buffers)
        except OSError as error:
            self._fail("read", key, error)
        self._check_whole(key, start, length, filled)

    def _check_whole(self, key: str, start: int, length: int, got: int) -> None:
        if got != length:
            raise StoreError(
                f"{self.url}/{key}: bytes {start}+{length} were asked for, it ends at {start + got}"
            )

    def put(self, key: str, data: Bytes) -> None:
        self.put_stream(key, memoryview(data).nbytes, [data])

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        try:
            temp = self._write_temp(path, len(data), [data])
            try:
                created = self._patiently(lambda: _link(temp, path))
            finally:
                temp.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            self._fail("write", key, error)
        return created

    def put_stream(self, key: str, size: int, chunks: Iterable[Bytes]) -> None:
        path = self._path(key)
        try:
            temp = self._write_temp(path, size, chunks)
            try:
                temp.replace(path)
            finally:
                temp.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            self._fail("write", key, error)

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            return _info(key, path.stat()) if path.is_file() else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._fail("look at", key, error)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        found = []
        for here, _, names in os.walk(start, onerror=self._fail_listing, followlinks=True):
            for name in names:
                path = Path(here, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith(TEMP):
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        found.append(_info(key, path.stat()))
        yield from sorted(found, key=lambda info: info.key)

    def folders(self) -> Iterator[str]:
        try:
            yield from sorted(path.name for path in self.root.iterdir() if path.is_dir())
        except FileNotFoundError:
            return
        except OSError as error:
            self._fail("list", "", error)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            self._fail("delete", key, error)
        self._prune(path.parent)

    def sweep(self, prefix: str, older_than_s: float, dead: Callable[[str], bool]) -> int:
        start, before, gone = self._path(prefix) if prefix else self.root, time.time() - older_than_s, 0
        for here, _, names in os.walk(start, onerror=self._fail_listing):
            left = [Path(here, name) for name in names if name.startswith(TEMP)]
            if left and dead(Path(here).relative_to(self.root).as_posix()):
                gone += sum(_remove_older(path, before) for path in left)
                self._prune(Path(here))
        return gone

    def _prune(self, folder: Path) -> None:
        """Remove `folder`, and those above it, where they became empty."""
        with contextlib.suppress(OSError):  # one that did not stays
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def sub(self, prefix: str) -> LocalStore:
        return LocalStore(self.root / join_prefix("", prefix), patience_s=self.patience_s)

    def probe(self) -> Honours:
        """Whether hard links work here is what decides; ranges and ETags a file system always has."""
        key = f"probe-{uuid.uuid4().hex}"
        try:
            first, second = self.put_if_absent(key, b"first"), self.put_if_absent(key, b"second")
            return Honours(first and not second and self.get(key) == b"first", ranges=True, etags=True)
        except _NoHardLinks:
            return Honours(conditional_put=False, ranges=True, etags=True)
        finally:
            self.delete(key)

    def _path(self, key: str) -> Path:
        path = self.root / check_key(key)
        if path.name.startswith(TEMP):
            raise StoreError(
                f"key {key!r} is not valid: names that start with {TEMP!r} are for temporary files"
            )
        return path

    def _write_temp(self, path: Path, size: int, chunks: Iterable[Bytes]) -> Path:
        """A flushed file beside `path` with exactly `size` bytes, or no file and the error."""
        file, temp = self._patiently(lambda: _create_beside(path))
        seen = 0
        try:
            with open(file, "wb", buffering=0) as out:
                for chunk in chunks:
                    view = memoryview(chunk).cast("B")
                    seen += view.nbytes
                    if seen > size:
                        break
                    while view:
                        view = view[self._patiently(partial(out.write, view)) :]
                check_total(f"{self.url}/{path.relative_to(self.root).as_posix()}", size, seen)
                os.fsync(out.fileno())
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        return temp

    def _patiently(self, act: Callable[[], T]) -> T:
        """What `act` returns; done again while the disk is full, for up to patience_s. `act` must leave nothing half done."""
        until, pause = time.monotonic() + self.patience_s, FIRST_PAUSE_S
        while True:
            try:
                return act()
            except OSError as error:
                if error.errno not in FULL or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            self.retries += 1

    def _fail_listing(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            self._fail("list", "", error)

    def _fail(self, verb: str, key: str, error: OSError) -> NoReturn:
        where = f"{self.url}/{key}".rstrip("/")
        if isinstance(error, FileNotFoundError):
            raise NotFound(f"there is no {where}") from None
        if isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError):
            kind = NotFound if verb == "read" else StoreError
            raise kind(
                f"cannot {verb} {where}: a folder holds either an object or a prefix of that name"
            ) from None
        if isinstance(error, PermissionError):
            raise AccessDenied(f"cannot {verb} {where}: {error.strerror}; check the owner and mode") from None
        kind = Unavailable if error.errno in PASSING else StoreError
        advice = "; free some, or use another folder" if error.errno in FULL else ""
        raise kind(f"cannot {verb} {where}: {error.strerror}{advice}") from error


def _pread(file: int, start: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(file, min(length, 1 << 30), start)
        if not part:
            break
        parts.append(part)
        start, length = start + len(part), length - len(part)
    return b"".join(parts)


def _fill(file: int, start: int, buffers: Sequence[memoryview]) -> int:
    """Read into `buffers` from byte `start` until they are full or the file ends; bytes read."""
    views, filled = [buffer.cast("B") for buffer in buffers if buffer.nbytes], 0
    first = 0
    while first < len(views):
        got = os.preadv(file, views[first : first + BUFFERS], start + filled)
        if not got:
            break
        filled += got
        while first < len(views) and got >= len(views[first]):
            got -= len(views[first])
            first += 1
        if got:
            views[first] = views[first][got:]
    return filled


def _remove_older(path: Path, before: float) -> bool:
    """Whether `path` was last written before that moment, and so is removed. Gone already: no."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_mtime <= before:
            path.unlink()
            return True
    return False


def _create_beside(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, whose folder a delete may remove as empty between making and using it."""
    temp = path.with_name(f"{TEMP}{uuid.uuid4().hex}")
    for _ in range(100):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), temp
        except FileNotFoundError:
            continue
        except FileExistsError:  # a file is in the way, or a folder that vanished while mkdir looked at it
            if path.parent.exists() and not path.parent.is_dir():
                raise
    raise FileNotFoundError(errno.ENOENT, "the folder vanishes as often as it is made", str(path.parent))


def _link(temp: Path, path: Path) -> bool:
    """Gives `temp` the name `path` unless that is taken. Atomic: of any number of writers one wins."""
    try:
        os.link(temp, path)
    except FileExistsError:
        return temp.stat().st_nlink > 1  # a network file system did it and lost the reply
    except OSError as error:
        if error.errno in NO_LINKS:
            raise _NoHardLinks(
                f"{path.parent} is on a file system without hard links, so no write can be conditional: "
                "use another folder, or the s3:// url of the bucket instead of a mount of it"
            ) from None
        raise
    return True


def _sync_folder(folder: Path) -> None:
    try:
        file = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # somebody deleted what was written, and with it the folder
        return
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _info(key: str, stat: os.stat_result) -> ObjectInfo:
    etag = f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
    return ObjectInfo(key, stat.st_size, etag, stat.st_mtime)
