"""Packing digits, folders and label files."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import BadDataset
from data_pipeline.packing.pack import BrokenImages, pack
from data_pipeline.shards.dataset import Dataset, build_index
from data_pipeline.shards.tars import SpanSource, members
from data_pipeline.shards.verify import verify


def unpacked(data: Dataset) -> list[dict[str, bytes]]:
    """Every sample as {extension: bytes}, in order."""
    samples = []
    for span in data.spans(0, data.samples):
        shard = data.store.get(span.key)
        for offset, length in zip(span.offsets, span.lengths, strict=True):
            found = members(SpanSource(shard[offset : offset + length], span.key), whole=False)
            samples.append({member.name.partition(".")[2]: member.data for member in found})
    return samples


def labels(data: Dataset) -> list[int]:
    return [int(one["cls"]) for one in unpacked(data)]


def image_file(path: Path, colour: int, side: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side + 8), (colour, 10, 20)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, name in enumerate(["ant", "bee", "cow"]):
        for n in range(6):
            image_file(tmp_path / "images" / name / f"{n}.png", 40 * label + n)
    return tmp_path / "images"


def test_the_digits_are_all_there_and_split_evenly(store_url: str) -> None:
    told: list[tuple[int, int]] = []
    summary = pack("sklearn:digits", store_url, progress=lambda done, total: told.append((done, total)))
    train, val = (Dataset.open(one["url"]) for one in summary["sets"])
    assert (train.samples, val.samples) == (1437, 360)
    assert [one["digest"] for one in summary["sets"]] == [train.digest, val.digest]
    assert train.url.endswith("/train")
    assert val.url.endswith("/val")
    assert len(train.shards) == 8
    assert train.classes == [str(n) for n in range(10)]
    counts = np.bincount(labels(train)) + np.bincount(labels(val))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(labels(val)).min() >= 34
    assert len(set(labels(train)[:20])) > 5  # mixed
    assert told[-1] == (1797, 1797)
    image = Image.open(io.BytesIO(unpacked(val)[0]["png"]))
    assert (image.size, image.mode) == ((32, 32), "RGB")


def test_no_digit_is_in_both_parts_or_twice(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    pack("sklearn:digits", str(tmp_path))
    parts = [Dataset.open(str(tmp_path / name)) for name in ("train", "val")]
    pngs = [one["png"] for part in parts for one in unpacked(part)]
    assert len(set(pngs)) == len(np.unique(load_digits().images, axis=0))


def test_same_seed_same_bytes_other_seed_other_order(tmp_path: Path, folder: Path) -> None:
    digests = [
        pack(folder, str(tmp_path / name), seed=seed, val_share=0.34)["sets"]
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    ]
    assert [one["digest"] for one in digests[0]] == [one["digest"] for one in digests[1]]
    assert digests[0][0]["digest"] != digests[2][0]["digest"]


def test_a_folder_of_classes_goes_in_whole(tmp_path: Path, folder: Path) -> None:
    (folder / "notes.txt").write_text("x")
    (folder / "bee" / "notes.txt").write_text("x")
    summary = pack(folder, str(tmp_path / "out"), shard_bytes=9000)
    data = Dataset.open(str(tmp_path / "out"))
    assert data.classes == ["ant", "bee", "cow"]
    assert sorted(labels(data)) == [0] * 6 + [1] * 6 + [2] * 6
    assert len(data.shards) > 2
    assert [one["path"] for one in summary["skipped"]] == ["bee/notes.txt", "notes.txt"]
    stored = {(one["png"], int(one["cls"])) for one in unpacked(data)}
    wanted = {(path.read_bytes(), data.classes.index(path.parent.name)) for path in folder.rglob("*.png")}
    assert stored == wanted
    assert verify(data.url).ok
    assert build_index(data.url, classes=data.classes)["digest"] == data.digest


def test_a_split_takes_its_share_of_every_class(tmp_path: Path, folder: Path) -> None:
    pack(folder, str(tmp_path / "out"), val_share=1 / 3)
    assert np.bincount(labels(Dataset.open(str(tmp_path / "out/val")))).tolist() == [2, 2, 2]
    assert np.bincount(labels(Dataset.open(str(tmp_path / "out/train")))).tolist() == [4, 4, 4]


def test_size_shrinks_what_is_larger_and_leaves_the_rest(tmp_path: Path) -> None:
    image_file(tmp_path / "in/a/big.jpg", 1, side=64)
    image_file(tmp_path / "in/a/small.png", 2, side=8)
    pack(tmp_path / "in", str(tmp_path / "out"), size=16)
    stored = {ext: data for one in unpacked(Dataset.open(str(tmp_path / "out"))) for ext, data in one.items()}
    assert Image.open(io.BytesIO(stored["jpg"])).size == (16, 18)
    assert stored["png"] == (tmp_path / "in/a/small.png").read_bytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("words", [True, False])
def test_label_files(tmp_path: Path, folder: Path, kind: str, words: bool) -> None:
    rows = [
        (str(path.relative_to(folder.parent)), path.parent.name if words else 7 * len(path.parent.name))
        for path in sorted(folder.rglob("*.png"))
    ]
    file = folder.parent / f"labels.{kind}"
    if kind == "csv":
        file.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    else:
        file.write_text("".join(json.dumps({"path": path, "label": label}) + "\n" for path, label in rows))
    pack(file, str(tmp_path / "out"))
    data = Dataset.open(str(tmp_path / "out"))
    assert data.classes == (["ant", "bee", "cow"] if words else None)
    assert sorted(set(labels(data))) == ([0, 1, 2] if words else [21])
    assert data.samples == 18


def test_given_classes_fix_the_numbers(tmp_path: Path, folder: Path) -> None:
    names = ["zebra", "cow", "bee", "ant"]
    pack(folder, str(tmp_path / "out"), classes=names)
    data = Dataset.open(str(tmp_path / "out"))
    assert data.classes == names
    assert sorted(set(labels(data))) == [1, 2, 3]
    with pytest.raises(BadDataset, match="'cow' is not among"):
        pack(folder, str(tmp_path / "two"), classes=["ant", "bee"])


def test_broken_images_are_named_or_listed(tmp_path: Path, folder: Path) -> None:
    whole = (folder / "bee/3.png").read_bytes()
    (folder / "bee/3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cow/0.png").write_bytes(b"")
    with pytest.raises(
        BrokenImages, match=r"2 of 18 images cannot be used: bee/3\.png: .*cow/0\.png"
    ) as caught:
        pack(folder, str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert [one["path"] for one in caught.value.broken] == ["bee/3.png", "cow/0.png"]
    with pytest.raises(BadDataset, match="a pack was begun"):
        Dataset.open(str(tmp_path / "out"))
    told: list[tuple[int, int]] = []
    summary = pack(
        folder, str(tmp_path / "out"), skip_broken=True, progress=lambda *state: told.append(state)
    )
    assert told[-1] == (18, 18)
    assert [one["path"] for one in summary["skipped"]] == ["bee/3.png", "cow/0.png"]
    assert summary["sets"][0]["samples"] == 16
    assert sorted(labels(Dataset.open(str(tmp_path / "out")))) == [0] * 6 + [1] * 5 + [2] * 5
    assert verify(str(tmp_path / "out")).ok


def test_a_broken_image_costs_only_its_shard_and_mended_the_pack_goes_on(
    tmp_path: Path, folder: Path
) -> None:
    whole = (folder / "bee/3.png").read_bytes()
    (folder / "bee/3.png").write_bytes(whole[:-30])
    with pytest.raises(BrokenImages):
        pack(folder, str(tmp_path / "out"), shard_bytes=9000)
    packed = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert len(packed) == 3
    (folder / "bee/3.png").write_bytes(whole)
    pack(folder, str(tmp_path / "out"), shard_bytes=9000)
    assert {path: path.stat().st_mtime_ns for path in packed} == packed
    assert Dataset.open(str(tmp_path / "out")).samples == 18
    assert pack(folder, str(tmp_path / "new"), shard_bytes=9000)["sets"][0]["digest"] == (
        Dataset.open(str(tmp_path / "out")).digest
    )


def test_webdataset_reads_the_same_samples(tmp_path: Path, folder: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    pack(folder, str(tmp_path / "out"))
    data = Dataset.open(str(tmp_path / "out"))
    (shard,) = data.shards
    with (tmp_path / "out" / shard.name).open("rb") as file:
        files = (one | {"__url__": ""} for one in tar_file_iterator(file))
        read = [{ext: one[ext] for ext in ("png", "cls")} for one in group_by_keys(files)]
    assert read == unpacked(data)


def test_a_listed_file_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,label\nnot-here.jpg,1\n")
    with pytest.raises(BadDataset, match=r"not-here\.jpg: No such file"):
        pack(tmp_path / "l.csv", str(tmp_path / "out"))


def test_shards_that_are_there_are_not_overwritten_unasked(tmp_path: Path, folder: Path) -> None:
    pack(folder, str(tmp_path / "out"), shard_bytes=9000)
    with pytest.raises(
        BadDataset, match="already holds a pack of something else: the size of shards was 9000"
    ):
        pack(folder, str(tmp_path / "out"))
    pack(folder, str(tmp_path / "out"), overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "contact-sheet.png",
        "data-000000.tar",
        "data-000000.tar.idx",
        "index.json",
        "pack-summary.json",
        "pack.json",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,class\na,1\n", "columns path .* and label"),
        ("path,label\na.jpg,\n", "line 2"),
        ("path,label\n,3\n", "line 2"),
        ("path,label\n", "no image"),
    ],
)
def test_label_files_that_cannot_be_meant(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "l.csv").write_text(content)
    with pytest.raises(BadDataset, match=message):
        pack(tmp_path / "l.csv", str(tmp_path / "out"))


def test_sources_that_cannot_be_meant(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "l.jsonl").write_text('{"path": "a.jpg"}\n')
    for part in ("train", "val"):
        shutil.copytree(folder / "ant", tmp_path / "both" / part / "ant")
    (tmp_path / "flat").mkdir()
    cases = {
        "l.jsonl": "columns path .* and label",
        "both": "by itself",
        "flat": "no sub-folders",
        "nowhere": "there is no .*nowhere",
    }
    for name, message in cases.items():
        with pytest.raises(BadDataset, match=message):
            pack(tmp_path / name, str(tmp_path / "out"))
    with pytest.raises(BadDataset, match="--val-share"):
        pack(folder, str(tmp_path / "out"), val_share=1.5)
    with pytest.raises(BadDataset, match="size is 0"):
        pack(folder, str(tmp_path / "out"), size=0)


def test_files_that_are_hidden_or_strangely_named_are_listed(tmp_path: Path, folder: Path) -> None:
    import os

    for name in (b"ant/._0.png", b"bee/\xff.txt", b".hidden"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / ".git/config.png").write_bytes(b"x")
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/cow/\xfe.png"))
    strange.write_bytes(b"broken")
    summary = pack(folder, str(tmp_path / "out"), skip_broken=True)
    assert {one["path"] for one in summary["skipped"]} == {
        "ant/._0.png", "bee/\\udcff.txt", ".hidden", ".git/", "cow/\\udcfe.png",
    }  # fmt: skip
    assert summary["sets"][0]["samples"] == 18


def test_a_place_inside_of_the_source_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BadDataset, match="choose a place outside of it"):
        pack(folder, str(folder / "ant" / "packed"))
    with pytest.raises(BadDataset, match="choose a place outside of it"):
        pack(f"{folder}/", str(folder))
    assert len(list(folder.rglob("*.*"))) == 18


def test_what_lies_beside_is_left_alone_by_overwrite(tmp_path: Path, folder: Path) -> None:
    pack(folder, str(tmp_path / "out/train"))
    pack(folder, str(tmp_path / "out"))
    (tmp_path / "out/keep.txt").write_text("x")
    pack(folder, str(tmp_path / "out"), seed=3, overwrite=True)
    assert verify(str(tmp_path / "out/train")).ok
    assert (tmp_path / "out/keep.txt").exists()
    with pytest.raises(BadDataset, match="--val-share"):
        pack(folder, str(tmp_path / "out"), val_share=2.0, overwrite=True)
    assert verify(str(tmp_path / "out")).ok
