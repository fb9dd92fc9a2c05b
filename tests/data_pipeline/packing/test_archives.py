"""ImageNet's tars as they are distributed, from a folder and from a bucket."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.packing.pack import pack
from data_pipeline.shards.dataset import Dataset
from data_pipeline.storage import open_store

from .conftest import CLASSES, class_images, image_labels, picture, tar_of, train_tar

WANTED = {data: b"%d" % label for label in range(3) for data in class_images(label).values()}
VAL = {f"ILSVRC2012_val_{n:08d}.JPEG": picture(1000 + n) for n in range(1, 7)}


def val_tar(where: Path) -> str:
    (where / "val.tar").write_bytes(tar_of(dict(reversed(VAL.items()))))
    return str(where / "val.tar")


def test_a_tar_of_class_tars_is_read_in_place(store_url: str, tmp_path: Path) -> None:
    open_store(store_url).put("in/train.tar", train_tar())
    facts = pack(f"{store_url}/in/train.tar", f"{store_url}/out")
    assert image_labels(f"{store_url}/out") == WANTED
    assert facts["sets"][0]["per_class"] == dict.fromkeys(CLASSES, 5)


def test_class_tars_may_lie_in_a_folder(store_url: str) -> None:
    store = open_store(store_url).sub("in")
    for label, name in enumerate(CLASSES):
        store.put(f"{name}.tar", tar_of(class_images(label)))
    store.put("SHA256SUMS", b"x")
    facts = pack(f"{store_url}/in", f"{store_url}/out")
    assert image_labels(f"{store_url}/out") == WANTED
    assert facts["skipped"] == [{"path": "SHA256SUMS", "why": "not a class tar"}]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_class_folders_in_a_tar_and_names_of_any_length(tmp_path: Path, form: int) -> None:
    deep = "an-unusually-long-folder-name-" * 5
    files = {f"{deep}/{CLASSES[k]}/{name}": data for k in range(3) for name, data in class_images(k).items()}
    (tmp_path / "t.tar").write_bytes(tar_of(files, form))
    pack(tmp_path / "t.tar", str(tmp_path / "out"))
    assert image_labels(str(tmp_path / "out")) == WANTED
    assert Dataset.open(str(tmp_path / "out")).classes == CLASSES


def test_ground_truth_numbers_in_name_order_begin_where_it_is_said(tmp_path: Path) -> None:
    numbers = [3, 1, 2, 3, 1, 2]
    (tmp_path / "truth.txt").write_text("".join(f"{n}\n" for n in numbers))
    tar = val_tar(tmp_path)
    with pytest.raises(BadDataset, match=r"from 1 to 3, without a 0: say labels-base 1"):
        pack(tar, str(tmp_path / "out"), labels=str(tmp_path / "truth.txt"))
    facts = pack(tar, str(tmp_path / "out"), labels=str(tmp_path / "truth.txt"), labels_base=1)
    wanted = {data: b"%d" % (n - 1) for data, n in zip(VAL.values(), numbers, strict=True)}
    assert image_labels(str(tmp_path / "out")) == wanted
    assert any("called 1 there and 0 here" in line for line in facts["remarks"])


def test_numbers_point_into_the_given_classes(tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("1\n2\n3\n4\n1\n2\n")
    names = ["d", "c", "b"]
    with pytest.raises(BadDataset, match="labels run from 1 to 4; 1 to 3 are allowed"):
        pack(
            val_tar(tmp_path),
            str(tmp_path / "out"),
            labels=str(tmp_path / "truth.txt"),
            labels_base=1,
            classes=names,
        )
    (tmp_path / "truth.txt").write_text("1\n2\n3\n3\n1\n2\n")
    pack(
        val_tar(tmp_path),
        str(tmp_path / "out"),
        labels=str(tmp_path / "truth.txt"),
        labels_base=1,
        classes=names,
    )
    assert Dataset.open(str(tmp_path / "out")).classes == names
    assert [image_labels(str(tmp_path / "out"))[data] for data in VAL.values()] == [
        b"0",
        b"1",
        b"2",
        b"2",
        b"0",
        b"1",
    ]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("LOC_val_solution.csv", "{stem},{label} 1 2 30 40 {label} 5 6 70 80"),
        ("names.txt", "{stem}.JPEG {label}"),
        ("headless.csv", "val/{stem}.JPEG,{label}"),
    ],
)
def test_labels_by_name(tmp_path: Path, file: str, line: str) -> None:
    words = ["n03", "n01", "n02", "n01", "n02", "n03"]
    rows = [line.format(stem=Path(name).stem, label=word) for name, word in zip(VAL, words, strict=True)]
    head = ["ImageId,PredictionString"] if "solution" in file else []
    (tmp_path / file).write_text("\n".join(head + rows[::-1]) + "\n")
    pack(val_tar(tmp_path), str(tmp_path / "out"), labels=str(tmp_path / file), classes=CLASSES)
    wanted = {data: b"%d" % CLASSES.index(word) for data, word in zip(VAL.values(), words, strict=True)}
    assert image_labels(str(tmp_path / "out")) == wanted


def test_a_folder_of_validation_images_takes_a_label_file_too(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for name, data in VAL.items():
        (tmp_path / "val" / name).write_bytes(data)
    (tmp_path / "truth.txt").write_text("b\na\nb\na\nb\na\n")
    pack(tmp_path / "val", str(tmp_path / "out"), labels=str(tmp_path / "truth.txt"))
    assert [image_labels(str(tmp_path / "out"))[data] for data in VAL.values()] == [b"1", b"0"] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n", "2 labels and there are 6 images"),
        ("a.JPEG x\nb.JPEG y\n", r"no label for 6 of 6 images: ILSVRC2012_val_00000001\.JPEG"),
        ("a.JPEG x\nb\n", "is no label file"),
        ("", "is no label file"),
    ],
)
def test_label_files_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(BadDataset, match=message):
        pack(val_tar(tmp_path), str(tmp_path / "out"), labels=str(tmp_path / "l.txt"))
    assert not (tmp_path / "out").exists()


def test_tars_that_are_damaged_or_cannot_be_meant(tmp_path: Path) -> None:
    whole, inner = train_tar(), tar_of(class_images(0))
    cases = {
        "cut": (whole[: len(whole) // 2], "the archive was cut off"),
        "gzip": (b"\x1f\x8b" + bytes(2000), "this is gzip, not tar"),
        "inner": (tar_of({"n01.tar": inner[:4000]}), r"n01\.tar at byte .*cut off"),
        "flat": (tar_of(VAL), "images without class: give a file of their labels"),
        "same": (tar_of({"a/n01.tar": inner, "b/n01.tar": inner}), "two tars are for the same class"),
        "empty": (tar_of({}), "there is no image"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        with pytest.raises(BadDataset, match=message):
            pack(tmp_path / f"{name}.tar", str(tmp_path / "out"))
    with pytest.raises(BadDataset, match="there is no "):
        pack(tmp_path / "nowhere.tar", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
