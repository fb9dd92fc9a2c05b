"""The index of shards that are already there, from one pass over each.

The chain: list the tars, `scan` each (several at once), write the idx files, then index.json. Compressed tars
are refused: no range reaches into them. Shards are never changed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data_pipeline.errors import BadDataset
from data_pipeline.shards.format import INDEX, Contents, Shards, dump_index, index_json
from data_pipeline.shards.labels import LabelRule, Labels
from data_pipeline.shards.scan import ScannedShard, scan_shard
from data_pipeline.storage import ObjectInfo, Store, open_store

Progress = Callable[[int, int], None]  # (done, total) bytes

READERS = 4
COMPRESSED_NAME = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4|lzma|Z))$")


def build_index(
    url: str,
    progress: Progress | None = None,
    *,
    classes: Sequence[str] | None = None,
    label: str = "cls",
) -> dict[str, Any]:
    """Writes the index of the `*.tar` directly under `url` and returns it.

    `progress` is told (bytes read, bytes in all). Raises BadDataset naming shard, key and byte, and
    StoreError.
    """
    store, rule = open_store(url), LabelRule.parse(label)
    infos = shards_at(store)
    tell = ByteTeller(progress, sum(info.size for info in infos))
    with ThreadPoolExecutor(READERS) as pool:
        scanned = list(pool.map(lambda info: scan_shard(store, info, rule, tell.add), infos))
    for one in scanned:
        store.put(one.shard.idx_name, one.idx)
    index = summarize(scanned, classes, rule)
    store.put(INDEX, dump_index(index))
    return index


def summarize(
    scanned: Sequence[ScannedShard],
    classes: Sequence[str] | None,
    rule: LabelRule = LabelRule(),  # noqa: B008  (frozen)
) -> dict[str, Any]:
    """The content of index.json for scanned shards in order. Labels that are names become classes, in alphabetical order.

    Raises BadDataset for a label without class.
    """
    contents = Contents()
    for one in scanned:
        contents.add(one.contents)
    if classes is None and contents.names:
        classes = sorted(contents.names)
    shards = Shards.of(one.shard for one in scanned)
    span_bytes = sum(int(one.table.lengths.sum()) for one in scanned)
    return index_json(shards, contents, Labels(rule, classes), span_bytes=span_bytes, where={})


class ByteTeller:
    """Adds up the bytes of several readers for one progress display."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress:
                self._progress(self._done, self._total)


def shards_at(store: Store) -> list[ObjectInfo]:
    infos = list(store.list())
    packed = [info.key for info in infos if "/" not in info.key and COMPRESSED_NAME.search(info.key)]
    if packed:
        raise BadDataset(
            f"{store.url}/{packed[0]} is compressed ({len(packed)} such): unpack it; ranges need plain tar"
        )
    shards = [info for info in infos if "/" not in info.key and info.key.endswith(".tar")]
    if not shards:
        deeper = sorted({info.key.rpartition("/")[0] for info in infos if info.key.endswith(".tar")})
        hint = f"there are some under {', '.join(deeper[:3])}: index those" if deeper else "correct the url"
        raise BadDataset(f"there is no *.tar directly under {store.url}; {hint}")
    return shards
