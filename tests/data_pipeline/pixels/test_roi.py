"""A box decoded alone is the box of the whole, and what is damaged anywhere is damaged either way."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import webdataset
from PIL import Image

from data_pipeline.loading.blocks import BlockFetcher
from data_pipeline.loading.loader import Batch, Loader
from data_pipeline.order import Geometry, Order
from data_pipeline.packing.pack import pack
from data_pipeline.pixels import picture, roi
from data_pipeline.pixels.augment import Recipe
from data_pipeline.pixels.decode import Pixels, Undecodable, decode, decode_and_judge
from data_pipeline.pixels.picture import Picture, Sound
from data_pipeline.pixels.roi import Box
from data_pipeline.shards.dataset import Dataset, build_index

KINDS = ["444", "422", "420", "440", "411", "Gray"]
native = pytest.mark.skipif(not roi.available(), reason=f"roi: {roi.why_not()}")
Switch = Callable[[str], None]


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Switch]:
    """switch("on" | "off"): what MIXER_NATIVE says from now on."""

    def turn(way: str) -> None:
        monkeypatch.setenv("MIXER_NATIVE", way)
        roi.why_not.cache_clear()

    yield turn
    monkeypatch.undo()
    roi.why_not.cache_clear()


def scene(height: int, width: int, dice: np.random.Generator) -> Pixels:
    """Soft colours with some grain."""
    coarse = dice.integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = dice.normal(0, dice.choice([2, 20]), soft.shape)
    return np.clip(soft + grain, 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels, kind: str, dice: np.random.Generator, **options: Any) -> bytes:
    """Baseline JPEG of any subsampling; where Pillow can write it, half of them with restart markers."""
    quality = int(dice.integers(5, 98))
    if kind in ("440", "411"):
        data: bytes = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling=kind)
        return data
    if dice.random() < 0.5:
        options["restart_marker_blocks"] = int(dice.integers(1, 9))
    out, image = io.BytesIO(), Image.fromarray(pixels)
    options |= {} if kind == "Gray" else {"subsampling": {"444": 0, "422": 1, "420": 2}[kind]}
    (image.convert("L") if kind == "Gray" else image).save(out, "JPEG", quality=quality, **options)
    return out.getvalue()


def some_box(height: int, width: int, dice: np.random.Generator) -> Box:
    rows, columns = int(dice.integers(1, height + 1)), int(dice.integers(1, width + 1))
    rows, columns = (min(n, 3) if dice.random() < 0.2 else n for n in (rows, columns))
    return int(dice.integers(height - rows + 1)), int(dice.integers(width - columns + 1)), rows, columns


def cut(pixels: Pixels, box: Box) -> Pixels:
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def whole(data: bytes) -> Pixels | None:
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError:
        return None
    return pixels


@native
@pytest.mark.parametrize("kind", KINDS)
def test_any_box_of_any_picture_is_that_of_the_whole(kind: str) -> None:
    dice = np.random.default_rng(KINDS.index(kind))
    for _ in range(300):
        height, width = (int(n) for n in dice.integers(1, dice.choice([20, 150]), 2))
        data = jpeg(scene(height, width, dice), kind, dice)
        pixels = whole(data)
        assert pixels is not None
        for to_the_end in (True, False) * 6:
            box = some_box(height, width, dice)
            found = roi.read(data, box, to_the_end=to_the_end)
            assert found is not None, (height, width, box)
            assert np.array_equal(found, cut(pixels, box)), (height, width, box)


@native
def test_other_kinds_and_boxes_outside_are_left_to_others() -> None:
    dice = np.random.default_rng(1)
    pixels = scene(60, 70, dice)
    plain = jpeg(pixels, "420", dice)
    cmyk = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    assert roi.read(jpeg(pixels, "420", dice, progressive=True), (0, 0, 9, 9)) is None
    assert roi.read(cmyk.getvalue(), (0, 0, 9, 9)) is None
    for nothing in (b"", b"\xff\xd8\xff", b"no image", bytes(1000)):
        assert roi.read(nothing, (0, 0, 9, 9)) is None
    for outside in ((52, 0, 9, 9), (0, 62, 9, 9), (0, 0, 61, 9), (2**32 - 8, 0, 9, 9)):
        assert roi.read(plain, outside) is None
    assert roi.read(memoryview(plain), (0, 0, 60, 70)) is not None


@native
def test_damage_below_the_box_is_seen_unless_the_bytes_are_known_to_be_sound() -> None:
    dice = np.random.default_rng(2)
    data = jpeg(scene(200, 200, dice), "420", dice)
    box, damaged = (0, 0, 40, 40), data[: len(data) * 19 // 20]
    assert roi.read(damaged, box) is None
    assert np.array_equal(roi.read(damaged, box, to_the_end=False), roi.read(data, box))


@native
def test_of_damaged_bytes_only_what_decodes_whole_is_read() -> None:
    """Bytes changed, lost, added, the end cut off: never a box where simplejpeg would complain."""
    random_, dice, read = random.Random(3), np.random.default_rng(3), 0
    sources = [jpeg(scene(50, 65, dice), kind, dice) for kind in KINDS * 3]
    for _ in range(10_000):
        data = bytearray(random_.choice(sources))
        at, size = random_.randrange(2, len(data)), random_.randint(1, 8)
        new = [b"", random_.randbytes(size), bytes([0xFF, random_.choice([0xD0, 0xD1, 0xD9, 0xC4, 0])])]
        data[at : at + random_.choice([0, 1, size])] = random_.choice(new)
        del data[len(data) - random_.choice([0, 0, 0, random_.randrange(len(data))]) :]
        found, pixels = roi.read(bytes(data), (20, 10, 15, 30)), whole(bytes(data))
        if found is not None:
            read += 1
            assert pixels is not None, bytes(data).hex()
            assert np.array_equal(found, cut(pixels, (20, 10, 15, 30)))
    assert read > 300


@native
def test_threads_do_not_disturb_one_another() -> None:
    dice = np.random.default_rng(4)
    files = [jpeg(scene(120, 150, dice), KINDS[n % 6], dice) for n in range(12)]
    bad = [data[: len(data) // 2] for data in files]
    alone = [roi.read(data, (30, 40, 50, 60)) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for again in [
            pool.map(lambda data: roi.read(data, (30, 40, 50, 60)), files + bad) for _ in range(20)
        ]:
            found = list(again)
            assert all(map(np.array_equal, found[:12], alone))
            assert found[12:] == [None] * 12


def large(dice: np.random.Generator, **options: Any) -> bytes:
    """More than SMALLEST bytes."""
    out = io.BytesIO()
    noise = dice.integers(0, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, options.pop("format", "JPEG"), **options)
    assert len(out.getvalue()) > picture.SMALLEST
    return out.getvalue()


@pytest.mark.parametrize("way", ["on", "off"])
def test_a_picture_is_its_decoded_pixels_whatever_its_kind(way: str, switch: Switch) -> None:
    switch(way)
    dice, turned = np.random.default_rng(5), Image.Exif()
    turned[0x0112] = 6
    kinds = [
        {},
        {"progressive": True},
        {"exif": turned},
        {"format": "PNG"},
        {"format": "WEBP", "lossless": True},
    ]
    for data in [large(dice, **kind) for kind in kinds]:
        pixels = decode(data)
        found = Picture.look(data)
        assert (found.height, found.width) == pixels.shape[:2]
        for box in [some_box(*pixels.shape[:2], dice) for _ in range(4)] + [(0, 0, *pixels.shape[:2])]:
            assert np.array_equal(found.box(box), cut(pixels, box))


@pytest.mark.parametrize("way", ["on", "off"])
def test_a_cut_picture_is_refused_before_anything_is_written(way: str, switch: Switch) -> None:
    switch(way)
    data = large(np.random.default_rng(6))
    out = np.full((32, 32, 3), 7, np.uint8)
    with pytest.raises(Undecodable):
        Recipe(32).train(Picture.look(data[: len(data) * 49 // 50]), out, seed=1, item=2)
    assert (out == 7).all()


@native
def test_batches_are_the_same_with_and_without(switch: Switch, tmp_path: Path) -> None:
    """Over three epochs, so that most samples are known to be sound; two of them are cut near their end."""
    dataset, found = _large_set(tmp_path, bad=(4, 9)), {}
    for way in ("on", "off"):
        switch(way)
        found[way] = _taken(dataset)
        assert found[way][2] == (way == "on")
    for ours, theirs in zip(found["on"][0], found["off"][0], strict=True):
        for one, other in zip(ours.micro_batches, theirs.micro_batches, strict=True):
            assert np.array_equal(one.ids, other.ids)
            assert np.array_equal(one.images, other.images)
    assert found["on"][1] == found["off"][1]
    assert {each["id"] for each in found["on"][1]} == {4, 9}


def _large_set(folder: Path, bad: tuple[int, ...]) -> Dataset:
    dice = np.random.default_rng(7)
    with webdataset.TarWriter(str(folder / "s-0.tar"), mtime=0) as writer:
        for number in range(16):
            data = large(dice)
            data = data[: len(data) * 19 // 20] if number in bad else data
            writer.write({"__key__": f"{number:04d}", "jpg": data, "cls": number})
    build_index(str(folder))
    return Dataset.open(str(folder))


def _taken(dataset: Dataset) -> tuple[list[Batch], list[dict[str, Any]], float]:
    """Three epochs' batches, who was replaced, and what the stats call `native`."""
    told: list[dict[str, Any]] = []
    order = Order(Geometry(16, 2, 4, 2, 8))
    sizes: dict[str, Any] = {"batch": 8, "micro_batch": 4, "slots": range(2), "position": 0}
    with Loader(dataset, order, Recipe(48), **sizes, bad_share=1.0, on_bad=told.append) as loader:
        return [next(loader) for _ in range(6)], told, loader.stats()["native"]


