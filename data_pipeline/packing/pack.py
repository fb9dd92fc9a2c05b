"""Images to WebDataset shards with an index.

The chain: a source lists the images and their labels (`sources`) -> a plan says which image goes into which shard: split
into train and val if asked, evenly over the classes, and mixed, because what lies together in a shard comes together
in training (`plan`) -> pack.json is written: a pack has begun (`place`) -> shards are made, several at once, every image decoded
whole on its way (`shards`), each one noted when it is finished (`notes`) -> contact sheet and summary -> index.json last,
without which there is no data set -> pack.json says that it is finished, and the notes go.

Killed at any moment, the same call goes on: what is finished stays, by its plan and its note. After the end it changes
nothing. Same source, options and seed: the same bytes, at any number of threads. Members of a sample:
<key>.<image extension>, and <key>.cls (the class number in decimal) or <key>.json (a list of them).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from data_pipeline.errors import BadDataset, StoreError
from data_pipeline.packing.apart import check_apart
from data_pipeline.packing.clearing import drop_notes
from data_pipeline.packing.finished import finished_facts
from data_pipeline.packing.images import Change, Encoding
from data_pipeline.packing.notes import NOTES, Packed
from data_pipeline.packing.place import Job, begin
from data_pipeline.packing.plan import PLAN, Options, Plan, PlannedSet
from data_pipeline.packing.shards import Packer, Progress
from data_pipeline.packing.sheet import SHEET, make_sheet
from data_pipeline.packing.sources import Labelling, Source, open_source
from data_pipeline.packing.summary import SUMMARY, dump_summary, set_facts
from data_pipeline.shards.build import summarize
from data_pipeline.shards.format import INDEX, dump_index
from data_pipeline.storage import Store, open_store

SHARD_BYTES = 128 << 20
MOST_UNSOUND = 10_000
NAMED_BROKEN = 20
MAX_SEED = 2**63 - 1
NO_SHEET = "none"


class BrokenImages(BadDataset):
    """Images that cannot be used: `broken` holds {"path", "why"} of each. The data set was not finished."""

    def __init__(self, broken: list[dict[str, str]], images: int) -> None:
        self.broken = broken
        named = "; ".join(f"{one['path']}: {one['why']}" for one in broken[:NAMED_BROKEN])
        more = f"; and {len(broken) - NAMED_BROKEN} more" if len(broken) > NAMED_BROKEN else ""
        super().__init__(
            f"{len(broken)} of {images} images cannot be used: {named}{more}; add `--skip-broken`, or mend them in place, and run the same "
            "command again: shards without broken images are finished and stay (do not delete the broken ones: that "
            "makes it another source)"
        )


@dataclass(frozen=True)
class _How:
    """What of a pack's options changes no byte."""

    skip_broken: bool
    threads: int
    progress: Progress | None


