"""What a step trains on, as a picture: exactly the pixels and labels that reach the model, and which samples they are.

    View (which step, which batch) -> the product's own loader, for the slots that are shown -> mixup as the engine applies it ->
    a sheet

The loader and the mixing are those of a worker, so the sheet shows what any worker of any world size would compute with. A spec is
frozen in memory as a run would be; nothing is written but the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_pipeline.loading.loader import MicroBatch
from data_pipeline.loading.targets import NONE
from data_pipeline.order import Order
from data_pipeline.shards.dataset import Dataset
from mixer_model.draws import mixup_lambda
from mixer_model.losses import mixed
from mixer_model.mixer import to_input, to_pixels
from orchestrator.digests import combine, slot_digest
from orchestrator.errors import UserError
from orchestrator.frozen import Frozen
from orchestrator.pages.sheet import Picture, Pixels, write_sheet
from orchestrator.training.data import open_dataset, slots_loader
from orchestrator.view import View

MOST_IMAGES = 64  # unless more are asked for


@dataclass(frozen=True)
class Cell:
    """One image as the model gets it, `weight` of sample `id` and the rest of sample `other`; equal ids where there is no mixup."""

    slot: int
    item: int
    id: int
    labels: tuple[int, ...]
    weight: float
    other: int
    other_labels: tuple[int, ...]
    pixels: Pixels

    @property
    def is_mixed(self) -> bool:
        return self.weight < 1

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "slot": self.slot,
            "item": self.item,
            "id": self.id,
            "labels": list(self.labels),
        }
        if self.is_mixed:
            found |= {"weight": self.weight, "other": self.other, "other_labels": list(self.other_labels)}
        return found


def look(
    seen: View,
    path: Path,
    *,
    slots: range | None = None,
    images: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write the sheet of `seen` to `path`; the facts it shows. UserError for slots or a number of images that a step has not.

    `slots` shows those whole, `images` the first so many; else the first MOST_IMAGES. `say` hears what is waited for.
    """
    slots, count = _shown(seen.frozen, slots, images)
    dataset = open_dataset(seen.frozen.spec.data.train, seen.frozen.train)
    micros = _load(seen, dataset, slots, say)
    cells = [cell for micro in micros for cell in _cells(seen.frozen, micro)][:count]
    digest = _digest(seen, micros)
    facts = {**_facts(seen, digest), "slots": [slots.start, slots.stop], "images": len(cells)}
    title = f"{seen.name}, step {seen.step} of {seen.frozen.steps}"
    pictures = [_picture(cell, dataset.classes) for cell in cells]
    group = seen.frozen.spec.train.micro_batch
    place = write_sheet(path, title, _header(seen, facts), pictures, group=group, note=json.dumps(facts))
    samples = [
        {**cell.facts(), "box": list(place.box(number))} for number, cell in enumerate(cells)
    ]  # where each lies in the file, in pixels
    return {"file": str(path), **facts, "scale": place.scale, "samples": samples}


def _shown(frozen: Frozen, slots: range | None, images: int | None) -> tuple[range, int]:
    """The slots to make, and how many of their images to show."""
    train, all_slots = frozen.spec.train, frozen.spec.train.micro_batches
    if slots is not None:
        if not 0 <= slots.start < slots.stop <= all_slots:
            raise UserError(
                f"--slots got {slots.start}:{slots.stop}; a step has slots 0:{all_slots}, the last one not included"
            )
        return slots, len(slots) * train.micro_batch
    count = min(train.global_batch, MOST_IMAGES) if images is None else images
    if not 1 <= count <= train.global_batch:
        raise UserError(f"--images got {count}; a step has 1 to {train.global_batch}")
    return range(math.ceil(count / train.micro_batch)), count


def _load(seen: View, dataset: Dataset, slots: range, say: Callable[[str], None]) -> list[MicroBatch]:
    """These slots of the step, as a worker gets them. How many samples are bad is not this command's business."""
    position = seen.batch * seen.frozen.spec.train.global_batch
    where = {"position": position, "prefetch": 1, "bad_share": 1.0}

    def late(facts: dict[str, Any]) -> None:
        say(f"waiting for {facts.get('object') or dataset.url} since {facts.get('seconds', 0):.0f} s")

    with slots_loader(seen.frozen, dataset, slots, **where, on_late=late) as loader:
        return next(loader).micro_batches


