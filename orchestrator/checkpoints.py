"""Checkpoints in the bucket: what a whole one is, how it becomes real, how any part of it is read, and which ones stay.

Ranks upload `checkpoints/<step>-<n>/rank-00003.safetensors` and a receipt `rank-00003.json` that names every slice in it; rank 0
puts the receipts together into `manifest.json`, written last with a conditional PUT; the driver's log entry makes it real. World
size and ZeRO stage appear nowhere: a slice is (parameter, kind, start, length) with its byte range and CRC32C. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from data_pipeline.storage import NotFound, Store, StoreError
from data_pipeline.storage.types import FETCH_AGAIN_S
from orchestrator.errors import DamagedCheckpoint, UserError
from orchestrator.near.client import Source
from orchestrator.run_log import Entry, RunLog, live_checkpoints

FORMAT = 1
KINDS = (
    "weight",
    "exp_avg",
    "exp_avg_sq",
)  # fp32 master weights and AdamW's two moments; another optimizer has others
RANGE_BYTES, READERS = 16 << 20, 8  # a range is still in the cache when its checksum is made
_FOLDER = re.compile(r"checkpoints/[0-9]{10}-([0-9]+)")
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Slice:
    """`length` fp32 elements of `kind` of the flat parameter `param` from `start`; its bytes lie at `offset` of `file`."""

    param: str
    kind: str
    start: int
    length: int
    file: str
    offset: int
    crc32c: int


@dataclass(frozen=True)
class Manifest:
    """A whole checkpoint. `params` maps names to shapes, `files` names to bytes and SHA-256; `position` counts items consumed.

    `kinds` is what it holds of every parameter.
    """

    step: int
    position: int
    attempt: int
    params: dict[str, list[int]]
    files: dict[str, dict[str, Any]]
    slices: list[Slice]
    state: dict[str, Any]
    kinds: Sequence[str] = KINDS

    def to_bytes(self) -> bytes:
        tree = {
            "format": FORMAT,
            **asdict(self),
            "slices": [list(asdict(item).values()) for item in self.slices],
        }
        if tuple(self.kinds) == KINDS:
            del tree["kinds"]  # as before there were others
        return json.dumps(tree).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """DamagedCheckpoint when these are not the bytes of a manifest."""
        try:
            tree = json.loads(data)
            if tree.pop("format") != FORMAT:
                raise UserError(
                    f"{where}: manifest of another format; use the version of mixer that wrote it"
                )
            return cls(**{**tree, "slices": [Slice(*item) for item in tree["slices"]]})
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{where}: manifest cannot be read: {error}") from None

    @property
    def bytes(self) -> int:
        """Bytes of all rank files."""
        return sum(int(facts["bytes"]) for facts in self.files.values())

    def check_cover(self) -> None:
        """DamagedCheckpoint unless the slices cover every element of every kind of every parameter exactly once."""
        held: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for item in self.slices:
            held[item.param, item.kind].append((item.start, item.length))
        for name, shape in self.params.items():
            for kind in self.kinds:
                end = 0
                for start, length in sorted(held.pop((name, kind), [])):
                    if start != end:
                        raise DamagedCheckpoint(
                            f"{kind} of {name}: elements {min(start, end)}..{max(start, end)} missing or twice"
                        )
                    end += length
                if end != int(np.prod(shape, dtype=np.int64)):
                    raise DamagedCheckpoint(f"{kind} of {name}: holds {end} elements, its shape is {shape}")
        if held:
            raise DamagedCheckpoint(f"slices of unknown parameters: {sorted(held)[:3]}")


def folder(step: int, attempt: int) -> str:
    """Where attempt `attempt` saves step `step`. No two attempts share a key."""
    return f"checkpoints/{step:010d}-{attempt}"


def rank_file(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank:05d}.safetensors"


def receipt(rank: int) -> str:
    """The name of a rank's receipt: its slices, written after its file."""
    return f"rank-{rank:05d}.json"


# -- reading ----------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Want:
    """Elements `start`..`start+length` of `kind` of the flat parameter `param`."""

    param: str
    kind: str
    start: int
    length: int


