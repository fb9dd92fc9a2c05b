"""Kinds of places that images are read from: objects of a store, members of a tar, links of a table, memory."""

from __future__ import annotations

import errno
import os
import posixpath
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from data_pipeline.errors import AccessDenied, NotFound, StoreError, Unavailable
from data_pipeline.packing.items import UNKNOWN, NoImage
from data_pipeline.packing.web import Web, is_web
from data_pipeline.storage import Store, open_store
from data_pipeline.storage.local import LocalStore
from data_pipeline.storage.types import check_key

MISSING = (errno.ENOENT, errno.ENOTDIR)
OF_THE_NAME = (errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True)
class Objects:
    """Images that are objects under a url; their names are the keys."""

    store: Store

    def read(self, name: str, offset: int, size: int) -> bytes:
        try:
            return self.store.get(name)
        except NotFound as error:
            if not _stands(self.store, name.rpartition("/")[0]):
                raise _away(f"{self.store.url}/{name}") from None
            raise NoImage(str(error)) from None


@dataclass(frozen=True)
class Archive:
    """Images that are members of a tar: `size` bytes from byte `offset` of it. A tar that is away or shorter is no matter of one image."""

    store: Store
    key: str

    def read(self, name: str, offset: int, size: int) -> bytes:
        return self.store.get_range(self.key, offset, size)


@dataclass(frozen=True)
class Memory:
    """Images that were made here; `offset` is the number of one."""

    images: list[bytes]

    def read(self, name: str, offset: int, size: int) -> bytes:
        return self.images[offset]


@dataclass
class Links:
    """Images that a table names: by path, relative to `base` (the folder or prefix of the table), or by an s3:// or http(s):// url."""

    base: Path | Store
    web: Web = field(default_factory=Web)
    _buckets: dict[str, Store] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, name: str, offset: int, size: int) -> bytes:
        if is_web(name):
            return self.web.get(name)
        if name.startswith("s3://"):
            parts = urlsplit(name)
            return _linked(self._bucket(f"s3://{parts.netloc}"), name.removeprefix(f"s3://{parts.netloc}/"))
        if "://" in name:
            raise NoImage("this kind of url is not known; use s3://, http://, https:// or a path")
        if isinstance(self.base, Path):
            return _file(self.base, name)
        return _linked(self.base, posixpath.normpath(name))

    def size(self, name: str) -> int:
        """Bytes of a local file that is there; else UNKNOWN."""
        if "://" in name or not isinstance(self.base, Path):
            return UNKNOWN
        try:
            return (self.base / name).stat().st_size
        except (OSError, ValueError):  # it is named when it is read
            return UNKNOWN

    def _bucket(self, url: str) -> Store:
        with self._lock:
            if url not in self._buckets:
                self._buckets[url] = open_store(url)
            return self._buckets[url]


def _linked(store: Store, key: str) -> bytes:
    """An object that a table names. A store that answers that it has none is there; a folder must still hold the table."""
    try:
        check_key(key)
    except StoreError as error:
        raise NoImage(str(error)) from None
    try:
        return store.get(key)
    except NotFound as error:
        if not store.remote and not _stands(store, ""):
            raise _away(f"{store.url}/{key}") from None
        raise NoImage(str(error)) from None


def _file(base: Path, name: str) -> bytes:
    """A file that a table in `base` names."""
    try:
        return (base / name).read_bytes()
    except ValueError as error:
        raise NoImage(str(error)) from None
    except OSError as error:
        if error.errno in OF_THE_NAME or (error.errno in MISSING and _stands(LocalStore(base), "")):
            raise NoImage(str(error.strerror)) from None
        if error.errno in MISSING:
            raise _away(name) from None
        kind = AccessDenied if isinstance(error, PermissionError) else Unavailable
        raise kind(f"cannot read {name}: {error.strerror}") from None


def _stands(store: Store, folder: str) -> bool:
    """Whether the folder is there and holds anything: a disk that was unmounted leaves an empty one."""
    if not isinstance(store, LocalStore):
        return next(store.list(f"{folder}/" if folder else ""), None) is not None
    try:
        with os.scandir(store.root / folder) as found:
            return next(found, None) is not None
    except OSError:
        return False


def _away(name: str) -> Unavailable:
    return Unavailable(
        f"there is no {name} any more, nor anything beside it: the source is away, or was moved; "
        "bring it back and run the same command again"
    )
