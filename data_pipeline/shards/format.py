"""The index of a data set, as it lies beside the shards, or in a place of its own.

    index.json         what there is: shards in order (by columns), counts, labels, classes, digest
    <shard>.tar.idx    safetensors, 16 bytes per sample: offset u64[n], length u32[n], crc32c u32[n]; and, as
                       metadata, the facts of the shard that the root sums up

A sample's span runs from its first tar header through the padding of its last member; its CRC32C covers all
of that, so one ranged GET can be proven. The digest names what a run is trained on: shard names and sizes, the
SHA-256 of the idx files, and what labels mean. ETags stand in the index as a hint only; they change with a
copy, the digest does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from data_pipeline.errors import BadDataset
from data_pipeline.shards.fetch import Damaged
from data_pipeline.shards.labels import LabelRule, Labels

INDEX = "index.json"
IDX = ".idx"
VERSION = 2
IMAGE_EXTS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm")
MAX_SPAN_BYTES = 2**32 - 1
MAX_CLASSES = 1_000_000
_METADATA = "mixer"
_SEAL = "crc32c"
_LENGTH = 8  # bytes, little-endian, of a safetensors header's length


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar: key, bytes, samples, CRC32C of the whole file, and the SHA-256 of the idx file beside it."""

    name: str
    size: int
    samples: int
    etag: str
    crc32c: int
    idx_sha256: str

    @property
    def idx_name(self) -> str:
        return self.name + IDX


class Shards(Sequence[Shard]):
    """Shards in order, kept by columns: a data set may have hundreds of thousands."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns = {one.name: columns[one.name] for one in fields(Shard)}
        if len({len(column) for column in self._columns.values()}) > 1:
            raise ValueError("columns of different lengths")
        self.samples = np.array(self._columns["samples"], np.int64)
        self.firsts = np.concatenate([[0], np.cumsum(self.samples)]).astype(np.int64)

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> Shards:
        rows = list(shards)
        return cls({one.name: [getattr(row, one.name) for row in rows] for one in fields(Shard)})

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        return Shard(**{name: column[number] for name, column in self._columns.items()})

    def __iter__(self) -> Iterator[Shard]:
        return (self[n] for n in range(len(self)))

    @property
    def names(self) -> list[str]:
        return self._columns["name"]

    def to_json(self) -> dict[str, list[Any]]:
        return self._columns

    def identity(self) -> Iterator[str]:
        """What of each shard is part of the data set's digest."""
        c = self._columns
        return map(json.dumps, zip(c["name"], c["size"], c["samples"], c["idx_sha256"], strict=True))


@dataclass
class Contents:
    """What samples are made of: image extensions, labels (largest number, names, most of one sample), members skipped."""

    image_exts: set[str] = field(default_factory=set)
    max_label: int = -1
    names: set[str] = field(default_factory=set)
    labels_per_sample: int = 0
    skipped: int = 0

    def add(self, other: Contents) -> None:
        """Take in those of another shard. BadDataset when there are too many names."""
        self.image_exts |= other.image_exts
        self.max_label = max(self.max_label, other.max_label)
        self.names |= other.names
        self.labels_per_sample = max(self.labels_per_sample, other.labels_per_sample)
        self.skipped += other.skipped
        if len(self.names) > MAX_CLASSES:
            raise BadDataset(
                f"more than {MAX_CLASSES} different names are given as labels (one is {min(self.names)!r}); these are not classes"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"image_exts": sorted(self.image_exts), "names": sorted(self.names)}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Contents:
        return cls(**{**facts, "image_exts": set(facts["image_exts"]), "names": set(facts["names"])})


@dataclass(frozen=True, slots=True)
class SampleTable:
    """Where the n samples of a shard lie: offsets int64[n] and lengths uint32[n] in bytes, crcs uint32[n]."""

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.uint32]
    crcs: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.offsets.nbytes + self.lengths.nbytes + self.crcs.nbytes

    @property
    def crc32c(self) -> int:
        """Of its three columns; it stands among the facts, so that an idx file proves itself."""
        columns = self.offsets.tobytes() + self.lengths.tobytes() + self.crcs.tobytes()
        return int(google_crc32c.value(columns))

    def to_bytes(self, facts: dict[str, Any]) -> bytes:
        """The idx file, with `facts` of its shard."""
        arrays = {
            "offset": self.offsets.astype(np.uint64),
            "length": self.lengths.astype(np.uint32),
            "crc32c": self.crcs.astype(np.uint32),
        }
        return bytes(
            save(arrays, {_METADATA: json.dumps(facts | {"table_crc32c": self.crc32c}, sort_keys=True)})
        )

    @classmethod
    def from_bytes(cls, data: bytes, shard: Shard) -> SampleTable:
        """The table of `shard`, proven by its SHA-256 and checked against the shard. Raises BadDataset."""
        if hashlib.sha256(data).hexdigest() != shard.idx_sha256:
            raise Damaged(
                f"{shard.idx_name}: {len(data)} bytes that are not those the index names "
                f"(sha256 {shard.idx_sha256[:12]}...); run `mixer index` again"
            )
        try:
            arrays = load(data)
        except SafetensorError as error:
            raise BadDataset(f"{shard.idx_name}: {error}; run `mixer index` again") from None
        table = cls(arrays["offset"].astype(np.int64), arrays["length"], arrays["crc32c"])
        offsets, ends = table.offsets, table.offsets + table.lengths
        if len(table) != shard.samples or np.any(offsets[1:] < ends[:-1]) or np.any(ends > shard.size):
            raise BadDataset(f"{shard.idx_name}: its spans do not fit {shard.name}; run `mixer index` again")
        return table


