"""What a pack will write, decided before anything is written: which image goes into which shard, at which place.

All of it follows from the listing, the options and the seed. `pack.json` keeps what it follows from: who comes back
after a kill goes on where the plan is the same, and is told what differs where it is not.

    pack.json   format, source, images, listing (SHA-256 over names and labels), sizes (SHA-256), classes (SHA-256),
                options, sets (name -> samples, shards); finished (true when the data set is there)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import BadDataset
from data_pipeline.packing.images import Change, Ready, ready
from data_pipeline.packing.items import Item, Items
from data_pipeline.packing.sources import Source

PLAN = "pack.json"
FORMAT = 1
FINISHED = "finished"
OVERHEAD_BYTES = 1792  # of a sample: two headers, the block of its label, half a block of padding
FOLDERS = {"data": "", "train": "train", "val": "val"}  # where each set goes, by its name
USUAL_BYTES = 110_000  # of an image of which nothing is known
SAMPLED = 32  # images whose stored size is tried out where it is not known
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """What of a pack's options decides about bytes."""

    seed: int
    val_share: float | None
    shard_bytes: int
    size: int | None
    change: Change

    def to_json(self) -> dict[str, Any]:
        encoding = self.change.encoding
        return {
            "seed": self.seed,
            "val_share": self.val_share,
            "shard_bytes": self.shard_bytes,
            "size": self.size,
            "encode": None if encoding is None else str(encoding),
        }


def shard_name(name: str, number: int) -> str:
    """What shard `number` of the set `name` is called."""
    return f"{name}-{number:06d}.tar"


@dataclass(frozen=True)
class PlannedShard:
    """One shard: `numbers` int64[n] are its images, in order; the first has the key `first`."""

    name: str
    first: int
    numbers: Numbers
    sizes: str  # SHA-256 over the sizes of the images, as they are now


@dataclass(frozen=True)
class PlannedSet:
    """One data set: `order` int64[n] are all its images; shard k takes those from cuts[k] to cuts[k + 1]."""

    folder: str
    order: Numbers
    cuts: list[int]
    sizes: Numbers

    @property
    def name(self) -> str:
        return self.folder or "data"

    def shards(self) -> Iterator[PlannedShard]:
        for n, (first, end) in enumerate(zip(self.cuts, self.cuts[1:], strict=False)):
            numbers = self.order[first:end]
            sizes = hashlib.sha256(self.sizes[numbers].tobytes()).hexdigest()
            yield PlannedShard(shard_name(self.name, n), first, numbers, sizes)


@dataclass(frozen=True)
class Plan:
    """The sets, and the facts they follow from."""

    facts: dict[str, Any]
    sets: list[PlannedSet]

    def dump(self, *, finished: bool = False) -> bytes:
        return (json.dumps(self.facts | ({FINISHED: True} if finished else {}), indent=1) + "\n").encode()

    def differences(self, then: Mapping[str, Any], *, sizes: bool) -> list[str]:
        """What differs from the plan that was begun; one line each. `sizes`: also those of images."""
        now, lines = self.facts, []
        if then.get("format") != FORMAT:
            return [f"its format is {then.get('format')!r}, not {FORMAT}"]
        if then.get("images") != now["images"]:
            lines.append(f"the source had {then.get('images')} images and has {now['images']}")
        elif then.get("listing") != now["listing"]:
            lines.append("the source has other names or labels")
        elif sizes and then.get("sizes") != now["sizes"]:
            lines.append("images have other sizes")
        if then.get("classes") != now["classes"]:
            lines.append("the classes have other names, or another order")
        for key, value in now["options"].items():
            if then.get("options", {}).get(key) != value:
                lines.append(f"{_option(key)} was {then.get('options', {}).get(key)} and is {value}")
        return lines


def make_plan(name: str, source: Source, options: Options, begun: Mapping[str, Any] | None) -> Plan:
    """The plan of a source; the number of shards is that of the plan that was `begun`, if there is one."""
    items = source.items
    parts = {"": np.arange(len(items))}
    if options.val_share is not None:
        train, val = split(items.first_labels, options.val_share, options.seed)
        parts = {"train": train, "val": val}
    sizes = items.sizes
    stored = sizes if begun else _stored_sizes(items, sizes, options)
    sets = []
    for number, (folder, part) in enumerate(parts.items()):
        mixed = np.random.Generator(np.random.Philox(key=[options.seed, number])).permutation(len(part))
        was = (begun or {}).get("sets", {}).get(folder or "data", {})
        total = int(stored[part].sum()) + OVERHEAD_BYTES * len(part)
        shards = was.get("shards") or min(len(part), max(1, -(-total // options.shard_bytes)))
        cuts = [len(part) * n // shards for n in range(shards + 1)]
        sets.append(PlannedSet(folder, part[mixed], cuts, sizes))
    facts = {
        "format": FORMAT,
        "source": name,
        "images": len(items),
        "listing": items.fingerprint(),
        "sizes": hashlib.sha256(sizes.tobytes()).hexdigest(),
        "classes": hashlib.sha256(json.dumps([str(source.rule), source.classes]).encode()).hexdigest(),
        "options": options.to_json(),
        "sets": {one.name: {"samples": len(one.order), "shards": len(one.cuts) - 1} for one in sets},
    }
    return Plan(facts, sets)


def split(labels: npt.NDArray[np.int32], share: float, seed: int) -> tuple[Numbers, Numbers]:
    """(train, val): numbers of images. `share` of them, rounded up, is val; every class gives its part."""
    count = len(labels)
    draw = np.random.Generator(np.random.Philox(key=[seed, 2**63])).permutation(count)
    wanted = int(np.ceil(count * share))
    if not 0 < wanted < count:
        raise BadDataset(f"{count} images cannot be split with `--val-share {share}`: a part would be empty")
    _, counts = np.unique(labels, return_counts=True)
    quota = counts * (wanted / count)
    take = np.floor(quota).astype(int)
    take[np.argsort(take - quota, kind="stable")[: wanted - take.sum()]] += 1
    by_class = draw[np.argsort(labels[draw], kind="stable")]
    rank = np.arange(count) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(count, bool)
    chosen[by_class[rank < np.repeat(take, counts)]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _stored_sizes(items: Items, sizes: Numbers, options: Options) -> Numbers:
    """About how many bytes each image takes in a shard: its own, or where those are not known or change, the mean of a few."""
    if options.change == Change() and (sizes >= 0).all():
        return sizes
    draw = np.random.Generator(np.random.Philox(key=[options.seed, 2**63 + 1]))
    tried = draw.choice(len(items), min(SAMPLED, len(items)), replace=False)
    found = [_stored_size(items[int(n)], options.change) for n in tried]
    known = [size for size in found if size]
    mean = sum(known) // len(known) if known else USUAL_BYTES
    return np.where((sizes < 0) | (options.change != Change()), mean, sizes)


def _stored_size(item: Item, change: Change) -> int:
    """0 where it is broken."""
    one = ready(item, change)
    return len(one.data) if isinstance(one, Ready) else 0


def _option(key: str) -> str:
    return "--" + key.replace("_", "-") if key != "shard_bytes" else "the size of shards"
