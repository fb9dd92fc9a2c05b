"""What was packed, in numbers: per set and over all, as the command prints it and as `pack-summary.json` keeps it.

The file holds nothing that differs between two packs of the same source (no times, no places), so it is equal where the shards are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.packing.items import Items
from data_pipeline.packing.notes import Note, Packed
from data_pipeline.packing.plan import Numbers, PlannedSet

SUMMARY = "pack-summary.json"


def set_facts(
    planned: PlannedSet, packed: Sequence[Packed], items: Items, classes: Sequence[str] | None
) -> dict[str, Any]:
    """Facts of one set: images, sizes, formats, images per class, broken ones."""
    note = Note()
    for one in packed:
        note.add(one.note)
    good = np.setdiff1d(planned.order, np.array([number for number, _, _ in note.broken], np.int64))
    return {
        "image_bytes": note.image_bytes,
        "size": _shapes(note),
        "formats": dict(note.forms.most_common()),
        "resized": note.resized,
        "encoded": note.encoded,
        "broken": len(note.broken),
        "per_class": _per_class(items, good, classes),
    }


def dump_summary(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()


def _shapes(note: Note) -> dict[str, list[int]]:
    """Smallest and largest image (by area) and the medians of width and height, as stored; [width, height] in pixels."""
    shapes = sorted(note.shapes, key=lambda shape: (shape[0] * shape[1], shape))
    if not shapes:
        return {}
    counts = [note.shapes[shape] for shape in shapes]
    medians = [_median([shape[side] for shape in shapes], counts) for side in (0, 1)]
    return {"smallest": list(shapes[0]), "median": medians, "largest": list(shapes[-1])}


def _median(values: Sequence[int], counts: Sequence[int]) -> int:
    """The lower median of values that come `counts` times."""
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(np.array(counts)[order])
    return int(np.array(values)[order][np.searchsorted(ends, (ends[-1] + 1) // 2)])


def _per_class(items: Items, good: Numbers, classes: Sequence[str] | None) -> dict[str, int]:
    """Images per class, in the order of the numbers; of a class that is named but has none, 0."""
    counts = items.label_counts(good)
    if classes is None:
        return {str(number): count for number, count in counts.items()}
    return {name: counts.get(number, 0) for number, name in enumerate(classes)}
