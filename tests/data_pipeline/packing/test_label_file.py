"""Label files: their order, their names, and numbers that are names."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.packing.classes import read_classes
from data_pipeline.packing.sources import Labelling, open_source

from .test_folders import classes_of, tree


def labelling(where: Path, text: str, name: str = "labels.txt", **more: object) -> Labelling:
    (where / name).write_text(text)
    return Labelling(str(where / name), **more)  # type: ignore[arg-type]


def test_labels_without_names_need_an_order_that_is_sure(tmp_path: Path) -> None:
    images = tree(tmp_path / "in", *(f"img{n}.jpg" for n in (1, 2, 3, 10, 11)))
    with pytest.raises(BadDataset, match=r"'img11\.jpg' is before 'img2\.jpg'.*lines of a name and a label"):
        open_source(images, labelling=labelling(tmp_path, "a\nb\nc\nd\ne\n"))
    named = "".join(f"img{n} {label}\n" for n, label in zip((1, 2, 3, 10, 11), "abcde", strict=True))
    found = classes_of(open_source(images, labelling=labelling(tmp_path, named)))
    assert found == {f"img{n}.jpg": label for n, label in zip((1, 2, 3, 10, 11), "abcde", strict=True)}


def test_an_order_is_sure_where_numbers_are_padded_or_of_one_length(tmp_path: Path) -> None:
    names = ["img.jpg", "img08.jpg", "img10.jpg", "img10_2.jpg", "val_00000009.jpg", "val_00000010.jpg"]
    images = tree(tmp_path / "in", *names)
    found = classes_of(open_source(images, labelling=labelling(tmp_path, "a\nb\nc\nd\ne\nf\n")))
    assert found == dict(zip(names, "abcdef", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.0\n1.0\n", r"the label '0\.0' \(line 1\) is no class number"),
        ("27\n\n27a\n", r"numbers \('27', line 1\) and words \('27a', line 3\)"),
        ("3\n-1\n", r"the label '-1' \(line 2\) is no class number"),
        ("1E3\n3\n", r"the label '1E3' \(line 1\) is no class number"),
    ],
)
def test_what_is_nearly_a_number_is_refused(tmp_path: Path, text: str, message: str) -> None:
    images = tree(tmp_path / "in", "a.jpg", "b.jpg")
    with pytest.raises(BadDataset, match=message):
        open_source(images, labelling=labelling(tmp_path, text))


def test_numbers_are_names_where_the_classes_are_called_so(tmp_path: Path) -> None:
    classes = ["4", "3", "2", "1", "0"]
    images = tree(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")
    for text in ("0\n4\n3\n", "1\n4\n3\n"):
        found = classes_of(open_source(images, labelling=labelling(tmp_path, text, classes=classes)))
        assert list(found.values()) == text.split()
    with pytest.raises(BadDataset, match="labels-base is for numbers"):
        open_source(images, labelling=labelling(tmp_path, "1\n4\n3\n", classes=classes, base=1))
    with pytest.raises(BadDataset, match="the class '5' is not among the 5 given ones"):
        open_source(images, labelling=labelling(tmp_path, "5\n4\n3\n", classes=classes))


def test_whole_names_are_matched_before_those_without_folder_and_extension(tmp_path: Path) -> None:
    images = tree(tmp_path / "in", "2021.05.01.a.jpg", "2021.05.02.a.jpg")
    said = labelling(tmp_path, "2021.05.02.a y\n2021.05.01.a x\n")
    assert list(classes_of(open_source(images, labelling=said)).values()) == ["x", "y"]
    said = labelling(tmp_path, "a/1.jpg x\na/1.png y\nb/1.jpg z\n")
    images = tree(tmp_path / "same", "a/1.jpg", "a/1.png", "b/1.jpg")
    assert list(classes_of(open_source(images, labelling=said)).values()) == ["x", "y", "z"]


def test_a_csv_of_labels_that_cannot_be_read_names_the_line(tmp_path: Path) -> None:
    images = tree(tmp_path / "in", "a.jpg")
    with pytest.raises(BadDataset, match=r"labels\.csv, line 2: field larger"):
        open_source(images, labelling=labelling(tmp_path, f"b.jpg,x\na.jpg,{'x' * 200_000}\n", "labels.csv"))


def test_a_list_of_classes_with_an_empty_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\n\nb\n\n")
    with pytest.raises(BadDataset, match="line 2 is empty"):
        read_classes(str(tmp_path / "classes.txt"))
