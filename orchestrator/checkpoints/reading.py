"""Any part of a checkpoint, wherever its slices are: fetched in ranges, each slice proven by its CRC32C."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import google_crc32c
import numpy as np

from data_pipeline.storage import NotFound, Store
from data_pipeline.storage.types import FETCH_AGAIN_S
from orchestrator.checkpoints.manifest import Float32, Manifest, Slice
from orchestrator.errors import DamagedCheckpoint
from orchestrator.near.client import Source

RANGE_BYTES, READERS = 16 << 20, 8  # a range is still in the cache when its checksum is made


@dataclass(frozen=True)
class Want:
    """Elements `start`..`start+length` of `kind` of the flat parameter `param`."""

    param: str
    kind: str
    start: int
    length: int


Sink = Callable[[int, int, Float32], None]
Room = Callable[[Slice, list[int]], Float32]


def read(store: Source, path: str, manifest: Manifest, wants: list[Want], sink: Sink) -> int:
    """Hand every element of `wants` to `sink(number of the want, place in it, values)`; bytes fetched.

    Only slices that overlap a want are fetched, in ranges by a few threads, and each is proven by its CRC32C. `sink` is called
    from those threads, never twice for an element. DamagedCheckpoint names the slice that differs.
    """
    return _read(store, path, manifest, wants, sink, lambda item, _: np.empty(item.length, dtype="<f4"))


def fill(store: Source, path: str, manifest: Manifest, wants: list[Want], targets: Sequence[Float32]) -> int:
    """As `read`, into `targets`, one contiguous fp32 array for each want.

    A slice that lies whole in one want is read to its place in the target, without a copy between. So after an error a target may
    hold anything.
    """

    def room(item: Slice, hits: list[int]) -> Float32:
        want = wants[hits[0]]
        at = item.start - want.start
        if len(hits) == 1 and at >= 0 and at + item.length <= want.length:
            return targets[hits[0]][at : at + item.length]
        return np.empty(item.length, dtype="<f4")

    def sink(number: int, at: int, values: Float32) -> None:
        target = targets[number][at : at + len(values)]
        if target.ctypes.data != values.ctypes.data:
            target[:] = values

    return _read(store, path, manifest, wants, sink, room)


def _read(store: Source, path: str, manifest: Manifest, wants: list[Want], sink: Sink, room: Room) -> int:
    """`room` says where a slice's bytes go, which `sink` then hands on."""
    needed = list(_needed(path, manifest, wants))

    def fetch(group: list[tuple[Slice, list[int]]]) -> int:
        rooms = [room(item, hits) for item, hits in group]
        _read_proven(store, path, [item for item, _ in group], rooms)
        for (item, hits), values in zip(group, rooms, strict=True):
            for number in hits:
                start, end = _overlap(item, wants[number]) or (0, 0)
                sink(number, start - wants[number].start, values[start - item.start : end - item.start])
        return sum(values.nbytes for values in rooms)

    with ThreadPoolExecutor(READERS, thread_name_prefix="checkpoint") as pool:
        return sum(pool.map(fetch, _ranges(needed)))


def _needed(path: str, manifest: Manifest, wants: list[Want]) -> Iterator[tuple[Slice, list[int]]]:
    """The slices that hold something of `wants`, and the numbers of those. DamagedCheckpoint when they do not hold all of it."""
    users: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, want in enumerate(wants):
        users[want.param, want.kind].append(number)
    found = 0
    for item in manifest.slices:
        hits = [n for n in users.get((item.param, item.kind), ()) if _overlap(item, wants[n])]
        found += sum(_length(item, wants[n]) for n in hits)
        if hits:
            yield item, hits
    if found != sum(want.length for want in wants):
        missing = sorted({want.param for want in wants} - set(manifest.params))
        raise DamagedCheckpoint(
            f"{path}: does not hold every element asked for; unknown parameters: {missing[:3]}"
        )


def _read_proven(store: Source, path: str, items: list[Slice], rooms: list[Float32]) -> None:
    """Neighbouring slices into `rooms`; again when they arrive wrong. DamagedCheckpoint when they stay wrong or are gone."""
    first, bad = items[0], items[0]
    for pause in (0.0, *FETCH_AGAIN_S):
        time.sleep(pause)
        try:
            store.read_into(
                f"{path}/{first.file}", first.offset, [values.view("u1").data for values in rooms]
            )
        except NotFound:
            raise DamagedCheckpoint(f"{path}/{first.file} is gone from the store") from None
        wrong = [
            item
            for item, values in zip(items, rooms, strict=True)
            if google_crc32c.value(values.view("u1")) != item.crc32c
        ]
        if not wrong:
            return
        bad = wrong[0]
    raise DamagedCheckpoint(
        f"{path}/{bad.file}: {bad.kind} of {bad.param} from {bad.start} fails its CRC32C, {1 + len(FETCH_AGAIN_S)} times in a row"
    )


def _overlap(item: Slice, want: Want) -> tuple[int, int] | None:
    start, end = max(item.start, want.start), min(item.start + item.length, want.start + want.length)
    return (start, end) if start < end else None


def _length(item: Slice, want: Want) -> int:
    start, end = _overlap(item, want) or (0, 0)
    return end - start


def _ranges(needed: list[tuple[Slice, list[int]]]) -> Iterator[list[tuple[Slice, list[int]]]]:
    """Neighbours in one file, put together up to RANGE_BYTES."""
    group: list[tuple[Slice, list[int]]] = []
    for item, hits in sorted(needed, key=lambda pair: (pair[0].file, pair[0].offset)):
        if group:
            first, last = group[0][0], group[-1][0]
            joined = item.file == last.file and item.offset == last.offset + 4 * last.length
            if not joined or item.offset + 4 * item.length - first.offset > RANGE_BYTES:
                yield group
                group = []
        group.append((item, hits))
    if group:
        yield group


def read_weights(store: Store, path: str, manifest: Manifest, kind: str = "weight") -> dict[str, Float32]:
    """Every parameter, whole, in its shape: fp32 arrays by name."""
    whole = {name: np.empty(shape, dtype=np.float32) for name, shape in manifest.params.items()}
    wants = [Want(name, kind, 0, values.size) for name, values in whole.items()]
    fill(store, path, manifest, wants, [values.reshape(-1) for values in whole.values()])
    return whole


def verify(store: Store, path: str, manifest: Manifest) -> list[str]:
    """Read every byte of a checkpoint; what is wrong with it, one line each."""
    problems = []
    for name, facts in manifest.files.items():
        digest, size = hashlib.sha256(), int(facts["bytes"])
        for start in range(0, size, RANGE_BYTES):
            digest.update(store.get_range(f"{path}/{name}", start, min(RANGE_BYTES, size - start)))
        if digest.hexdigest() != facts["sha256"]:
            problems.append(f"{path}/{name}: SHA-256 differs from the manifest's")
    return problems
