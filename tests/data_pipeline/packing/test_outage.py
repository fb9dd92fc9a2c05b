"""A source that goes away while it is packed is no heap of broken images: the pack ends, and goes on when it is back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.errors import DataError, NotFound, StoreError, Unavailable
from data_pipeline.packing.pack import pack
from data_pipeline.shards.dataset import Dataset
from data_pipeline.storage import open_store

from .conftest import CLASSES, class_images, tar_of

AWAY_AFTER = 20
OPTIONS = {"skip_broken": True, "shard_bytes": 9_000, "threads": 2}


def after(images: int, act: Callable[[], None]) -> Callable[[int, int], None]:
    """A progress display in which something happens once so many images are done."""
    rest = [act]

    def tell(done: int, total: int) -> None:
        if done >= images and rest:
            rest.pop()()

    return tell


def class_tars(url: str) -> None:
    for label, name in enumerate(CLASSES):
        open_store(url).put(f"{name}.tar", tar_of(class_images(label, 20)))


def goes_away(source: Path | str, out: Path, act: Callable[[], None], error: type[DataError]) -> None:
    with pytest.raises(error):
        pack(source, str(out), **OPTIONS, progress=after(AWAY_AFTER, act))
    assert not (out / "index.json").exists()


def comes_back(source: Path | str, out: Path) -> None:
    facts = pack(source, str(out), **OPTIONS)
    assert facts["skipped"] == []
    assert Dataset.open(str(out)).samples == 60


def test_a_folder_of_class_tars_that_is_moved_away(tmp_path: Path) -> None:
    class_tars(str(tmp_path / "in"))
    goes_away(tmp_path / "in", tmp_path / "out", lambda: hide(tmp_path), NotFound)
    (tmp_path / "hidden").rename(tmp_path / "in")
    comes_back(tmp_path / "in", tmp_path / "out")


def hide(folder: Path) -> None:
    (folder / "in").rename(folder / "hidden")


def test_class_tars_that_vanish_from_a_bucket(store_url: str, tmp_path: Path) -> None:
    class_tars(f"{store_url}/in")
    store = open_store(f"{store_url}/in")
    goes_away(
        store.url, tmp_path / "out", lambda: [store.delete(f"{n}.tar") for n in CLASSES] and None, NotFound
    )
    class_tars(f"{store_url}/in")
    comes_back(store.url, tmp_path / "out")


def test_a_class_tar_that_was_cut(tmp_path: Path) -> None:
    class_tars(str(tmp_path / "in"))

    def cut() -> None:
        for path in (tmp_path / "in").iterdir():
            path.write_bytes(path.read_bytes()[:2000])

    goes_away(tmp_path / "in", tmp_path / "out", cut, StoreError)
    class_tars(str(tmp_path / "in"))
    comes_back(tmp_path / "in", tmp_path / "out")


def test_class_folders_that_are_moved_away(tmp_path: Path, class_folders: Path) -> None:
    moved = tmp_path / "moved"
    goes_away(class_folders, tmp_path / "out", lambda: class_folders.rename(moved) and None, Unavailable)
    moved.rename(class_folders)
    comes_back(class_folders, tmp_path / "out")


def test_a_disk_that_is_unmounted_leaves_an_empty_folder(tmp_path: Path, class_folders: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in class_folders.rglob("*.JPEG"):
        path.rename(flat / path.name)
    names = sorted(path.name for path in flat.iterdir())
    (tmp_path / "labels.txt").write_text("".join(f"{name} {name[:3]}\n" for name in names))

    def unmount() -> None:
        flat.rename(tmp_path / "moved")
        flat.mkdir()

    options = OPTIONS | {"labels": str(tmp_path / "labels.txt")}
    with pytest.raises(Unavailable, match="the source is away, or was moved"):
        pack(flat, str(tmp_path / "out"), **options, progress=after(AWAY_AFTER, unmount))
    flat.rmdir()
    (tmp_path / "moved").rename(flat)
    assert pack(flat, str(tmp_path / "out"), **options)["skipped"] == []


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_table_and_its_images_that_are_moved_away(tmp_path: Path, class_folders: Path, scheme: str) -> None:
    names = sorted(str(path.relative_to(class_folders)) for path in class_folders.rglob("*.JPEG"))
    (class_folders / "t.csv").write_text("path,label\n" + "".join(f"{name},{name[:3]}\n" for name in names))
    table, moved = f"{scheme}{class_folders}/t.csv", tmp_path / "moved"
    goes_away(table, tmp_path / "out", lambda: class_folders.rename(moved) and None, Unavailable)
    moved.rename(class_folders)
    comes_back(table, tmp_path / "out")


def test_one_file_that_vanished_is_left_out(tmp_path: Path, class_folders: Path) -> None:
    def lose() -> None:
        shutil.copy(class_folders / "n03/n03_0.JPEG", tmp_path)
        for path in (class_folders / "n03").iterdir():
            if path.name != "n03_19.JPEG":
                path.unlink()

    facts = pack(class_folders, str(tmp_path / "out"), **OPTIONS, progress=after(1, lose))
    assert {one["path"][:4] for one in facts["skipped"]} == {"n03/"}
    assert all(one["why"].startswith("there is no ") for one in facts["skipped"])


def test_names_that_no_file_can_have_are_left_out(tmp_path: Path, class_folders: Path) -> None:
    good = class_folders / "n01/n01_0.JPEG"
    names = [str(good), "x" * 300 + ".jpg", "n01", f"{good}/x.jpg", "ftp://127.0.0.1/x.jpg"]
    (class_folders / "t.jsonl").write_text(
        "".join('{"path": "%s", "label": 0}\n' % name for name in names)  # noqa: UP031
    )
    facts = pack(class_folders / "t.jsonl", str(tmp_path / "out"), skip_broken=True)
    assert (facts["sets"][0]["samples"], len(facts["skipped"])) == (1, 4)


def test_a_disk_that_cannot_be_read_is_no_broken_image(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n/proc/self/mem,0\n")
    with pytest.raises(Unavailable, match="cannot read /proc/self/mem: Input/output error"):
        pack(tmp_path / "t.csv", str(tmp_path / "out"), skip_broken=True)
