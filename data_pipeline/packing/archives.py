"""Tars as a source: what is in them, found by their headers. Nothing is unpacked.

    tar of class tars     ILSVRC2012_img_train.tar: each member n01440764.tar holds the images of one class
    tar of class folders  n01440764/x.JPEG: the folder an image is in is its class
    flat tar              images only, with a label file (ILSVRC2012_img_val.tar)

Class tars may also lie in a folder, one file each. Headers of several class tars are read at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from data_pipeline.errors import BadDataset
from data_pipeline.packing.web import shown
from data_pipeline.shards.format import IMAGE_EXTS
from data_pipeline.shards.headers import LINKS, REGULAR, SPARSE
from data_pipeline.shards.tars import Entry, entries
from data_pipeline.storage import Store
from data_pipeline.storage.local import LocalStore

REMOTE_WINDOW_BYTES, LOCAL_WINDOW_BYTES = 8 << 20, 4 << 10
LISTERS = 8


@dataclass(frozen=True, slots=True)
class Tar:
    """`size` bytes from byte `start` of an object: a whole one, or a tar inside a tar. `name` is its own."""

    store: Store
    key: str
    name: str
    start: int
    size: int

    @property
    def where(self) -> str:
        inner = f", {self.name}" if self.name != self.key else ""
        return f"{self.store.url}/{self.key}{inner}"

    def images(self) -> tuple[list[Entry], list[dict[str, str]]]:
        """(images by name, what is none and why)."""
        found, ignored = [], []
        for entry in self.entries():
            if is_image(entry.name):
                found.append(entry)
            else:
                ignored.append(
                    {"path": shown(f"{self.name}/{entry.name}"), "why": "not the name of an image"}
                )
        return sorted(found, key=lambda entry: entry.name), ignored

    def entries(self) -> Iterator[Entry]:
        """The files in it, with offsets in the object. BadDataset for links to files, and names that come twice."""
        seen: set[str] = set()
        for entry in entries(_Window(self)):
            if entry.kind in LINKS + SPARSE:
                raise BadDataset(
                    f"{self.where}: {entry.name!r} is a link or a sparse file; tar the files themselves"
                )
            if entry.kind not in REGULAR:
                continue
            if entry.name in seen:
                raise BadDataset(f"{self.where}: {entry.name!r} comes twice; names must be unique")
            seen.add(entry.name)
            yield Entry(entry.name, entry.kind, self.start + entry.offset, entry.size)

    def inside(self, entry: Entry) -> Tar:
        """The tar that is a member of this one."""
        return Tar(self.store, self.key, entry.name, entry.offset, entry.size)


@dataclass
class _Window:
    """A tar's bytes, read a window at a time: a header's worth where seeking is cheap, megabytes where a request is dear."""

    tar: Tar
    position: int = 0
    _first: int = 0
    _bytes: bytes = b""
    where: str = field(init=False)

    def __post_init__(self) -> None:
        self.where = self.tar.where

    @property
    def size(self) -> int:
        return self.tar.size

    def read(self, count: int) -> bytes:
        count = max(0, min(count, self.size - self.position))
        begin = self.position - self._first
        if not 0 <= begin <= begin + count <= len(self._bytes):
            local = isinstance(self.tar.store, LocalStore)
            window = max(count, LOCAL_WINDOW_BYTES if local else REMOTE_WINDOW_BYTES)
            length = min(window, self.size - self.position)
            self._bytes = self.tar.store.get_range(self.tar.key, self.tar.start + self.position, length)
            self._first, begin = self.position, 0
        self.position += count
        return self._bytes[begin : begin + count]


def is_image(name: str) -> bool:
    """By the name; hidden files are none."""
    path = PurePosixPath(name)
    return path.suffix.lower().lstrip(".") in IMAGE_EXTS and not path.name.startswith(".")


def is_tar(name: str) -> bool:
    return name.lower().endswith(".tar") and not PurePosixPath(name).name.startswith(".")


def class_name(name: str) -> str:
    """The class that a tar holds: its name without folder and `.tar`."""
    return PurePosixPath(name).name[: -len(".tar")]


def images_of(tars: Sequence[Tar]) -> Iterator[tuple[list[Entry], list[dict[str, str]]]]:
    """`images` of each, in order, several read at once."""
    with ThreadPoolExecutor(LISTERS) as pool:
        yield from pool.map(Tar.images, tars)
