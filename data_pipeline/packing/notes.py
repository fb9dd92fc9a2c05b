"""What a pack notes of each shard it finished: `pack/<shard>.json`, gone when the data set is there.

The order of writes is tar, note, idx. A shard counts as finished when all three are there and fit: the sizes of its images
are those of the plan, the tar has the size that the idx names, and the idx has as many samples as the note. What
a killed pack left otherwise is written again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from safetensors import SafetensorError

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.packing.images import Ready
from data_pipeline.packing.plan import PlannedShard
from data_pipeline.shards.format import IDX, Contents, SampleTable, Shard, idx_facts
from data_pipeline.shards.labels import LabelRule
from data_pipeline.shards.scan import ScannedShard
from data_pipeline.storage import ObjectInfo, Store

NOTES = "pack/"


@dataclass
class Note:
    """Facts of one shard's images, or of all. shapes: (width, height) as stored -> images; forms: format and mode as they came.

    broken: (number of the image in the listing, name, why). unsound: places in the shard of JPEGs that were decoded with a complaint.
    """

    sizes: str = ""
    samples: int = 0
    image_bytes: int = 0
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    resized: int = 0
    encoded: int = 0
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    unsound: list[int] = field(default_factory=list)

    def count(self, one: Ready) -> None:
        if not one.sound:
            self.unsound.append(self.samples)
        self.samples += 1
        self.image_bytes += len(one.data)
        self.shapes[one.width, one.height] += 1
        self.forms[one.form] += 1
        self.resized += one.resized
        self.encoded += one.encoded

    def add(self, other: Note) -> None:
        self.samples += other.samples
        self.image_bytes += other.image_bytes
        self.shapes += other.shapes
        self.forms += other.forms
        self.resized += other.resized
        self.encoded += other.encoded
        self.broken += other.broken

    def dump(self) -> bytes:
        shapes = [[*shape, count] for shape, count in sorted(self.shapes.items())]
        return json.dumps(
            asdict(self) | {"shapes": shapes, "forms": dict(sorted(self.forms.items()))}
        ).encode()

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Raises ValueError, KeyError or TypeError for what is no note."""
        facts: dict[str, Any] = json.loads(data)
        shapes = Counter({(width, height): count for width, height, count in facts["shapes"]})
        broken = [(number, name, why) for number, name, why in facts["broken"]]
        return cls(**facts | {"shapes": shapes, "forms": Counter(facts["forms"]), "broken": broken})


@dataclass
class Packed:
    """A finished shard; `scanned` is None where all its images are broken."""

    scanned: ScannedShard | None
    note: Note


def note_key(folder: str, shard: str) -> str:
    """Where, below the place of the whole pack, the note of a shard lies."""
    return f"{NOTES}{folder or 'data'}/{shard}.json"


def find_finished(
    place: Store, home: Store, folder: str, shard: PlannedShard, there: dict[str, ObjectInfo], rule: LabelRule
) -> Packed | None:
    """The shard, if an earlier pack finished it. `there` is what lies in `place`. BadDataset where its images have changed since."""
    tar, idx = there.get(shard.name), there.get(shard.name + IDX)
    try:
        note = Note.parse(home.get(note_key(folder, shard.name)))
        if note.samples and (tar is None or idx is None):
            return None
        scanned = (
            _scanned(tar, place.get(shard.name + IDX), note.samples, rule) if tar and note.samples else None
        )
    except (ValueError, KeyError, TypeError, SafetensorError, BadDataset, NotFound):
        return None
    if note.sizes != shard.sizes:
        raise BadDataset(
            f"{place.url}/{shard.name} is packed, and images of it have another size now; "
            "put the source back as it was, or begin again with `--overwrite`"
        )
    return Packed(scanned, note)


def _scanned(tar: ObjectInfo, idx: bytes, samples: int, rule: LabelRule) -> ScannedShard:
    """The shard as its scan was, from its idx. Raises ValueError, KeyError or BadDataset where they do not fit."""
    facts = idx_facts(idx)
    if facts["size"] != tar.size or facts["label"] != str(rule):
        raise ValueError("of another tar")
    contents = Contents.from_json(facts["contents"])
    shard = Shard(tar.key, tar.size, samples, tar.etag, facts["crc32c"], hashlib.sha256(idx).hexdigest())
    table = SampleTable.from_bytes(idx, shard)
    return ScannedShard(shard, table, idx, contents)
