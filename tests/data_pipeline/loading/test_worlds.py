"""A property, over random data sets, geometries, batches and positions: ids, labels and pixels of a step depend on the step alone.

Worlds 1, 2, 3, 5 and 8, 1 and 8 threads, and a run that goes from 4 to 2 to 7 to 8 workers at random steps.
"""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image
from skimage import data as pictures

from data_pipeline.loading import loader as loader_module
from data_pipeline.loading.loader import Batch, Loader
from data_pipeline.order import Geometry, Order, owned_slots
from data_pipeline.pixels.augment import Recipe
from data_pipeline.shards.dataset import Dataset, build_index

STEPS = 8
Step = dict[int, tuple[Any, ...]]


class Run:
    """One random run: its data set, its geometry, its recipe."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.micro = self.dice.choice([1, 2, 3])
        self.slots = self.dice.choice([8, 9, 12])
        self.batch = self.micro * self.slots
        samples = self.dice.randint(30, 90)
        self.dataset = photos(folder, samples, self.dice)
        lanes = self.slots * self.dice.choice([1, self.micro])
        block = self.dice.choice([1, 2, 5])
        self.geometry = Geometry(samples, block, lanes, self.dice.choice([1, 2, 3]), seed)
        ways = [{"randaugment": (2, 15.0)}, {"interpolation": "bicubic"}, {"mode": "resize"}, {"flip": False}]
        self.recipe = Recipe(24, **self.dice.choice(ways))  # type: ignore[arg-type]
        self.first = self.dice.choice([0, self.dice.randint(0, 5 * samples)])

    def steps(self, world: int, threads: int, start: int, count: int) -> list[Step]:
        """What the slots hold at steps start..start+count-1, taken by the ranks of a world."""
        ranks = [self.take(owned_slots(r, world, self.slots), threads, start, count) for r in range(world)]
        return [contents(parts) for parts in zip(*ranks, strict=True)]

    def take(self, slots: range, threads: int, start: int, count: int) -> list[Batch]:
        position = self.first + start * self.batch
        of_rank: dict[str, Any] = {"slots": slots, "position": position, "threads": threads}
        order, sizes = Order(self.geometry), {"batch": self.batch, "micro_batch": self.micro}
        with Loader(self.dataset, order, self.recipe, **sizes, **of_rank, bad_share=1.0) as loader:
            return [next(loader) for _ in range(count)]


def photos(folder: Path, samples: int, dice: random.Random) -> Dataset:
    """Pieces of photographs, JPEG and PNG, some of which do not decode."""
    noise = np.random.default_rng(dice.randrange(2**32))
    sources = [pictures.astronaut(), pictures.coffee(), pictures.chelsea()]
    for shard, numbers in enumerate(np.array_split(np.arange(samples), 3)):
        with webdataset.TarWriter(str(folder / f"s-{shard}.tar"), mtime=0) as writer:
            for number in numbers.tolist():
                whole = sources[number % 3]
                y, x = noise.integers(0, 200, 2)
                piece = whole[y : y + dice.randint(30, 90), x : x + dice.randint(30, 90)]
                kind, ext = dice.choice([("JPEG", "jpg"), ("PNG", "png")])
                out = io.BytesIO()
                Image.fromarray(piece).save(out, kind)
                image = b"broken" if number % 17 == 5 else out.getvalue()
                writer.write({"__key__": f"{number:04d}", ext: image, "cls": number % 10})
    build_index(str(folder))
    return Dataset.open(str(folder))


def contents(ranks: tuple[Batch, ...]) -> Step:
    return {
        micro.slot: (
            micro.images.numpy().tobytes(),
            *(x.tolist() for x in (micro.labels, micro.items, micro.ids)),
        )
        for batch in ranks
        for micro in batch.micro_batches
    }


@pytest.mark.parametrize("seed", range(6))
def test_a_step_is_the_same_at_any_world_size_and_with_any_threads(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "SMALL_BYTES", 0)  # else such small images are made by one thread
    run = Run(tmp_path, seed)
    expected = run.steps(1, 1, 0, STEPS)
    assert [sorted(step) for step in expected] == [list(range(run.slots))] * STEPS
    assert run.steps(1, 8, 0, STEPS) == expected
    for world in (2, 3, 5, 8):
        threads = run.dice.choice([1, 8])
        assert run.steps(world, threads, 0, STEPS) == expected, (world, threads)


@pytest.mark.parametrize("seed", range(6))
def test_a_chain_of_world_sizes_with_resumes_anywhere_is_one_run(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "SMALL_BYTES", 0)
    run = Run(tmp_path, 100 + seed)
    expected = run.steps(1, 1, 0, 4 * STEPS)
    found: list[Step] = []
    for world in (4, 2, 7, 8):
        count = run.dice.randint(1, STEPS)
        done = run.steps(world, run.dice.choice([1, 8]), len(found), count)
        kept = run.dice.randint(0, count)  # what came after the last checkpoint is done again by the next
        assert done == expected[len(found) : len(found) + count], world
        found += done[:kept]
    assert found == expected[: len(found)]
