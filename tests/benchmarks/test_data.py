"""What the figures of the data path stand on: the pictures, the simulated sets, and whose CPU time a turn is."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from benchmarks.data import images, simulated
from benchmarks.data.turns import Competitor, Unavailable, race
from data_pipeline.loading.blocks import BlockFetcher
from data_pipeline.shards.dataset import Dataset

BUSY_US = 2000.0
SERVE = "tests.benchmarks.serve"


def test_a_picture_is_a_function_of_its_number_and_the_seed() -> None:
    assert images.picture(3, 0) == images.picture(3, 0)
    assert images.picture(3, 0) != images.picture(3, 1)
    assert images.picture(3, 0) != images.picture(4, 0)


def test_pictures_are_of_imagenets_size_and_mostly_with_half_the_chroma() -> None:
    made = [images.picture(number, 0) for number in range(40)]
    opened = [Image.open(BytesIO(data)) for data in made]
    assert 70_000 < np.mean([len(data) for data in made]) < 140_000
    assert all(max(image.size) == 500 and 330 < min(image.size) < 445 for image in opened)
    chroma = [JpegImagePlugin.get_sampling(image) for image in opened]
    assert 0.6 < np.mean([each == 2 for each in chroma]) < 0.95
    assert set(chroma) == {0, 2}  # Pillow's words for 4:4:4 and 4:2:0


def test_a_simulated_set_opens_and_reads_at_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated, "PER_SHARD", 50)
    dataset = Dataset.open(str(simulated.simulated(tmp_path, 40)))
    assert (dataset.samples, len(dataset.shards)) == (2000, 40)
    fetcher = BlockFetcher(dataset)
    first, last = fetcher.fetch(0, 50), fetcher.fetch(1950, 50)
    assert [bytes(each.image) for each in first] == [bytes(each.image) for each in last]
    assert [each.labels for each in last] == [(number,) for number in range(50)]


def test_a_turn_counts_what_a_competitor_and_its_children_burn() -> None:
    burning = Competitor(sys.executable, SERVE, "burn", str(BUSY_US / 1e6), label="itself")
    child = Competitor(sys.executable, SERVE, "burn_in_child", str(BUSY_US / 1e6), label="its child")
    idle = Competitor(sys.executable, SERVE, "burn", "0", label="idle")
    try:
        turns = race([burning, child, idle], rounds=2, pictures=100)
    finally:
        for one in (burning, child, idle):
            one.close()
    assert list(turns) == ["itself", "its child", "idle"]
    assert all(turn.cpu >= BUSY_US for turn in turns["itself"])
    assert all(turn.cpu >= 0.7 * BUSY_US for turn in turns["its child"])  # counted in ticks of 10 ms
    assert all(turn.cpu < BUSY_US / 2 for turn in turns["idle"])


def test_a_competitor_that_cannot_start_says_why() -> None:
    with pytest.raises(Unavailable, match="no such way"):
        Competitor(sys.executable, SERVE, "no such way", "0")
