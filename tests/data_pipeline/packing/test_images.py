"""What happens to an image on its way into a shard: untouched, made smaller, encoded anew, or refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import AccessDenied, BadDataset, StoreError, Unavailable
from data_pipeline.packing.images import Broken, Change, Encoding, Ready, ready
from data_pipeline.packing.items import Item
from data_pipeline.packing.origins import Memory
from data_pipeline.packing.pack import pack
from data_pipeline.pixels.decode import decode
from data_pipeline.shards.dataset import Dataset

from .conftest import image_labels, picture, samples


def item(data: bytes, name: str = "x.jpg") -> Item:
    return Item(name, (0,), len(data), Memory([data]), 0)


def smooth(form: str, mode: str = "RGB", size: tuple[int, int] = (80, 50)) -> bytes:
    ramp = np.linspace(0, 255, size[0])[None, :, None] * np.ones((size[1], 1, 3))
    out = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(out, form)
    return out.getvalue()


@pytest.mark.parametrize(
    ("text", "ext", "form"), [("jpeg:90", "jpg", "JPEG"), ("webp:80", "webp", "WEBP"), ("png", "png", "PNG")]
)
def test_every_image_is_stored_in_the_format_asked_for(text: str, ext: str, form: str) -> None:
    for data, name in [
        (smooth("JPEG"), "a.jpg"),
        (smooth("PNG", "P"), "b.png"),
        (smooth("TIFF", "CMYK"), "c.tif"),
    ]:
        one = ready(item(data, name), Change(None, Encoding.parse(text)))
        assert isinstance(one, Ready)
        image = Image.open(io.BytesIO(one.data))
        assert (one.ext, image.format, image.mode, image.size, one.encoded) == (
            ext,
            form,
            "RGB",
            (80, 50),
            True,
        )
        difference = decode(one.data).astype(int) - decode(data)
        assert np.abs(difference).mean() < 6


def test_a_lower_quality_takes_fewer_bytes() -> None:
    sizes = []
    for quality in (30, 60, 95):
        one = ready(item(picture(1, side=64)), Change(None, Encoding.parse(f"jpeg:{quality}")))
        assert isinstance(one, Ready)
        sizes.append(len(one.data))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


@pytest.mark.parametrize("text", ["jpeg:0", "jpeg:101", "webp:x", "png:3", "gif", "", "jpeg:"])
def test_encodings_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(BadDataset, match=r"jpeg:QUALITY, webp:QUALITY \(1 to 100\) or png are allowed"):
        Encoding.parse(text)


def test_the_extension_comes_from_the_name_or_else_from_the_bytes() -> None:
    kept = {
        name: ready(item(smooth("PNG"), name), Change()) for name in ("a.JPEG", "b.png?x=1.gif", "c", "d.php")
    }
    assert {name: one.ext for name, one in kept.items() if isinstance(one, Ready)} == {
        "a.JPEG": "jpeg", "b.png?x=1.gif": "png", "c": "png", "d.php": "png",
    }  # fmt: skip
    odd = ready(item(smooth("ICO"), "e.ico"), Change())
    assert isinstance(odd, Broken)
    assert odd.why.startswith("its format is ICO RGB; one of jpg, ")
    stored = ready(item(smooth("ICO"), "e.ico"), Change(None, Encoding.parse("png")))
    assert isinstance(stored, Ready)


class Failing:
    """An origin that raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, name: str, offset: int, size: int) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [Unavailable("down"), AccessDenied("no"), StoreError("shorter"), OSError(24, "too many open files")],
    ids=str,
)
def test_an_error_of_the_source_is_no_broken_image(error: Exception) -> None:
    with pytest.raises(type(error)):
        ready(Item("x.jpg", (0,), 1, Failing(error), 0), Change())


def test_an_exif_turn_is_applied_when_an_image_is_encoded_anew(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in/a").mkdir(parents=True)
    Image.new("RGB", (60, 30)).save(tmp_path / "in/a/0.jpg", exif=exif)
    facts = pack(tmp_path / "in", str(tmp_path / "out"), encode="png")
    assert facts["sets"][0]["size"]["largest"] == [30, 60]
    (image,) = image_labels(str(tmp_path / "out"))
    assert Image.open(io.BytesIO(image)).size == (30, 60)


def test_a_shard_whose_images_are_all_broken_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    for n in range(12):
        (tmp_path / f"in/a/{n:02d}.jpg").write_bytes(picture(n))
    pack(tmp_path / "in", str(tmp_path / "all"), shard_bytes=8000)
    shards = Dataset.open(str(tmp_path / "all")).shards
    first = [sample["jpg"] for sample in samples(str(tmp_path / "all"))[: shards[0].samples]]
    for path in (tmp_path / "in/a").iterdir():
        if path.read_bytes() in first:
            path.write_bytes(bytes(path.stat().st_size))
    facts = pack(tmp_path / "in", str(tmp_path / "out"), shard_bytes=8000, skip_broken=True)
    assert len(facts["skipped"]) == len(first)
    assert [shard.name for shard in Dataset.open(str(tmp_path / "out")).shards] == [s.name for s in shards][
        1:
    ]
    assert facts["sets"][0]["shards"] == len(shards) - 1


def test_when_no_image_is_left_there_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/0.jpg").write_bytes(b"broken")
    with pytest.raises(BadDataset, match="no image is left"):
        pack(tmp_path / "in", str(tmp_path / "out"), skip_broken=True)
    assert not (tmp_path / "out/index.json").exists()