Sink = Callable[[int, int, Float32], None]
Room = Callable[[Slice, list[int]], Float32]


def load_manifest(store: Store, path: str, sha256: str | None = None) -> Manifest:
    """The manifest of the checkpoint at `path`. DamagedCheckpoint when it is not the one the log names."""
    try:
        data = store.get(f"{path}/manifest.json")
    except NotFound:
        raise DamagedCheckpoint(f"{path}/manifest.json is gone from the store") from None
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedCheckpoint(f"{path}/manifest.json is not the one that was committed (SHA-256 differs)")
    return Manifest.from_bytes(data, path)


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


# -- the driver's part ------------------------------------------------------------------------------------------------------
def whole_uncommitted(store: Store, entries: Iterable[Entry], attempt: int) -> list[str]:
    """Folders of `attempt` that have a manifest and are not named in the log yet, by step."""
    known = {entry.facts["path"] for entry in entries if entry.kind.startswith("checkpoint ")}
    names = (info.key.split("/") for info in store.list("checkpoints/"))
    paths = sorted({"/".join(parts[:2]) for parts in names if parts[-1] == "manifest.json"})
    return [path for path in paths if path.endswith(f"-{attempt}") and path not in known]


def commit(store: Store, log: RunLog, path: str) -> Entry:
    """Make the checkpoint at `path` real. Checks cover and file sizes first. Fenced when another driver leads."""
    data = store.get(f"{path}/manifest.json")
    manifest = Manifest.from_bytes(data, path)
    manifest.check_cover()
    for name, facts in manifest.files.items():
        info = store.head(f"{path}/{name}")
        if info is None or info.size != facts["bytes"]:
            raise DamagedCheckpoint(
                f"{path}/{name}: {info.size if info else 'no'} bytes in the store, {facts['bytes']} were written"
            )
    return log.append(
        "checkpoint committed",
        path=path,
        step=manifest.step,
        position=manifest.position,
        bytes=manifest.bytes,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def prune(store: Store, log: RunLog, keep: int) -> list[str]:
    """Delete all but the newest `keep` committed checkpoints; their paths. The log says so BEFORE the bytes go."""
    old = live_checkpoints(log.entries)[:-keep]
    for entry in old:
        log.append(
            "checkpoint deleted", path=entry.facts["path"], step=entry.facts["step"], why=f"keep: {keep}"
        )
        remove(store, entry.facts["path"])
    return [entry.facts["path"] for entry in old]


def collect_orphans(store: Store, entries: Sequence[Entry], below: int) -> list[str]:
    """Delete folders of attempts before `below` that the log does not hold as live: torn saves and half-done deletes.

    What those attempts had begun to write and not completed goes too, where the store lets us see it.
    """
    keep = {
        entry.facts["path"] for entry in entries if entry.kind == "checkpoint damaged"
    }  # for somebody to look at
    keep |= {entry.facts["path"] for entry in live_checkpoints(entries)}
    paths = {"/".join(info.key.split("/")[:2]) for info in store.list("checkpoints/")}

    def dead(path: str) -> bool:
        return (match := _FOLDER.fullmatch(path)) is not None and int(match[1]) < below

    orphans = sorted(path for path in paths - keep if dead(path))
    for path in orphans:
        remove(store, path)
    with suppress(StoreError):  # may need a right that a run does not need otherwise
        store.sweep("checkpoints", 0.0, dead)
    return orphans


def collect_starts(store: Store, kept: str | None) -> list[str]:
    """Delete copies of first weights other than the run's own: left by a start that was killed before there was a run."""
    paths = {"/".join(info.key.split("/")[:2]) for info in store.list("init/")}
    orphans = sorted(paths - {kept})
    for path in orphans:
        remove(store, path)
    return orphans


def remove(store: Store, path: str) -> None:
    """Delete a checkpoint's objects, the manifest first so that no reader takes the rest for whole."""
    store.delete(f"{path}/manifest.json")
    for info in list(store.list(f"{path}/")):
        store.delete(info.key)