def idx_facts(data: bytes) -> dict[str, Any]:
    """The facts that an idx file holds of its shard. ValueError, KeyError or TypeError where it is none."""
    facts: dict[str, Any] = json.loads(_header(data)["__metadata__"][_METADATA])
    return facts


def is_idx(data: bytes) -> bool:
    """Whether these are the bytes of an idx file, of this version or an earlier one."""
    try:
        return bool({"offset", "length", "crc32c"} <= _header(data).keys())
    except (ValueError, AttributeError):
        return False


def _header(data: bytes) -> Any:
    length = int.from_bytes(data[:_LENGTH], "little")
    return json.loads(data[_LENGTH : _LENGTH + length])


def digest(shards: Shards, labels: Labels) -> str:
    """SHA-256, in hex, over names, sizes, samples and idx hashes of the shards in order, and what labels mean."""
    found = hashlib.sha256(json.dumps([str(labels.rule), labels.classes and list(labels.classes)]).encode())
    for line in shards.identity():
        found.update(line.encode())
    return found.hexdigest()


def index_json(
    shards: Shards, contents: Contents, labels: Labels, *, span_bytes: int, given: bool, where: dict[str, Any]
) -> dict[str, Any]:
    """The content of index.json. `span_bytes` is the sum of all spans; `given`: the classes were, and are not the names that
    labels have; `where` says how the shards were named, and where they lie if that is not beside it.

    BadDataset for no samples at all, for labels that are numbers in one place and names in another, and for a label without class.
    """
    if not contents.labels_per_sample:
        raise BadDataset("the shards hold no sample")
    if contents.names and contents.max_label >= 0:
        raise BadDataset(
            f"labels ({labels.rule}) are numbers (the largest {contents.max_label}) and names (one is "
            f"{min(contents.names)!r}); they must be all one or all the other"
        )
    classes, known = labels.classes, set(labels.classes or ())
    if contents.names - known:
        raise BadDataset(f"there is a label {min(contents.names - known)!r}, which names no class")
    if classes is not None and contents.max_label >= len(classes):
        raise BadDataset(f"there is a label {contents.max_label}, but only {len(classes)} classes are named")
    return {
        "version": VERSION,
        "samples": int(shards.samples.sum()),
        "bytes": span_bytes,
        "label": str(labels.rule),
        "labels_per_sample": contents.labels_per_sample,
        "max_label": len(known) - 1 if contents.names else contents.max_label,
        "classes": list(classes) if classes is not None else None,
        "classes_given": given,
        "image_exts": sorted(contents.image_exts),
        "skipped": contents.skipped,
        **where,
        "digest": digest(shards, labels),
        "shards": shards.to_json(),
    }


def dump_index(index: dict[str, Any]) -> bytes:
    """The file: one key a line, and one column of the shards a line; at last the CRC32C of all that stands before it."""
    lines = [f"{json.dumps(key)}: {_value(value)}" for key, value in index.items() if key != _SEAL]
    body = ("{\n " + ",\n ".join(lines)).encode()
    return body + _seal(body)


def _seal(body: bytes) -> bytes:
    return b',\n "%s": "%08x"\n}\n' % (_SEAL.encode(), google_crc32c.value(body))


def _is_sealed(data: bytes) -> bool:
    body = data[: -len(_seal(b""))]
    return data == body + _seal(body)


def _value(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return "{\n  " + ",\n  ".join(f"{json.dumps(key)}: {_value(inner)}" for key, inner in value.items()) + "}"


def parse_index(data: bytes, where: str) -> tuple[dict[str, Any], Shards, Labels]:
    """The index, its shards and its labels. Raises BadDataset where it is not one, or does not add up; Damaged where bytes are wrong."""
    sealed = _is_sealed(data)
    try:
        index = json.loads(data)
        if not sealed and _SEAL in index:
            raise Damaged(f"{where} is a damaged index: its CRC32C is wrong; run `mixer index`")
        if index["version"] != VERSION:
            raise BadDataset(
                f"{where} has version {index['version']!r}; this code reads {VERSION}: run `mixer index` again"
            )
        if not sealed:
            raise Damaged(f"{where} is a damaged index: it was cut off or written by hand; run `mixer index`")
        shards = Shards(index["shards"])
        labels = Labels(LabelRule.parse(index["label"]), index["classes"])
        sums = int(shards.samples.sum()) == index["samples"] and digest(shards, labels) == index["digest"]
        complete = {"bytes", "labels_per_sample", "max_label", "image_exts", "classes_given"} <= index.keys()
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{where} is no index ({type(error).__name__}: {error}); run `mixer index`") from None
    if not sums or not complete:
        raise BadDataset(
            f"{where} does not add up: its digest, counts or fields are wrong; run `mixer index`"
        )
    return index, shards, labels
