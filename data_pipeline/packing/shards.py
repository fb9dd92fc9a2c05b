"""The writing of shards, several at once, and the finding of those that are already there.

Each shard is made by one thread: its images are read, proven and encoded by a pool that all shards share, and come in
order; webdataset's TarWriter writes them with fixed times and owners into a file without a name (a killed pack leaves
nothing on this machine); the code that indexes other people's shards scans it; then tar, note and idx go to the store.

What a shard holds depends on the plan alone, so its bytes are the same at any number of threads. In memory are a few
images per shard in the making; on disk, one shard per thread.
"""

from __future__ import annotations

import io
import json
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO

from data_pipeline.errors import BadDataset
from data_pipeline.packing.images import Broken, Change, Ready, ready
from data_pipeline.packing.items import Items
from data_pipeline.packing.notes import Note, Packed, find_finished, note_key
from data_pipeline.packing.plan import PlannedSet, PlannedShard
from data_pipeline.packing.web import shown
from data_pipeline.shards.labels import JSON, LabelRule
from data_pipeline.shards.scan import ScannedShard, scan_shard
from data_pipeline.storage import ObjectInfo, Store
from data_pipeline.storage.local import LocalStore

Progress = Callable[[int, int], None]  # (done, total) images

MTIME = 0
AHEAD = 4  # images of a shard in the making that are prepared before their turn
COPY_BYTES = 4 << 20
OPEN_FILES = Path("/proc/self/fd")


class _Stopped(Exception):
    """Another shard failed."""


@dataclass
class Packer:
    """What all shards of a pack share. `home` is the place of the whole pack, `total` its images."""

    home: Store
    items: Items
    change: Change
    rule: LabelRule
    skip_broken: bool
    threads: int
    progress: Progress | None
    total: int
    _done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    def pack(self, planned: PlannedSet) -> list[Packed]:
        """Every shard of a set, in order: found finished, or made. Without `skip_broken` one with broken images is not written.

        Raises BadDataset where a finished shard's images have changed; StoreError; the first error of any thread.
        """
        place = self.home.sub(planned.folder) if planned.folder else self.home
        there = {info.key: info for info in place.list(f"{planned.name}-")}
        with ThreadPoolExecutor(self.threads) as images, ThreadPoolExecutor(self.threads) as shards:
            made = [
                shards.submit(self._shard, place, planned.folder, one, there, images)
                for one in planned.shards()
            ]
            try:
                return _results(made)
            except BaseException:
                self._stop.set()
                shards.shutdown(wait=False, cancel_futures=True)
                images.shutdown(wait=False, cancel_futures=True)
                raise

    def _shard(
        self,
        place: Store,
        folder: str,
        shard: PlannedShard,
        there: dict[str, ObjectInfo],
        pool: ThreadPoolExecutor,
    ) -> Packed:
        found = find_finished(place, self.home, folder, shard, there, self.rule)
        if found is not None:
            self._tell(len(shard.numbers))
            return found
        with tempfile.TemporaryFile(prefix="mixer-pack-") as file:
            note = self._write_tar(file, shard, pool)
            if note.broken and not self.skip_broken:
                return Packed(None, note)
            scanned = _upload(file, place, shard.name, self.rule) if note.samples else None
        self.home.put(note_key(folder, shard.name), note.dump())
        if scanned is None:
            return Packed(None, note)
        place.put(scanned.shard.idx_name, scanned.idx)
        return Packed(replace(scanned, idx=b""), note)

    def _write_tar(self, file: IO[bytes], shard: PlannedShard, pool: ThreadPoolExecutor) -> Note:
        """Once an image is broken and that is not to be skipped, the rest is only proven."""
        from webdataset import TarWriter  # imports torch

        note = Note(shard.sizes)
        with TarWriter(file, encoder=False, mtime=MTIME) as writer:
            for key, (number, one) in enumerate(self._in_order(shard, pool), start=shard.first):
                if isinstance(one, Broken):
                    note.broken.append((number, shown(self.items[number].name), one.why))
                elif not note.broken or self.skip_broken:
                    note.count(one)
                    label = self._label(self.items[number].labels)
                    writer.write({"__key__": f"{key:09d}", one.ext: one.data, self.rule.ext: label})
                self._tell(1)
        return note

    def _in_order(
        self, shard: PlannedShard, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, Ready | Broken]]:
        """(number in the listing, the image) in order, a few prepared ahead."""
        rest = iter(shard.numbers.tolist())
        ahead: deque[tuple[int, Future[Ready | Broken]]] = deque()
        while True:
            for number in islice(rest, AHEAD - len(ahead)):
                ahead.append((number, pool.submit(self._ready, number)))
            if not ahead:
                return
            number, future = ahead.popleft()
            yield number, future.result()

    def _ready(self, number: int) -> Ready | Broken:
        if self._stop.is_set():
            raise _Stopped
        return ready(self.items[number], self.change)

    def _label(self, labels: tuple[int, ...]) -> bytes:
        return json.dumps(labels).encode() if self.rule.ext == JSON else b"%d" % labels[0]

    def _tell(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self.progress:
                self.progress(self._done, self.total)


def _results(made: list[Future[Packed]]) -> list[Packed]:
    """All results; the first error as soon as there is one."""
    wait(made, return_when=FIRST_EXCEPTION)
    failed = [future.exception() for future in made if future.done() and future.exception()]
    for error in failed:
        if error is not None and not isinstance(error, _Stopped):
            raise error
    return [future.result() for future in made]


def _upload(file: IO[bytes], place: Store, name: str, rule: LabelRule) -> ScannedShard:
    """The tar, scanned on this machine and put into the store."""
    file.flush()
    size = file.seek(0, io.SEEK_END)
    info = ObjectInfo(str(file.fileno()), size, "", 0.0)
    scanned = scan_shard(LocalStore(OPEN_FILES), info, rule)
    file.seek(0)
    place.put_stream(name, size, iter(lambda: file.read(COPY_BYTES), b""))
    stored = place.head(name)
    if stored is None or stored.size != size:
        raise BadDataset(f"{place.url}/{name} was uploaded with {size} bytes and is not there so")
    return replace(scanned, shard=replace(scanned.shard, name=name, etag=stored.etag))
