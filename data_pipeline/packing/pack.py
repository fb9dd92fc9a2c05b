"""Images to WebDataset shards with an index.

The chain: a source lists samples (`sources`: folders, label files, scikit-learn's digits) -> every image is
decoded once, broken ones are named -> split into train and val if asked, evenly over the classes -> shuffled,
because what lies together in a shard comes together in training -> written by webdataset's TarWriter with
fixed times and owners, so that the same source and seed give the same bytes -> uploaded shard by shard ->
index.json last: without it there is no data set.

Members of a sample: <key>.<image extension> and <key>.cls (the class number in decimal). Images are stored as
they are, unless `size` asks for smaller ones.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from data_pipeline.errors import BadDataset
from data_pipeline.packing.sources import Item, Source, open_source
from data_pipeline.shards.build import summarize
from data_pipeline.shards.format import INDEX, dump_index
from data_pipeline.shards.scan import ScannedShard, scan_shard
from data_pipeline.storage import ObjectInfo, Store, open_store
from data_pipeline.storage.local import LocalStore

A = TypeVar("A")
B = TypeVar("B")
Progress = Callable[[int, int], None]  # (done, total) images

SHARD_BYTES = 128 << 20
OVERHEAD_BYTES = 1792  # of a sample: two headers, the block of its label, half a block of padding
MTIME = 0
CHECKERS = 4
NAMED_BROKEN = 20
COPY_BYTES = 4 << 20


def pack(
    source: str | Path,
    dest: str,
    *,
    shard_bytes: int | None = None,
    seed: int = 0,
    size: int | None = None,
    val_share: float | None = None,
    classes: Sequence[str] | None = None,
    skip_broken: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Packs `source` into shards of about `shard_bytes` under `dest` and says what was written.

    source: `sklearn:digits`, a folder with one sub-folder per class, or a .csv / .jsonl of path and label.
    val_share: that part goes to dest/val, the rest to dest/train; without, all goes to dest itself. classes:
    names of the classes in the order of their numbers (so that train and val agree); else alphabetical. size:
    images whose short side is longer are scaled down to it (digits: the side they are scaled up to, 32).
    Returns {"sets": [{"url", "samples", "shards", "bytes", "digest", "classes"}], "skipped": [{"path",
    "why"}]}. Raises BadDataset naming the broken images (unless `skip_broken`), and where `dest` already
    holds shards (unless `overwrite`); StoreError from the store. `progress` is told (images done, images in
    all), twice per image.
    """
    found = open_source(source, size, classes)
    share = found.val_share if val_share is None else val_share
    if share is not None and not 0 < share < 1:
        raise BadDataset(f"val_share is {share}; a number between 0 and 1 is allowed")
    store = open_store(dest)
    places = [store] if share is None else [store.sub("train"), store.sub("val")]
    for place in places:
        _make_room(place, overwrite)
    tell = _Teller(progress, 2 * len(found.items))
    items, skipped = _check(found.items, skip_broken, tell)
    tell.total -= len(skipped)
    parts = [items] if share is None else split(items, share, seed)
    limit = shard_bytes or found.shard_bytes or SHARD_BYTES
    sets = []
    for number, (place, part) in enumerate(zip(places, parts, strict=True)):
        order = np.random.Generator(np.random.Philox(key=[seed, number])).permutation(len(part))
        name = "data" if share is None else place.url.rpartition("/")[2]
        sets.append(_write_set(place, name, [part[i] for i in order], found, limit, tell))
    return {"sets": sets, "skipped": [*found.ignored, *skipped]}


