"""A rank's share of the data: its loader for training, its batches for evaluation, from the frozen spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from data_pipeline.loading.cache import BlockCache
from data_pipeline.loading.eval_loader import EvalLoader
from data_pipeline.loading.loader import Loader
from data_pipeline.order import Order, owned_slots
from data_pipeline.pixels.augment import Recipe
from data_pipeline.shards.dataset import Dataset
from orchestrator.errors import WrongData
from orchestrator.frozen import DataFacts, Frozen
from orchestrator.training.engine import Place
from orchestrator.training.events import Events


def open_dataset(url: str, facts: DataFacts) -> Dataset:
    """The data set at `url`. WrongData when it is not the one the run was frozen with."""
    dataset = Dataset.open(url)
    if dataset.digest != facts.digest:
        raise WrongData(
            f"{url} has digest {dataset.digest[:12]}, the run was frozen with {facts.digest[:12]}: it is another data set, or was "
            "packed anew; point data.train and data.val at the original"
        )
    return dataset


def recipe(frozen: Frozen) -> Recipe:
    """How a training image is made."""
    data = frozen.spec.data
    random = data.augment.randaugment
    return Recipe(
        image_size=frozen.spec.model.image_size,
        mode=data.decode,
        scale=data.scale,
        ratio=data.ratio,
        flip=data.flip,
        interpolation=data.interpolation,
        eval_crop=data.eval_crop,
        randaugment=(random.ops, random.magnitude) if random else None,
    )


def block_cache(frozen: Frozen) -> BlockCache | None:
    """The cache of this machine, where the spec asks for one."""
    cache = frozen.spec.data.cache
    return BlockCache(cache.folder, cache.size) if cache else None


def training_loader(
    frozen: Frozen, dataset: Dataset, place: Place, *, position: int, left_out: Sequence[int], events: Events
) -> Loader:
    """The slots that rank `place.rank` owns, from item `position` on, without the batches numbered in `left_out`."""
    train = frozen.spec.train
    return slots_loader(
        frozen,
        dataset,
        owned_slots(place.rank, place.world, train.micro_batches),
        position=position,
        skip=[number * train.global_batch for number in left_out],
        cache=block_cache(frozen),
        on_bad=lambda facts: events.note("bad sample", **facts),
        on_late=lambda facts: events.note("data late", **facts),
        pin=place.device.type == "cuda",
    )


def slots_loader(frozen: Frozen, dataset: Dataset, slots: range, **where: Any) -> Loader:
    """These slots of the run's steps. `where`: position, and what else a Loader may be told that does not change what it gives."""
    train, data = frozen.spec.train, frozen.spec.data
    where = {"threads": data.threads, "bad": data.bad, "bad_share": data.bad_share, **where}
    return Loader(
        dataset,
        Order(frozen.geometry),
        recipe(frozen),
        batch=train.global_batch,
        micro_batch=train.micro_batch,
        slots=slots,
        **where,
    )


def evaluation_batches(
    frozen: Frozen, dataset: Dataset, place: Place, note: Callable[..., None] | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """This rank's part of the validation set, in batches of one shape.

    What does not decode is left out; that, and what a late batch waits for, is told to `note` (kind, facts).
    """
    yield from EvalLoader(
        dataset,
        recipe(frozen),
        rank=place.rank,
        world=place.world,
        micro_batch=frozen.spec.train.micro_batch,
        threads=frozen.spec.data.threads,
        cache=block_cache(frozen),
        bad_share=frozen.spec.data.bad_share,
        on_bad=_noting(note, "bad sample"),
        on_late=_noting(note, "data late"),
    )


def _noting(note: Callable[..., None] | None, kind: str) -> Callable[[dict[str, Any]], None] | None:
    return (lambda facts: note(kind, set="val", **facts)) if note else None
