"""The index of shards that are already there, from one pass over each.

The chain: `Place` finds the shards; `guess_rule` finds out where labels stand, if nobody said; what an earlier
indexing left is used (`known`); the others are scanned, several at once, and the idx file of each is
written as soon as it is read; index.json comes last. So a reader never sees half an index, a killed indexing
goes on where it was, and one of a data set that has grown reads what is new.

Shards are never changed. Several that cannot be used are named together, with what can be done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.shards.fetch import PLAN, pack_is_unfinished
from data_pipeline.shards.format import INDEX, SampleTable, Shard, dump_index
from data_pipeline.shards.guess import guess_rule
from data_pipeline.shards.known import Entry, Known, OldIndex, old_index
from data_pipeline.shards.labels import LabelRule
from data_pipeline.shards.places import Place
from data_pipeline.shards.scan import (
    Incomplete,
    ScannedShard,
    first_key,
    first_sample,
    key_of_span,
    scan_shard,
)
from data_pipeline.shards.sums import Sums
from data_pipeline.shards.threads import in_order
from data_pipeline.storage import ObjectInfo, Store, open_store

THREADS = 16  # reading waits for the store, writing for the disk; one core scans more than a network brings
LOOKED_AT = 16  # of the shards that an index would lose
MAX_BAD = 20  # shards that cannot be used, before the others are not looked at any more


class Done(NamedTuple):
    """How far a pass over shards has come."""

    bytes: int
    all_bytes: int
    shards: int
    all_shards: int


Progress = Callable[[Done], None]


@dataclass(frozen=True)
class Indexed:
    """What indexing came to: the content of index.json at `url`, shards by what was done with them, how the rule was found."""

    url: str
    index: dict[str, Any]
    kept: int
    read: int
    dropped: list[str]
    rule_from: str
    old_digest: str | None

    def to_json(self) -> dict[str, Any]:
        """All but the columns of the shards."""
        index = self.index | {"shards": self.kept + self.read}
        facts = {"url": self.url, "kept": self.kept, "read": self.read, "dropped": len(self.dropped)}
        return facts | {"label_from": self.rule_from, "old_digest": self.old_digest} | index


def build_index(url: str, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """As `index_shards`, of one url; returns the content of index.json."""
    return index_shards([url], progress, **options).index


def index_shards(
    urls: Sequence[str],
    progress: Progress | None = None,
    *,
    out: str | None = None,
    label: str | None = None,
    classes: Sequence[str] | None = None,
    threads: int = THREADS,
) -> Indexed:
    """Writes the index of the shards that `urls` name (folders, braces, globs) beside them, or at `out`.

    label: the rule; else that of the index that is there, else what the first sample shows. classes: their
    names in the order of their numbers; else those the index that is there was given, else, where labels are
    names, those. Raises BadDataset naming shard, key and byte, and StoreError.
    """
    place = Place.of(urls)
    _check_no_pack(place.store)
    target = open_store(out) if out else place.store
    beside = target.url == place.store.url
    base = None if beside else place.store.url
    old = old_index(target, base)
    infos = place.shards()
    dropped = _dropped(old, infos, place.store)
    rule, rule_from = _rule(label, old, place.store, infos[0])
    if classes is None and old and old.labels.rule == rule:
        classes = old.given_classes
    known = Known(target, place.store, place.prefixes(), rule, old)
    sums = Sums(rule, classes)
    read = _Builder(place.store, target, known, sums).run(infos, progress, threads)
    where: dict[str, Any] = {"patterns": list(place.patterns)} | ({} if base is None else {"base": base})
    index = sums.index(where)
    target.put(INDEX, dump_index(index))
    digest = old.facts["digest"] if old else None
    return Indexed(target.url, index, len(infos) - read, read, dropped, rule_from, digest)


def summarize(
    scanned: Sequence[ScannedShard],
    classes: Sequence[str] | None,
    rule: LabelRule = LabelRule(),  # noqa: B008  (frozen)
) -> dict[str, Any]:
    """The content of index.json for scanned shards in order. Raises BadDataset for a label without class.

    Who has too many shards to hold their tables adds them to a `Sums` one by one.
    """
    sums = Sums(rule, classes)
    for one in scanned:
        sums.add(one.shard, one.contents, one.span_bytes)
    return sums.index({})


def _check_no_pack(store: Store) -> None:
    """BadDataset where a pack was begun and did not end: half of a data set must not look whole."""
    if pack_is_unfinished(store):
        raise BadDataset(
            f"a pack was begun at {store.url} and did not end: run the same `mixer pack` again; to index what it has "
            f"written all the same, remove {PLAN}"
        )


def _dropped(old: OldIndex | None, infos: Sequence[ObjectInfo], store: Store) -> list[str]:
    """Shards of the old index that are none any more. BadDataset where they are still there: it is the index of another set."""
    now = {info.key for info in infos}
    dropped = [name for name in old.shards.names if name not in now] if old else []
    for name in dropped[:LOOKED_AT]:
        if store.head(name) is not None:
            raise BadDataset(
                f"the index that is there names {len(dropped)} shards that these urls leave out, as {name}, which is "
                f"still there; put this index elsewhere (--out URL), or remove that {INDEX} first"
            )
    return dropped


def _rule(label: str | None, old: OldIndex | None, store: Store, first: ObjectInfo) -> tuple[LabelRule, str]:
    """The rule, and where it is from."""
    if label is not None:
        return LabelRule.parse(label), "as given"
    if old is not None:
        return old.labels.rule, "as in the index that was there"
    return guess_rule(first_sample(store, first), f"{store.url}/{first.key}"), "as the first sample shows"


class _Builder:
    """One pass over the shards at `base`, into idx files at `out` and into `sums`."""

    def __init__(self, base: Store, out: Store, known: Known, sums: Sums) -> None:
        self._base, self._out, self._known, self._sums = base, out, known, sums

    def run(self, infos: Sequence[ObjectInfo], progress: Progress | None, threads: int) -> int:
        """How many shards were read. BadDataset that names those that cannot be used."""
        tell = Teller(progress, sum(info.size for info in infos), len(infos))
        read, bad = 0, list[str]()
        for number, entry in enumerate(in_order(threads, lambda info: self._tried(info, tell), infos)):
            if isinstance(entry, BadDataset):
                bad.append(self._explained(entry, infos, number))
                if len(bad) == MAX_BAD:
                    break
            elif not bad:
                self._sums.add(entry.shard, entry.contents, entry.span_bytes)
                read += entry.read
        if bad:
            raise BadDataset(_together(bad))
        return read

    def _tried(self, info: ObjectInfo, tell: Teller) -> Entry | BadDataset:
        counted = 0

        def count(some: int) -> None:
            nonlocal counted
            counted += some
            tell.add(some)

        try:
            return self._known.entry(info) or self._read(info, count)
        except BadDataset as error:
            return error
        finally:
            tell.shard(info.size - counted)

    def _read(self, info: ObjectInfo, count: Callable[[int], None]) -> Entry:
        scanned = scan_shard(self._base, info, self._sums.rule, count, self._sums.classes)
        now = self._base.head(info.key)
        if now is None or (now.size, now.etag) != (info.size, info.etag):
            raise BadDataset(f"{self._base.url}/{info.key} was changed while it was read; index again")
        self._out.put(scanned.shard.idx_name, scanned.idx)
        return Entry(scanned.shard, scanned.contents, scanned.span_bytes, read=True)

    def _explained(self, error: BadDataset, infos: Sequence[ObjectInfo], number: int) -> str:
        """The message; where the rest of an incomplete sample is in a neighbour, it says so."""
        if isinstance(error, Incomplete):
            for beside in self._neighbours(error, infos, number):
                return (
                    f"{error}. The sample is split: {beside} holds members of {error.key!r} too; write the shards "
                    "again, each sample whole in one"
                )
        return str(error)

    def _neighbours(self, error: Incomplete, infos: Sequence[ObjectInfo], number: int) -> Iterator[str]:
        """The shards beside this one that hold members of its incomplete sample, as far as those can be read."""
        done = self._sums.shards
        with suppress(BadDataset, NotFound):
            following = infos[number + 1 : number + 2] if error.last else []
            yield from (info.key for info in following if first_key(self._base, info) == error.key)
            before = done[-1:] if error.first and number == len(done) else []
            yield from (shard.name for shard in before if self._last_key(shard) == error.key)

    def _last_key(self, shard: Shard) -> str | None:
        table = SampleTable.from_bytes(self._out.get(shard.idx_name), shard)
        if not len(table):
            return None
        return key_of_span(self._base.get_range(shard.name, int(table.offsets[-1]), int(table.lengths[-1])))


def _together(bad: Sequence[str]) -> str:
    if len(bad) == 1:
        return bad[0]
    least = "at least " if len(bad) == MAX_BAD else ""
    return f"{least}{len(bad)} shards cannot be used:\n" + "\n".join(bad)


class Teller:
    """Adds up bytes and shards of several readers for one progress display."""

    def __init__(self, progress: Progress | None, all_bytes: int, all_shards: int) -> None:
        self._progress, self._done = progress, Done(0, all_bytes, 0, all_shards)
        self._lock = threading.Lock()

    def add(self, count: int, shards: int = 0) -> None:
        with self._lock:
            done = self._done
            self._done = done._replace(bytes=done.bytes + count, shards=done.shards + shards)
            if self._progress:
                self._progress(self._done)

    def shard(self, unread: int = 0) -> None:
        """A shard is done, `unread` bytes of it without reading."""
        self.add(unread, 1)
