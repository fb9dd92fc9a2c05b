"""A few samples of each class: enough, the same every time, and no more read than it takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from data_pipeline.loading import class_sample
from data_pipeline.loading.class_sample import ClassSample, mixed_order
from data_pipeline.loading.eval_loader import EvalLoader
from data_pipeline.pixels.augment import Recipe
from data_pipeline.shards.dataset import Dataset
from tests.runs import break_images


def sampled(
    url: str, per_class: int = 4, at_most: int = 10_000, m: int = 16
) -> tuple[ClassSample, torch.Tensor, torch.Tensor]:
    """What was sampled: the sampler, the real images and their labels."""
    sampler = ClassSample(Dataset.open(url), Recipe(32), per_class=per_class, at_most=at_most, micro_batch=m)
    batches = list(sampler)
    assert all(len(batch.images) == len(batch.labels) == m for batch in batches)
    return (
        sampler,
        torch.cat([batch.images[batch.real] for batch in batches]),
        torch.cat([batch.labels[batch.real] for batch in batches]),
    )


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of some ten digits."""
    monkeypatch.setattr(class_sample, "BLOCK_BYTES", 30_000)


@pytest.mark.usefixtures("small_blocks")
def test_every_class_gets_its_samples_and_the_rest_is_not_read(digits: str) -> None:
    sampler, images, labels = sampled(f"{digits}/train")
    assert labels.bincount().tolist() == sampler.kept.tolist() == [4] * 10
    assert 40 <= sampler.read < 400 < 1437
    again = sampled(f"{digits}/train")
    assert torch.equal(again[1], images)
    assert torch.equal(again[2], labels)


@pytest.mark.usefixtures("small_blocks")
def test_they_are_samples_of_the_set_as_evaluation_sees_them(digits: str) -> None:
    _, images, labels = sampled(f"{digits}/train", per_class=2)
    loader = EvalLoader(Dataset.open(f"{digits}/train"), Recipe(32), rank=0, world=1, micro_batch=64)
    seen = {
        (image.numpy().tobytes(), int(label))
        for batch in loader
        for image, label in zip(batch.images[batch.real], batch.labels[batch.real], strict=True)
    }
    assert all(
        (image.numpy().tobytes(), int(label)) in seen for image, label in zip(images, labels, strict=True)
    )


def test_what_may_be_read_is_bounded_and_what_there_is_is_counted(digits: str) -> None:
    sampler, _, labels = sampled(f"{digits}/train", per_class=30, at_most=50)
    assert sampler.read == 50 == len(labels)
    assert sampler.kept.sum() == 50
    assert sampler.kept.min() < 30
    everything, _, labels = sampled(f"{digits}/val", per_class=1000)
    assert (everything.read, everything.at_most, len(labels)) == (360, 360, 360)


def test_a_broken_image_is_left_out_and_another_of_its_class_taken(digits: str, tmp_path: Path) -> None:
    shutil.copytree(f"{digits}/val", tmp_path / "val")
    broken = break_images(tmp_path / "val", {0, 3, 100})
    sampler, _, labels = sampled(str(tmp_path / "val"), per_class=1000)
    assert {bad.id for bad in sampler.bad} == broken
    assert len(labels) == 357 == sampler.kept.sum()
    sampler, _, labels = sampled(str(tmp_path / "val"), per_class=3)
    assert labels.bincount().tolist() == [3] * 10


def test_the_order_is_mixed_and_never_changes() -> None:
    assert sorted(mixed_order(50).tolist()) == list(range(50))
    assert mixed_order(8).tolist() == [2, 5, 0, 7, 4, 6, 3, 1]
    assert mixed_order(0).tolist() == []


def test_numbers_that_make_no_sense_are_refused(digits: str) -> None:
    with pytest.raises(ValueError, match="per_class 0, at_most 5, micro_batch 1, threads 2; give at least 1"):
        ClassSample(Dataset.open(f"{digits}/val"), Recipe(32), per_class=0, at_most=5, micro_batch=1)
