"""Kinds of places that images are read from: objects of a store, members of a tar, links of a table, memory."""

from __future__ import annotations

import posixpath
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from data_pipeline.errors import BadDataset
from data_pipeline.packing.items import UNKNOWN
from data_pipeline.packing.web import Web, is_web
from data_pipeline.storage import Store, open_store


@dataclass(frozen=True)
class Objects:
    """Images that are objects under a url; their names are the keys."""

    store: Store

    def read(self, name: str, offset: int, size: int) -> bytes:
        return self.store.get(name)


@dataclass(frozen=True)
class Archive:
    """Images that are members of a tar: `size` bytes from byte `offset` of it."""

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
            return self._bucket(f"s3://{parts.netloc}").get(name.removeprefix(f"s3://{parts.netloc}/"))
        if "://" in name:
            raise BadDataset("this kind of url is not known; use s3://, http://, https:// or a path")
        if isinstance(self.base, Path):
            return (self.base / name).read_bytes()
        return self.base.get(posixpath.normpath(name))

    def size(self, name: str) -> int:
        """Bytes of a local file that is there; else UNKNOWN."""
        if "://" in name or not isinstance(self.base, Path):
            return UNKNOWN
        try:
            return (self.base / name).stat().st_size
        except OSError:  # it is named when it is read
            return UNKNOWN

    def _bucket(self, url: str) -> Store:
        with self._lock:
            if url not in self._buckets:
                self._buckets[url] = open_store(url)
            return self._buckets[url]