def split(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """(train, val). `share` of the items, rounded up, is val; every class gives its part."""
    labels = np.array([item.label for item in items])
    draw = np.random.Generator(np.random.Philox(key=[seed, 2**63])).permutation(len(items))
    wanted = int(np.ceil(len(items) * share))
    if not 0 < wanted < len(items):
        raise BadDataset(f"{len(items)} images cannot be split with val_share {share}: a part would be empty")
    names, counts = np.unique(labels, return_counts=True)
    quota = counts * (wanted / len(items))
    take = np.floor(quota).astype(int)
    take[np.argsort(take - quota, kind="stable")[: wanted - take.sum()]] += 1
    val = np.concatenate([draw[labels[draw] == name][:k] for name, k in zip(names, take, strict=True)])
    chosen = set(val.tolist())
    train = [item for i, item in enumerate(items) if i not in chosen]
    return train, [items[i] for i in sorted(chosen)]


def _make_room(store: Store, overwrite: bool) -> None:
    """Refuses a place that holds shards, or empties it, index first, so that no half of a set looks whole."""
    old = [
        info.key for info in store.list() if "/" not in info.key and info.key.endswith((".tar", ".tar.idx"))
    ]
    if store.head(INDEX) is not None:
        old.insert(0, INDEX)
    if old and not overwrite:
        raise BadDataset(f"{store.url} already holds {old[0]}; choose another place, or overwrite it")
    for key in old:
        store.delete(key)


def _check(
    items: Sequence[Item], skip_broken: bool, tell: _Teller
) -> tuple[list[Item], list[dict[str, str]]]:
    """The items that decode, and what is wrong with the others."""
    with ThreadPoolExecutor(CHECKERS) as pool:
        whys = []
        for why in _bounded_map(pool, Item.why_broken, items):
            whys.append(why)
            tell.one()
    broken = [{"path": item.path, "why": why} for item, why in zip(items, whys, strict=True) if why]
    if broken and not skip_broken:
        named = "; ".join(f"{one['path']}: {one['why']}" for one in broken[:NAMED_BROKEN])
        raise BadDataset(
            f"{len(broken)} of {len(items)} images do not decode: {named}; "
            "mend or remove them, or skip broken ones"
        )
    good = [item for item, why in zip(items, whys, strict=True) if not why]
    if not good:
        raise BadDataset("no image is left to pack")
    return good, broken


def _write_set(
    store: Store, name: str, items: Sequence[Item], source: Source, shard_bytes: int, tell: _Teller
) -> dict[str, Any]:
    """Writes shards, idx files and index of one set; items come in their final order."""
    total = sum(item.size + OVERHEAD_BYTES for item in items)
    shards = min(len(items), max(1, -(-total // shard_bytes)))
    cuts = [len(items) * n // shards for n in range(shards + 1)]
    scanned = []
    for n in range(shards):
        part = enumerate(items[cuts[n] : cuts[n + 1]], start=cuts[n])
        scanned.append(_write_shard(store, f"{name}-{n:06d}.tar", part, source, tell))
    index = summarize(scanned, source.classes)
    store.put(INDEX, dump_index(index))
    facts = {key: index[key] for key in ("samples", "bytes", "digest", "classes")}
    return {"url": store.url, "shards": shards} | facts


def _write_shard(
    store: Store, name: str, items: Iterator[tuple[int, Item]], source: Source, tell: _Teller
) -> ScannedShard:
    """One shard, by way of a local file, indexed there by the code that indexes other people's shards."""
    with tempfile.TemporaryDirectory(prefix="mixer-pack-") as folder:
        path = Path(folder, name)
        with path.open("wb") as file:
            _write_tar(file, items, source, tell)
        size = path.stat().st_size
        scanned = scan_shard(LocalStore(Path(folder)), ObjectInfo(name, size, "", 0.0))
        with path.open("rb") as file:
            store.put_stream(name, size, iter(lambda: file.read(COPY_BYTES), b""))
    info = store.head(name)
    if info is None or info.size != size:
        raise BadDataset(f"{store.url}/{name} was uploaded with {size} bytes and is not there so")
    store.put(scanned.shard.idx_name, scanned.idx)
    return scanned.with_etag(info.etag)


def _write_tar(file: IO[bytes], items: Iterator[tuple[int, Item]], source: Source, tell: _Teller) -> None:
    from webdataset import TarWriter  # imports torch

    def ready(numbered: tuple[int, Item]) -> tuple[int, str, bytes, int]:
        number, item = numbered
        return number, *item.image(source.size), item.label

    writer = TarWriter(file, encoder=False, mtime=MTIME)
    with ThreadPoolExecutor(CHECKERS) as pool:
        for number, ext, image, label in _bounded_map(pool, ready, items):
            writer.write({"__key__": f"{number:09d}", ext: image, "cls": b"%d" % label})
            tell.one()
    writer.close()


def _bounded_map(pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`work` of each item, in order, never more than a few ahead of what was taken."""
    rest = iter(items)
    ahead = deque(pool.submit(work, item) for item in islice(rest, 4 * CHECKERS))
    while ahead:
        done = ahead.popleft().result()
        ahead.extend(pool.submit(work, item) for item in islice(rest, 1))
        yield done


class _Teller:
    """Counts images for a progress display."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self.total, self._done = progress, total, 0

    def one(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self.total)
