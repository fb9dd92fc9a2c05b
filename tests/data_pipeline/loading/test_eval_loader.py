"""Validation covers every sample exactly once at any world size, in equally many batches on each rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.loading.bad_samples import TooManyBadSamples
from data_pipeline.loading.eval_loader import EvalLoader
from data_pipeline.pixels.augment import Recipe
from data_pipeline.shards.dataset import Dataset

MakeSet = Callable[..., Dataset]
RECIPE = Recipe(8, "resize")


def seen(dataset: Dataset, world: int, micro_batch: int, **options: Any) -> list[tuple[bytes, int]]:
    """All that is real, over all ranks."""
    found = []
    for rank in range(world):
        for images, labels, real in EvalLoader(
            dataset, RECIPE, rank=rank, world=world, micro_batch=micro_batch, **options
        ):
            assert (images.shape, images.dtype) == ((micro_batch, 8, 8, 3), torch.uint8)
            assert labels.shape == real.shape == (micro_batch,)
            found += [(images[j].numpy().tobytes(), int(labels[j])) for j in np.flatnonzero(real.numpy())]
    return found


@pytest.mark.parametrize("micro_batch", [1, 4, 7, 100])
def test_every_sample_once_at_any_world_size(make_set: MakeSet, micro_batch: int) -> None:
    dataset = make_set(23)
    expected = seen(dataset, 1, 23)
    assert [label for _, label in expected] == [n % 10 for n in range(23)]
    for world in (1, 2, 3, 5, 23, 30):
        loaders = [
            EvalLoader(dataset, RECIPE, rank=r, world=world, micro_batch=micro_batch) for r in range(world)
        ]
        assert len({len(loader) for loader in loaders}) == 1
        assert len(list(loaders[0])) == len(loaders[0])
        assert sorted(seen(dataset, world, micro_batch, threads=3)) == sorted(expected)


def test_a_short_batch_repeats_a_real_sample(make_set: MakeSet) -> None:
    batches = list(EvalLoader(make_set(5), RECIPE, rank=0, world=1, micro_batch=4))
    assert [batch.real.tolist() for batch in batches] == [[True] * 4, [True, False, False, False]]
    assert (batches[1].images == batches[1].images[0]).all()
    assert batches[1].labels.tolist() == [4, 4, 4, 4]


def test_it_can_be_gone_through_again(make_set: MakeSet) -> None:
    loader = EvalLoader(make_set(9), RECIPE, rank=0, world=1, micro_batch=4)
    first, second = ([batch.images.numpy().tobytes() for batch in loader] for _ in range(2))
    assert first == second


def test_a_bad_sample_is_left_out_and_named(make_set: MakeSet) -> None:
    told: list[dict[str, Any]] = []
    dataset = make_set(23, bad=(4,))
    assert [label for _, label in seen(dataset, 1, 4, on_bad=told.append)] == [
        n % 10 for n in range(23) if n != 4
    ]
    assert [(each["id"], each["item"]) for each in told] == [(4, -1)]
    assert len(seen(dataset, 3, 4)) == 22


def test_too_many_bad_samples_stop_it(make_set: MakeSet) -> None:
    with pytest.raises(TooManyBadSamples, match="2 of 23"):
        seen(make_set(23, bad=(4, 5)), 1, 4)


def test_leaving_early_is_fine(make_set: MakeSet) -> None:
    for _ in EvalLoader(make_set(23), RECIPE, rank=0, world=1, micro_batch=2):
        break


def test_a_batch_of_which_nothing_is_real_has_labels_that_a_loss_takes(make_set: MakeSet) -> None:
    batch = list(EvalLoader(make_set(7), RECIPE, rank=0, world=2, micro_batch=3))[-1]
    assert not batch.real.any()
    assert batch.labels.tolist() == [0, 0, 0]
