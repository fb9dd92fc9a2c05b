"""A pack that is killed by SIGKILL, again and again, ends in the same bytes as one that was left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.packing.pack import pack
from data_pipeline.shards.dataset import Dataset
from data_pipeline.shards.verify import verify
from data_pipeline.storage import open_store

ROOT = Path(__file__).parents[3]
OPTIONS = {"shard_bytes": 30_000, "val_share": 0.2, "size": 20}


def contents(url: str) -> dict[str, bytes]:
    """All objects, but for index.json, whose ETags are those of this copy."""
    store = open_store(url)
    return {info.key: store.get(info.key) for info in store.list() if not info.key.endswith("index.json")}


def pack_killed(source: Path, dest: str, kills: str, threads: int = 1) -> int:
    """How many packers were killed before one came to its end."""
    command = [sys.executable, "-m", "tests.data_pipeline.packing.killed_packer"]
    options = json.dumps(OPTIONS | {"threads": threads})
    run = subprocess.run(
        [*command, str(source), dest, options, kills],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return int(run.stdout)


@pytest.mark.timeout(300)
def test_killed_around_every_write_it_goes_on(store_url: str, class_folders: Path) -> None:
    pack(class_folders, f"{store_url}/alone", **OPTIONS)
    assert pack_killed(class_folders, f"{store_url}/killed", "writes") >= 24
    assert contents(f"{store_url}/killed") == contents(f"{store_url}/alone")
    for part in ("train", "val"):
        alone, killed = (Dataset.open(f"{store_url}/{name}/{part}") for name in ("alone", "killed"))
        assert alone.digest == killed.digest
        assert verify(killed.url).ok


@pytest.mark.timeout(300)
def test_killed_at_any_moment_with_several_threads_it_goes_on(tmp_path: Path, class_folders: Path) -> None:
    pack(class_folders, str(tmp_path / "alone"), **OPTIONS)
    assert pack_killed(class_folders, str(tmp_path / "killed"), "times:7", threads=3) > 2
    assert contents(str(tmp_path / "killed")) == contents(str(tmp_path / "alone"))
    left = [path for path in (tmp_path / "killed").rglob("*") if path.name.startswith(".mixer-tmp")]
    assert left == []


@pytest.mark.parametrize("change", [{}, {"size": 16, "encode": "jpeg:80"}, {"encode": "webp:50"}], ids=str)
def test_the_same_bytes_at_any_number_of_threads(
    tmp_path: Path, class_folders: Path, change: dict[str, str]
) -> None:
    for threads in (1, 3, 8):
        pack(class_folders, str(tmp_path / str(threads)), shard_bytes=20_000, threads=threads, **change)
    one, three, eight = (contents(str(tmp_path / str(threads))) for threads in (1, 3, 8))
    assert sum(name.endswith(".tar") for name in one) > 2
    assert one == three == eight


def begun(source: Path, dest: Path, **options: object) -> None:
    """A pack that broke off: its index is missing, and so is one shard."""
    pack(source, str(dest), **OPTIONS | options)
    for name in (
        "train/index.json",
        "val/index.json",
        "train/train-000001.tar.idx",
        "train/train-000002.tar",
    ):
        (dest / name).unlink()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, "--seed was 0 and is 1"),
        ({"size": None}, "--size was 20 and is None"),
        ({"encode": "png"}, "--encode was None and is png"),
        ({"val_share": None}, "--val-share was 0.2 and is None"),
        ({"shard_bytes": 40_000}, "the size of shards was 30000 and is 40000"),
        (
            {"classes": ["n03", "n02", "n01"]},
            "the source has other names or labels; the classes have other names",
        ),
    ],
    ids=str,
)
def test_other_options_are_refused_and_named(
    tmp_path: Path, class_folders: Path, other: dict[str, object], message: str
) -> None:
    begun(class_folders, tmp_path / "out")
    before = contents(str(tmp_path / "out"))
    with pytest.raises(BadDataset, match=message):
        pack(class_folders, str(tmp_path / "out"), **OPTIONS | other)
    assert contents(str(tmp_path / "out")) == before


def test_another_source_is_refused_and_the_difference_named(tmp_path: Path, class_folders: Path) -> None:
    begun(class_folders, tmp_path / "out")
    image = class_folders / "n01/n01_0.JPEG"
    image.rename(class_folders / "n01/n01_x.JPEG")
    with pytest.raises(
        BadDataset, match="a pack that was begun of something else: the source has other names"
    ):
        pack(class_folders, str(tmp_path / "out"), **OPTIONS)
    (class_folders / "n01/n01_x.JPEG").unlink()
    with pytest.raises(BadDataset, match="the source had 60 images and has 59"):
        pack(class_folders, str(tmp_path / "out"), **OPTIONS)
    pack(class_folders, str(tmp_path / "out"), **OPTIONS, overwrite=True)
    assert Dataset.open(str(tmp_path / "out/train")).samples == 47


def test_an_image_that_changed_after_its_shard_was_packed_is_refused(
    tmp_path: Path, class_folders: Path
) -> None:
    broken = class_folders / "n02/n02_7.JPEG"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    with pytest.raises(BadDataset, match="1 of 60 images"):
        pack(class_folders, str(tmp_path / "out"), shard_bytes=30_000)
    (class_folders / "n01/n01_0.JPEG").write_bytes(whole)
    for path in class_folders.glob("n03/*"):
        path.write_bytes(whole + b"\0")
    with pytest.raises(BadDataset, match="is packed, and images of it have another size now"):
        pack(class_folders, str(tmp_path / "out"), shard_bytes=30_000)


def test_a_finished_pack_is_left_as_it_is(tmp_path: Path, class_folders: Path) -> None:
    first = pack(class_folders, str(tmp_path / "out"), **OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = pack(class_folders, str(tmp_path / "out"), **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert (again["sets"], again["sheet"]) == (first["sets"], first["sheet"])
    image = class_folders / "n01/n01_0.JPEG"
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(BadDataset, match="already holds a pack of something else: images have other sizes"):
        pack(class_folders, str(tmp_path / "out"), **OPTIONS)


def test_shards_that_a_begun_pack_lost_or_that_do_not_fit_are_made_again(
    tmp_path: Path, class_folders: Path
) -> None:
    pack(class_folders, str(tmp_path / "whole"), shard_bytes=20_000)
    (class_folders / "n01/n01_0.JPEG").rename(tmp_path / "held.JPEG")
    (class_folders / "n01/n01_0.JPEG").write_bytes(b"broken")
    with pytest.raises(BadDataset, match="1 of 60"):
        pack(class_folders, str(tmp_path / "out"), shard_bytes=20_000)
    (tmp_path / "held.JPEG").rename(class_folders / "n01/n01_0.JPEG")
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert len(shards) >= 4
    shards[0].write_bytes(shards[0].read_bytes()[:-512])
    Path(f"{shards[1]}.idx").write_bytes(Path(f"{shards[2]}.idx").read_bytes()[:-1])
    (tmp_path / "out/pack/data" / f"{shards[2].name}.json").write_bytes(b"{")
    shards[3].unlink()
    pack(class_folders, str(tmp_path / "out"), shard_bytes=20_000)
    kept = {name: data for name, data in contents(str(tmp_path / "out")).items() if name != "pack.json"}
    assert kept == {
        name: data for name, data in contents(str(tmp_path / "whole")).items() if name != "pack.json"
    }