def pack(
    source: str | Path,
    dest: str,
    *,
    labels: str | None = None,
    labels_base: int | None = None,
    classes: Sequence[str] | None = None,
    shard_bytes: float | None = None,
    seed: int = 0,
    size: int | None = None,
    encode: str | None = None,
    val_share: float | None = None,
    threads: int | None = None,
    skip_broken: bool = False,
    overwrite: bool = False,
    sheet: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Packs `source` (see `sources`) into shards of about `shard_bytes` under `dest`, and says what was written.

    labels, labels_base: a file of labels, and the number its first class has. classes: names of the classes in the order
    of their numbers (so that train and val agree); else alphabetical. val_share: that part goes to dest/val, the rest
    to dest/train; without, all goes to dest itself. size: images whose short side is longer are scaled down to it
    (digits: the side they are scaled up to, 32). encode: `jpeg:90`, `webp:80`, `png`: every image is stored so.
    threads: as many images, and as many shards, at once. sheet: where the contact sheet goes, else dest; or `none`.

    A pack that was begun at `dest` with the same source and options goes on. Returns {"sets": [{"url", "samples",
    "shards", "bytes", "digest", "classes", "image_bytes", "size", "formats", "resized", "encoded", "broken",
    "per_class"}], "skipped": [{"path", "why"}], "remarks", "sheet", "seconds", "images_per_s"}. Raises BrokenImages
    naming the broken images (unless `skip_broken`); BadDataset for bad options, where `dest` already holds shards,
    or a pack that was begun otherwise (unless `overwrite`); StoreError. `progress` is told (images done, in all).
    """
    began = time.monotonic()
    encoding = Encoding.parse(encode) if encode else None
    home = open_store(dest)
    check_apart(str(source), [home])
    found = open_source(source, _checked_size(size), Labelling(labels, labels_base, classes))
    change = Change(None if found.sized else size, encoding)
    how = _How(skip_broken, _checked_threads(threads), progress)
    job = begin(
        home, str(source), found, _options(found, seed, val_share, shard_bytes, size, change), overwrite
    )
    facts = _finished_before(job) if job.finished else _make(job, change, how, sheet)
    seconds = time.monotonic() - began
    with suppress(StoreError):  # may need a right that a pack does not need otherwise
        home.sweep("", seconds, lambda folder: folder.strip("./") in _folders(job.plan))
    return facts | {"seconds": round(seconds, 3), "images_per_s": round(len(found.items) / seconds, 1)}


def _make(job: Job, change: Change, how: _How, sheet: str | None) -> dict[str, Any]:
    """All shards, then what stands beside them. Raises BrokenImages."""
    items, rule = job.source.items, job.source.rule
    packer = Packer(job.home, items, change, rule, how.skip_broken, how.threads, how.progress, len(items))
    packed = [packer.pack(planned) for planned in job.plan.sets]
    broken = [
        {"path": name, "why": why} for part in packed for one in part for _, name, why in one.note.broken
    ]
    broken.sort(key=lambda one: one["path"])
    if broken and not how.skip_broken:
        raise BrokenImages(broken, len(items))
    return _finish(job, packed, broken, sheet)


def _options(
    source: Source,
    seed: int,
    val_share: float | None,
    shard_bytes: float | None,
    size: int | None,
    change: Change,
) -> Options:
    if not 0 <= seed <= MAX_SEED:
        raise BadDataset(f"--seed is {seed}; 0 to {MAX_SEED} are allowed")
    if shard_bytes is not None and not 1 <= shard_bytes < math.inf:
        raise BadDataset(f"--shard-mb is {shard_bytes / 1e6:g}; a number above 0 is needed")
    share = source.val_share if val_share is None else val_share
    if share is not None and not 0 < share < 1:
        raise BadDataset(f"--val-share is {share}; a number between 0 and 1 is allowed")
    if share is not None:
        source.check_split()
    return Options(seed, share, int(shard_bytes or 0) or source.shard_bytes or SHARD_BYTES, size, change)


def _checked_size(size: int | None) -> int | None:
    if size is not None and size < 1:
        raise BadDataset(f"--size is {size}; 1 or more pixels are allowed")
    return size


def _checked_threads(threads: int | None) -> int:
    if threads is not None and threads < 1:
        raise BadDataset(f"--threads is {threads}; 1 or more are allowed")
    return threads or max(4, len(os.sched_getaffinity(0)))


def _finish(
    job: Job, packed: list[list[Packed]], broken: list[dict[str, str]], sheet: str | None
) -> dict[str, Any]:
    """Sheet, summary, the indexes, in that order; then what was noted on the way goes."""
    sets = list(zip(job.places, job.plan.sets, packed, strict=True))
    indexes = [_index(place, planned, part, job.source) for place, planned, part in sets]
    facts = {
        "source": job.plan.facts["source"],
        "options": job.plan.facts["options"],
        "sets": [
            {"name": planned.name, "shards": sum(one.scanned is not None for one in part)}
            | {key: index[key] for key in ("samples", "bytes", "digest", "label", "classes")}
            | set_facts(planned, part, job.source.items, index["classes"])
            for (_, planned, part), index in zip(sets, indexes, strict=True)
        ],
        "skipped": [*job.source.ignored, *broken],
        "remarks": job.source.remarks,
    }
    written = _write_sheet(job, packed[0], indexes[0]["classes"], sheet)
    job.home.put(SUMMARY, dump_summary(facts))
    for place, index in zip(job.places, indexes, strict=True):
        place.put(INDEX, dump_index(index))
    job.home.put(PLAN, job.plan.dump(finished=True))
    drop_notes(job.home)
    found = _with_urls(facts, job)
    return found | {"sheet": written, "remarks": [*found["remarks"], *job.remarks]}


def _finished_before(job: Job) -> dict[str, Any]:
    """The facts of a pack that is all there. BadDataset where it is not any more."""
    facts = _with_urls(finished_facts(job), job)
    drop_notes(job.home)  # it may have been killed while they were dropped
    facts["remarks"].append("it was packed before, from the same source and with the same options")
    return facts | {"sheet": f"{job.home.url}/{SHEET}" if job.home.head(SHEET) else None}


def _with_urls(facts: dict[str, Any], job: Job) -> dict[str, Any]:
    sets = [one | {"url": place.url} for one, place in zip(facts["sets"], job.places, strict=True)]
    return facts | {"sets": sets}


def _index(place: Store, planned: PlannedSet, packed: list[Packed], source: Source) -> dict[str, Any]:
    scanned = [one.scanned for one in packed if one.scanned is not None]
    if not scanned:
        raise BadDataset(f"no image is left to pack into {place.url}")
    return summarize(scanned, source.classes, source.rule) | _unsound(packed)


def _unsound(packed: list[Packed]) -> dict[str, Any]:
    """For the index: the samples that were decoded with a complaint, if they are few. All others need not be read to their end again."""
    firsts = accumulate((one.note.samples for one in packed), initial=0)
    found = [first + row for first, one in zip(firsts, packed, strict=False) for row in one.note.unsound]
    return {"unsound": found} if len(found) <= MOST_UNSOUND else {}


def _write_sheet(
    job: Job, packed: list[Packed], classes: Sequence[str] | None, sheet: str | None
) -> str | None:
    """Draws the contact sheet of the first set; where it is now."""
    if sheet == NO_SHEET:
        return None
    drawn = make_sheet(job.places[0], job.plan.sets[0], packed, job.source.items, classes, job.seed)
    store, key = job.home, SHEET
    if sheet is not None:
        folder, _, key = sheet.rpartition("/")
        store = open_store(folder or ("." if not sheet.startswith("/") else "/"))
    store.put(key, drawn)
    return f"{store.url}/{key}"


def _folders(plan: Plan) -> set[str]:
    """Where writes of this pack that were cut off may lie."""
    return {"", *(one.folder for one in plan.sets), *(f"{NOTES}{one.name}" for one in plan.sets)}