def test_why_it_is_not_there_is_said(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    switch("off")
    assert roi.why_not() == "MIXER_NATIVE is off"
    switch("on")
    monkeypatch.setitem(sys.modules, "data_pipeline.pixels._roi", None)  # type: ignore[arg-type]
    roi._native.cache_clear()
    try:
        assert "gcc and Python's headers" in roi.why_not()
        assert not roi.available()
    finally:
        roi._native.cache_clear()


def test_sound_samples_are_remembered_one_by_one() -> None:
    sound = Sound(20)
    for sample in (0, 7, 8, 19):
        assert sample not in sound
        sound.add(sample)
    assert [sample for sample in range(20) if sample in sound] == [0, 7, 8, 19]


def test_what_is_known_sound_takes_no_more_memory_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "REMEMBERED", 16)
    sound = Sound(10**9)
    for sample in (3, 15, 16, 10**9 - 1):
        sound.add(sample)
    assert [sample in sound for sample in (3, 4, 15, 16, 10**9 - 1)] == [True, False, True, False, False]
    assert sound._bits.nbytes == 2


def test_a_packed_set_says_which_samples_are_not_sound(tmp_path: Path) -> None:
    """All others need not be read to their end, from the first epoch on; these are judged as where nothing was built."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    dice = np.random.default_rng(3)
    for number in range(6):
        full = large(dice)
        data = full[: len(full) * 3 // 4] + b"\xff\xd9" if number in (1, 4) else full
        (tmp_path / "in" / "a" / f"{number}.jpg").write_bytes(data)
    pack(str(tmp_path / "in"), str(tmp_path / "out"), sheet="none")
    dataset = Dataset.open(str(tmp_path / "out"))
    samples = BlockFetcher(dataset).fetch(0, 6)
    assert dataset.unsound == [n for n, one in enumerate(samples) if not decode_and_judge(one.image)[1]]
    assert len(dataset.unsound) == 2
    sound = Sound(dataset.samples, dataset.unsound)
    for number, one in enumerate(samples):
        half = Picture.look(one.image, sound=number in sound).box((0, 0, 64, 64))
        assert np.array_equal(half, decode(one.image)[:64, :64])
