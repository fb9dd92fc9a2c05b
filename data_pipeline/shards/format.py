"""The index of a data set, as it lies beside the shards.

    index.json         what there is: shards in order, counts, classes, digest
    <shard>.tar.idx    safetensors, 16 bytes per sample: offset u64[n], length u32[n], crc32c u32[n]

A sample's span runs from its first tar header through the padding of its last member; its CRC32C covers all
of that, so one ranged GET can be proven. The digest names the data set's bytes: shard names and sizes, and
the SHA-256 of the idx files. ETags stand in the index as a hint only; they change with a copy, the digest
does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from data_pipeline.errors import BadDataset

INDEX = "index.json"
VERSION = 1
LABEL_EXT = "cls"
IMAGE_EXTS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm")
MAX_SPAN_BYTES = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar: key, bytes, samples, CRC32C of the whole file, and the idx file that tells its samples."""

    name: str
    size: int
    samples: int
    etag: str
    crc32c: int
    idx_name: str
    idx_size: int
    idx_sha256: str

    def to_json(self) -> dict[str, Any]:
        idx = {"name": self.idx_name, "size": self.idx_size, "sha256": self.idx_sha256}
        facts = {"name": self.name, "size": self.size, "samples": self.samples, "etag": self.etag}
        return facts | {"crc32c": self.crc32c, "idx": idx}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Shard:
        idx = facts["idx"]
        return cls(
            name=str(facts["name"]),
            size=int(facts["size"]),
            samples=int(facts["samples"]),
            etag=str(facts["etag"]),
            crc32c=int(facts["crc32c"]),
            idx_name=str(idx["name"]),
            idx_size=int(idx["size"]),
            idx_sha256=str(idx["sha256"]),
        )


@dataclass(frozen=True, slots=True)
class SampleTable:
    """Where the n samples of a shard lie: offsets int64[n] and lengths int64[n] in bytes, crcs uint32[n]."""

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    crcs: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.offsets)

    def to_bytes(self) -> bytes:
        arrays = {
            "offset": self.offsets.astype(np.uint64),
            "length": self.lengths.astype(np.uint32),
            "crc32c": self.crcs.astype(np.uint32),
        }
        return bytes(save(arrays))

    @classmethod
    def from_bytes(cls, data: bytes, shard: Shard) -> SampleTable:
        """The table of `shard`, proven by its SHA-256 and checked against the shard. Raises BadDataset."""
        if len(data) != shard.idx_size or hashlib.sha256(data).hexdigest() != shard.idx_sha256:
            raise BadDataset(
                f"{shard.idx_name}: {len(data)} bytes that are not those the index names "
                f"({shard.idx_size} bytes, sha256 {shard.idx_sha256[:12]}...); run `mixer index` again"
            )
        arrays = load(data)
        offsets, lengths = arrays["offset"].astype(np.int64), arrays["length"].astype(np.int64)
        table = cls(offsets, lengths, arrays["crc32c"])
        ends = offsets + lengths
        if len(table) != shard.samples or np.any(offsets[1:] < ends[:-1]) or np.any(ends > shard.size):
            raise BadDataset(f"{shard.idx_name}: its spans do not fit {shard.name}; run `mixer index` again")
        return table


def digest(shards: Sequence[Shard]) -> str:
    """SHA-256, in hex, over names, sizes and idx hashes of the shards in order."""
    facts = [[shard.name, shard.size, shard.idx_size, shard.idx_sha256] for shard in shards]
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


def index_json(
    shards: Sequence[Shard],
    *,
    span_bytes: int,
    classes: Sequence[str] | None,
    max_label: int,
    label_ext: str,
    image_exts: Sequence[str],
) -> dict[str, Any]:
    """The content of index.json. `span_bytes` is the sum of all spans."""
    return {
        "version": VERSION,
        "samples": sum(shard.samples for shard in shards),
        "bytes": span_bytes,
        "classes": list(classes) if classes is not None else None,
        "max_label": max_label,
        "label_ext": label_ext,
        "image_exts": sorted(image_exts),
        "shards": [shard.to_json() for shard in shards],
        "digest": digest(shards),
    }


def dump_index(index: dict[str, Any]) -> bytes:
    return json.dumps(index, indent=1, ensure_ascii=False).encode() + b"\n"


def parse_index(data: bytes, where: str) -> tuple[dict[str, Any], list[Shard]]:
    """The index and its shards. Raises BadDataset where it is not one, or does not add up."""
    try:
        index = json.loads(data)
        if index["version"] != VERSION:
            raise BadDataset(
                f"{where} has version {index['version']!r}; this code reads {VERSION}: index again"
            )
        shards = [Shard.from_json(facts) for facts in index["shards"]]
        sums = (
            sum(shard.samples for shard in shards) == index["samples"] and digest(shards) == index["digest"]
        )
        fields = {"bytes", "classes", "label_ext", "image_exts"} <= index.keys()
    except (ValueError, KeyError, TypeError) as error:
        raise BadDataset(
            f"{where} is no index ({type(error).__name__}: {error}); run `mixer index`"
        ) from None
    if not sums or not fields:
        raise BadDataset(
            f"{where} does not add up: its digest, counts or fields are wrong; run `mixer index`"
        )
    return index, shards
