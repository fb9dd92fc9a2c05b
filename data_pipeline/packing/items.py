"""The images that a source lists: names, labels, sizes, and where the bytes are. Kept by columns: there may be tens of millions.

`Items` holds about 40 bytes an image and its name; an `Item` is made when it is asked for. Bytes are read from an
`Origin` when the image is packed, not before.
"""

from __future__ import annotations

import hashlib
import posixpath
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import DataError

UNKNOWN = -1  # the size of what was not asked for it


class NoImage(DataError):
    """There are no bytes of this one image, while the rest of its source is there; the message says why."""


class Origin(Protocol):
    """Where bytes of images come from. Safe to use from several threads."""

    def read(self, name: str, offset: int, size: int) -> bytes:
        """The bytes of one image. Raises NoImage; any other error is about the source, and says nothing of the image."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its name, its class numbers (one or more), its bytes (or UNKNOWN), and where in `origin` it is."""

    name: str
    labels: tuple[int, ...]
    size: int
    origin: Origin
    offset: int

    @property
    def ext(self) -> str:
        return PurePosixPath(self.name.partition("?")[0]).suffix.lower().lstrip(".")

    def read(self) -> bytes:
        return self.origin.read(self.name, self.offset, self.size)


class Items(Sequence[Item]):
    """Images in the order of their listing."""

    def __init__(self) -> None:
        self._origins: list[Origin] = []
        self._names, self._name_ends = bytearray(), array("q", [0])
        self._labels, self._label_ends = array("i"), array("q", [0])
        self._places = array("i")
        self._offsets, self._sizes = array("q"), array("q")

    def origin(self, origin: Origin) -> int:
        """The number by which `add` knows this origin."""
        self._origins.append(origin)
        return len(self._origins) - 1

    def add(self, name: str, labels: Sequence[int], size: int, origin: int, offset: int = 0) -> None:
        self._names += name.encode("utf-8", "surrogateescape")
        self._name_ends.append(len(self._names))
        self._labels.extend(labels)
        self._label_ends.append(len(self._labels))
        self._places.append(origin)
        self._offsets.append(offset)
        self._sizes.append(size)

    def __len__(self) -> int:
        return len(self._sizes)

    def _name(self, number: int) -> str:
        name = self._names[self._name_ends[number] : self._name_ends[number + 1]]
        return name.decode("utf-8", "surrogateescape")

    def __getitem__(self, number: Any) -> Any:
        labels = self._labels[self._label_ends[number] : self._label_ends[number + 1]]
        origin = self._origins[self._places[number]]
        return Item(self._name(number), tuple(labels), self._sizes[number], origin, self._offsets[number])

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.array(self._sizes, np.int64)

    @property
    def first_labels(self) -> npt.NDArray[np.int32]:
        """The first class number of every image."""
        return np.array(self._labels, np.int32)[np.array(self._label_ends[:-1], np.int64)]

    def label_counts(self, numbers: npt.NDArray[np.int64]) -> dict[int, int]:
        """How many of these images have each class number; every label of an image counts."""
        ends = np.array(self._label_ends, np.int64)
        chosen = np.zeros(len(self), bool)
        chosen[numbers] = True
        labels = np.array(self._labels, np.int32)[np.repeat(chosen, np.diff(ends))]
        found, counts = np.unique(labels, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))

    def repeated(self) -> dict[str, list[int]]:
        """Names that come more than once, with the numbers of their images. Of a path every way to write it counts."""
        hashes = np.fromiter((hash(_plain(self._name(n))) for n in range(len(self))), np.int64)
        _, places, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        found: dict[str, list[int]] = {}
        for number in np.flatnonzero(counts[places] > 1).tolist():
            found.setdefault(_plain(self._name(number)), []).append(number)
        return {name: numbers for name, numbers in found.items() if len(numbers) > 1}

    def fingerprint(self) -> str:
        """SHA-256, in hex, over names and labels in order."""
        columns = (self._names, self._name_ends, self._labels, self._label_ends)
        return hashlib.sha256(b"".join(hashlib.sha256(column).digest() for column in columns)).hexdigest()

    def relabel(self, numbers: Sequence[int]) -> None:
        """Label n becomes numbers[n]."""
        self._labels = array("i", np.array(numbers, np.int32)[np.array(self._labels, np.int64)].tobytes())


def _plain(name: str) -> str:
    return name if "://" in name or not ("./" in name or "//" in name) else posixpath.normpath(name)
