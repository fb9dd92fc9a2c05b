"""The contact sheet shows what is in the shards, and the summary counts it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.packing import sheet
from data_pipeline.packing.pack import pack
from data_pipeline.pixels.decode import decode
from data_pipeline.shards.dataset import Dataset
from data_pipeline.storage import open_store

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200)}


def plain(colour: tuple[int, int, int], size: tuple[int, int], form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, form)
    return out.getvalue()


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """10 wide red, 8 high green and 6 small blue images; one of each class is broken."""
    shapes = {"red": ((400, 100), 10), "green": ((90, 360), 8), "blue": ((20, 20), 6)}
    for name, (shape, count) in shapes.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        for n in range(count):
            (tmp_path / "in" / name / f"{n}.png").write_bytes(plain(COLOURS[name], shape))
        (tmp_path / "in" / name / "9.png").write_bytes(b"broken")
    return tmp_path / "in"


def cells(picture: bytes, count: int) -> list[np.ndarray]:
    """The boxes of a sheet, [BOX, BOX, 3] each."""
    page, found = decode(picture), []
    for n in range(count):
        left = sheet.MARGIN + n % sheet.COLUMNS * (sheet.BOX + sheet.GAP)
        top = sheet.MARGIN + sheet.TITLE + n // sheet.COLUMNS * (sheet.BOX + sheet.CAPTION + sheet.GAP)
        found.append(page[top : top + sheet.BOX, left : left + sheet.BOX])
    return found


def shown(box: np.ndarray) -> tuple[str, tuple[int, int]]:
    """(the colour of the image in a box, its width and height there)."""
    middle = tuple(box[sheet.BOX // 2, sheet.BOX // 2].tolist())
    name = {colour: name for name, colour in COLOURS.items()}[middle]
    inside = (box == np.array(middle)).all(axis=2)
    return name, (int(inside.any(axis=0).sum()), int(inside.any(axis=1).sum()))


def test_the_sheet_shows_every_class_with_its_aspect(tmp_path: Path, colours: Path) -> None:
    facts = pack(colours, str(tmp_path / "out"), shard_bytes=20_000, skip_broken=True)
    assert facts["sheet"] == (tmp_path / "out/contact-sheet.png").as_uri()
    boxes = cells((tmp_path / "out/contact-sheet.png").read_bytes(), 6 + 8 + 9)
    wanted = [("blue", (160, 160))] * 6 + [("green", (42, 168))] * 8 + [("red", (168, 42))] * 9
    assert [shown(box) for box in boxes] == wanted


def test_the_sheet_goes_where_it_is_asked_to_or_nowhere(
    store_url: str, tmp_path: Path, colours: Path
) -> None:
    facts = pack(colours, f"{store_url}/a", skip_broken=True, sheet=str(tmp_path / "x/sheet.png"))
    assert facts["sheet"] == (tmp_path / "x/sheet.png").as_uri()
    assert decode((tmp_path / "x/sheet.png").read_bytes()).ndim == 3
    assert pack(colours, f"{store_url}/b", skip_broken=True, sheet="none")["sheet"] is None
    pack(colours, f"{store_url}/c", skip_broken=True)
    keys = {info.key for info in open_store(store_url).list() if info.key.endswith(".png")}
    assert keys == {"c/contact-sheet.png"}


def test_a_sheet_that_cannot_be_drawn_ends_no_pack(
    tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "draw", lambda *_: sheet.Font.no_such)
    pack(colours, str(tmp_path / "out"), skip_broken=True)
    assert Dataset.open(str(tmp_path / "out")).samples == 23
    assert decode((tmp_path / "out/contact-sheet.png").read_bytes()).ndim == 3


def test_a_sheet_may_be_asked_for_in_a_folder(tmp_path: Path) -> None:
    assert sheet.as_file("sheets/") == "sheets/contact-sheet.png"
    assert sheet.as_file("s3://bucket/a/") == "s3://bucket/a/contact-sheet.png"
    assert sheet.as_file(str(tmp_path)) == f"{tmp_path}/contact-sheet.png"
    assert sheet.as_file(str(tmp_path / "a.png")) == str(tmp_path / "a.png")


def test_of_many_classes_as_many_as_fit_are_drawn_by_the_seed() -> None:
    labels = np.repeat(np.arange(500, dtype=np.int32), 3)
    one, same, other = (sheet.choose(labels, 48, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert len(set(labels[one].tolist())) == len(one) == 48
    few = sheet.choose(np.array([4] * 100 + [9] * 2, np.int32), 48, 0)
    assert (sum(n < 100 for n in few), sum(n >= 100 for n in few)) == (24, 2)


def test_the_summary_counts_what_was_packed(tmp_path: Path, colours: Path) -> None:
    (colours / "red/photo.jpg").write_bytes(plain(COLOURS["red"], (300, 200), "JPEG"))
    facts = pack(colours, str(tmp_path / "out"), size=60, skip_broken=True)
    (one,) = facts["sets"]
    assert one["per_class"] == {"blue": 6, "green": 8, "red": 10}
    assert one["size"] == {"smallest": [20, 20], "median": [60, 60], "largest": [240, 60]}
    assert one["formats"] == {"PNG RGB": 23, "JPEG RGB": 1}
    assert (one["samples"], one["broken"], one["resized"], one["encoded"]) == (24, 3, 18, 18)
    kept = json.loads((tmp_path / "out/pack-summary.json").read_text())
    assert kept["skipped"] == facts["skipped"]
    assert kept["sets"][0] == {key: value for key, value in one.items() if key != "url"}
    assert "seconds" not in kept
