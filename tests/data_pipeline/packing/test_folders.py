"""Folders and tars of the same files mean the same; what could mean two things is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.packing.sources import Labelling, Source, open_source

from .conftest import tar_of

IMAGE = b"not decoded here"


def tree(where: Path, *names: str) -> Path:
    for name in names:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(IMAGE)
    return where


def both(where: Path, *names: str, labelling: Labelling | None = None) -> list[Source]:
    """The same files as a folder and as a tar."""
    tree(where / "in", *names)
    (where / "in.tar").write_bytes(tar_of({f"./{name}": IMAGE for name in names}))
    return [open_source(url, labelling=labelling) for url in (where / "in", where / "in.tar")]


def classes_of(source: Source) -> dict[str, str]:
    assert source.classes is not None
    return {item.name.removeprefix("./"): source.classes[item.labels[0]] for item in source.items}


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["n01/a.jpg", "n02/b.jpg"], ["n01", "n02"]),
        (["set/train/n01/a.jpg", "set/train/n02/b.jpg"], ["n01", "n02"]),
        (["n01/indoor/a.jpg", "n02/outdoor/b.jpg"], ["n01", "n02"]),
        (["n01/a.jpg", "n01/indoor/b.jpg"], ["n01", "n01"]),
        (["set/n01/a.jpg"], ["n01"]),
    ],
)
def test_the_class_is_the_first_folder_below_what_all_share(
    tmp_path: Path, names: list[str], classes: list[str]
) -> None:
    wanted = dict(zip(names, classes, strict=True))
    assert [classes_of(source) for source in both(tmp_path, *names)] == [wanted, wanted]


def test_splits_are_refused_in_a_folder_and_in_a_tar(tmp_path: Path) -> None:
    names = ["train/n01/a.jpg", "val/n01/a.jpg"]
    (tmp_path / "in.tar").write_bytes(tar_of(dict.fromkeys(names, IMAGE)))
    for url in (tree(tmp_path / "in", *names), tmp_path / "in.tar"):
        with pytest.raises(BadDataset, match="holds train, val: pack each of them by itself"):
            open_source(url)


@pytest.mark.parametrize("labelled", [False, True], ids=["folders", "label file"])
def test_hidden_folders_and_those_of_the_system_are_left_out(tmp_path: Path, labelled: bool) -> None:
    names = ["n01/a.jpg", "n02/b.jpg"]
    others = [".cache/c.jpg", "n01/@eaDir/a.jpg", "n01/.thumbs/deep/a.jpg", "lost+found/d.jpg"]
    (tmp_path / "l.txt").write_text("x\ny\n")
    said = Labelling(str(tmp_path / "l.txt")) if labelled else None
    for source in both(tmp_path, *names, *others, labelling=said):
        assert sorted(item.name.removeprefix("./") for item in source.items) == names
        left = [".cache/", "lost+found/", "n01/.thumbs/", "n01/@eaDir/"]
        assert sorted(one["path"].removeprefix("./") for one in source.ignored) == left
        assert source.classes == (["x", "y"] if labelled else ["n01", "n02"])


def test_images_beside_class_folders_are_left_out(tmp_path: Path) -> None:
    for source in both(tmp_path, "n01/a.jpg", "n02/b.jpg", "overview.png"):
        assert source.classes == ["n01", "n02"]
        assert [one["why"] for one in source.ignored] == ["in no class folder"]


def test_an_empty_folder_is_no_class_unless_it_is_named(tmp_path: Path) -> None:
    tree(tmp_path, "set/n01/a.jpg", "set/n03/b.jpg")
    (tmp_path / "set/n02").mkdir()
    found = open_source(tmp_path)
    assert (found.classes, found.remarks) == (["n01", "n03"], ["n02/ holds no image and is no class"])
    named = open_source(tmp_path, labelling=Labelling(classes=["n01", "n02", "n03"]))
    assert (named.classes, named.remarks) == (["n01", "n02", "n03"], [])


def test_class_tars_beside_folders(tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        (tmp_path / f"{name}.tar").write_bytes(tar_of({"a.jpg": IMAGE, ".t/a.jpg": IMAGE}))
    (tmp_path / "logs").mkdir()
    found = open_source(tmp_path)
    assert (found.classes, len(found.items)) == (["n01", "n02"], 2)
    assert [one["path"] for one in found.ignored] == ["n01/.t/", "n02/.t/"]
    tree(tmp_path, "extra/a.jpg")
    with pytest.raises(BadDataset, match=r"both class tars \(n01\.tar\) and folders of images \(extra/\)"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"n\xff"), "x" * 201], ids=["line", "bytes", "long"])
def test_names_of_classes_that_cannot_be_written_are_refused_at_once(tmp_path: Path, name: str) -> None:
    tree(tmp_path, f"{name}/a.jpg", "n02/a.jpg")
    with pytest.raises(BadDataset, match="cannot be the name of a class"):
        open_source(tmp_path)


def test_what_cannot_be_packed_says_why(tmp_path: Path) -> None:
    tree(tmp_path, "a.tar.gz", "b.tgz", "c.doc", "in/n01/a.jpg")
    cases = {"nowhere": "there is no ", "a.tar.gz": "unpack it", "b.tgz": "unpack it", "c.doc": "cannot pack"}
    for name, message in cases.items():
        with pytest.raises(BadDataset, match=message):
            open_source(tmp_path / name)
    with pytest.raises(BadDataset, match="labels-base is for labels that are numbers"):
        open_source(tmp_path / "in", labelling=Labelling(base=1))