def _cells(frozen: Frozen, micro: MicroBatch) -> list[Cell]:
    """The images of a slot after mixup: what the engine makes of them in fp32, rounded to grey levels."""
    weight = mixup_lambda(frozen.spec.train.seed, int(micro.items[0]), frozen.spec.data.augment.mixup)
    pixels = to_pixels(mixed(to_input(micro.images), weight)).numpy()
    labels = [_labels(row) for row in micro.labels]
    other = [(j - 1 if weight < 1 else j) % len(labels) for j in range(len(labels))]
    return [
        Cell(
            slot=micro.slot,
            item=int(micro.items[j]),
            id=int(micro.ids[j]),
            labels=labels[j],
            weight=weight,
            other=int(micro.ids[other[j]]),
            other_labels=labels[other[j]],
            pixels=pixels[j],
        )
        for j in range(len(labels))
    ]


def _labels(row: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(label) for label in row.reshape(-1).tolist() if label != NONE)


def _digest(seen: View, micros: Sequence[MicroBatch]) -> str:
    """Of the ids of the whole step. Slots that are not shown are not decoded: they count with the order's ids, or what the run noted
    of its substitutes."""
    ids = Order(seen.frozen.geometry).sample_ids(seen.items.reshape(-1)).reshape(seen.items.shape)
    for item, substitute in seen.substitutes().items():
        ids[seen.items == item] = substitute
    for micro in micros:
        ids[micro.slot] = micro.ids
    return combine(slot_digest(row) for row in ids)


def _facts(seen: View, digest: str) -> dict[str, Any]:
    noted = combine(seen.noted[slot] for slot in sorted(seen.noted)) if seen.noted else None
    return {
        "run" if seen.book else "spec": seen.name,
        "step": seen.step,
        "batch": seen.batch,
        "epoch": seen.epochs[0],
        "last_epoch": seen.epochs[-1],
        "id_digest": digest,
        "history_digest": noted,
        "agrees": None if noted is None else noted == digest,
    }


# -- words ---------------------------------------------------------------------------------------------------------------------
def _header(seen: View, facts: dict[str, Any]) -> list[str]:
    train, first, last = seen.frozen.spec.train, int(seen.items.min()), int(seen.items.max())
    epochs = seen.epochs
    where = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
    shown = facts["images"]
    which = "all of them" if shown == train.global_batch else f"here {shown}, of {_range(facts['slots'])}"
    agrees = {
        None: "not trained on yet",
        True: "the run's history says the same",
        False: "the run trained on other ids: ",
    }
    says = agrees[facts["agrees"]] + (facts["history_digest"] if facts["agrees"] is False else "")
    return [
        f"batch {seen.batch}, {where}, items {first} to {last}: {train.global_batch} images in {len(seen.items)} slots of "
        f"{train.micro_batch}, {which}",
        f"sample digest {facts['id_digest']} ({says})",
        _recipe(seen.frozen),
    ]


def _range(slots: Sequence[int]) -> str:
    return f"slot {slots[0]}" if slots[1] - slots[0] == 1 else f"slots {slots[0]} to {slots[1] - 1}"


def _recipe(frozen: Frozen) -> str:
    data, size = frozen.spec.data, frozen.spec.model.image_size
    crop = (
        f"random crop of {data.scale[0]:g} to {data.scale[1]:g} of the area"
        if data.decode == "rrc"
        else "resized"
    )
    steps = [f"{size} x {size}", data.interpolation, crop, "mirrored at random" if data.flip else ""]
    if random := data.augment.randaugment:
        steps.append(f"RandAugment {random.ops} ops of magnitude {random.magnitude:g}")
    if data.augment.mixup:
        steps.append(f"mixup {data.augment.mixup:g} with the image before it in its slot")
    return ", ".join(step for step in steps if step)


def _picture(cell: Cell, classes: Sequence[str] | None) -> Picture:
    own, place = _names(cell.labels, classes), f"slot {cell.slot}, item {cell.item}"
    if not cell.is_mixed:
        return Picture(cell.pixels, [own, f"id {cell.id}", place])
    both = [f"{cell.weight:.3f} × {own}", f"{1 - cell.weight:.3f} × {_names(cell.other_labels, classes)}"]
    return Picture(cell.pixels, [*both, f"id {cell.id} + {cell.other}", place], strong=2)


def _names(labels: Sequence[int], classes: Sequence[str] | None) -> str:
    return ", ".join(classes[label] if classes else f"class {label}" for label in labels) or "no label"
