"""What `--overwrite` may remove, which places are refused, and what stands after a pack is begun again."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.packing.pack import pack
from data_pipeline.shards.dataset import Dataset, build_index
from data_pipeline.shards.verify import verify
from data_pipeline.storage import open_store

from .conftest import tar_of, train_tar


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("val_share", [None, 0.2])
def test_the_folder_of_a_tar_that_is_packed_is_no_place(
    store_url: str, overwrite: bool, val_share: float | None
) -> None:
    store = open_store(store_url)
    store.put("train.tar", train_tar())
    store.put("val.tar", b"of somebody")
    with pytest.raises(BadDataset, match=r"is the folder that holds .*train\.tar, which is to be packed"):
        pack(f"{store.url}/train.tar", store_url, overwrite=overwrite, val_share=val_share)
    assert [info.key for info in store.list()] == ["train.tar", "val.tar"]


def test_the_folder_is_known_by_any_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/t.tar").write_bytes(train_tar())
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "t.tar").symlink_to(tmp_path / "in/t.tar")
    for source, dest in [("in/t.tar", "link"), ("t.tar", "in"), ("in/../in/t.tar", "in"), ("t.tar", "in/.")]:
        with pytest.raises(BadDataset, match="is the folder that holds"):
            pack(tmp_path / source, f"{tmp_path}/{dest}", overwrite=True)
    assert list(held(tmp_path / "in")) == ["t.tar"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_planned_place_in_the_source_is_refused(
    tmp_path: Path, class_folders: Path, overwrite: bool
) -> None:
    (tmp_path / "set").mkdir()
    source = class_folders.rename(tmp_path / "set/train")
    before = held(tmp_path)
    with pytest.raises(BadDataset, match=r"set/train lies in .*set/train, which is to be packed"):
        pack(source, str(tmp_path / "set"), val_share=0.1, overwrite=overwrite)
    assert held(tmp_path) == before


def test_a_source_in_a_folder_named_like_that_of_the_notes_is_left_alone(
    tmp_path: Path, class_folders: Path
) -> None:
    (tmp_path / "out").mkdir()
    source = class_folders.rename(tmp_path / "out/pack")
    with pytest.raises(BadDataset, match="lies in"):
        pack(source, str(tmp_path / "out"))
    other = source.rename(tmp_path / "source")
    (tmp_path / "out/pack/data").mkdir(parents=True)
    (tmp_path / "out/pack/data/mine.json").write_text("x")
    pack(other, str(tmp_path / "out"))
    pack(other, str(tmp_path / "out"), seed=1, overwrite=True)
    assert [path.name for path in (tmp_path / "out/pack").rglob("*.*")] == ["mine.json"]


@pytest.mark.parametrize("packed", [True, False])
def test_tars_that_no_pack_wrote_are_named_and_nothing_is_removed(
    tmp_path: Path, class_folders: Path, packed: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if packed:
        pack(class_folders, str(out))
    for name in ("val.tar", "data-000777.tar"):
        (out / name).write_bytes(b"of somebody")
    before = held(out)
    with pytest.raises(BadDataset, match=r"no pack wrote .*data-000777\.tar, .*val\.tar.* move them"):
        pack(class_folders, str(out), seed=1, overwrite=True)
    assert held(out) == before


def test_shards_that_only_an_index_names_are_removed_if_a_pack_names_them_so(
    tmp_path: Path, class_folders: Path
) -> None:
    out = tmp_path / "out"
    pack(class_folders, str(out), shard_bytes=20_000)
    (out / "pack.json").unlink()
    pack(class_folders, str(out), overwrite=True)
    assert len(list(out.glob("*.tar"))) == 1
    (out / "pack.json").unlink()
    (out / "data-000000.tar").rename(out / "mine-0.tar")
    (out / "data-000000.tar.idx").unlink()
    (out / "index.json").unlink()
    build_index(str(out))
    with pytest.raises(BadDataset, match=r"no pack wrote .*mine-0\.tar"):
        pack(class_folders, str(out), overwrite=True)
    assert verify(str(out)).ok


@pytest.mark.parametrize("shares", [(None, 0.2), (0.2, None)])
def test_sets_of_an_earlier_layout_do_not_stay_beside_the_new_one(
    store_url: str, class_folders: Path, shares: tuple[float | None, float | None]
) -> None:
    first, then = shares
    old = pack(class_folders, store_url, val_share=first)
    new = pack(class_folders, store_url, val_share=then, overwrite=True)
    for one in old["sets"]:
        with pytest.raises(BadDataset, match=r"there is no index\.json"):
            Dataset.open(one["url"])
    keys = [info.key for info in open_store(store_url).list()]
    assert sum(key.endswith(".tar") for key in keys) == len(new["sets"])
    assert all(verify(one["url"]).ok for one in new["sets"])


def test_a_pack_that_lies_where_train_would_go_is_refused(tmp_path: Path, class_folders: Path) -> None:
    pack(class_folders, str(tmp_path / "out/train"))
    with pytest.raises(BadDataset, match=r"out/train holds a pack of its own"):
        pack(class_folders, str(tmp_path / "out"), val_share=0.2, overwrite=True)
    assert verify(str(tmp_path / "out/train")).ok


def test_a_pack_json_of_somebody_else_is_never_replaced(tmp_path: Path, class_folders: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/pack.json").write_text('{"name": "a web page"}')
    for overwrite in (True, False):
        with pytest.raises(BadDataset, match=r"pack\.json is no plan of a pack; move it"):
            pack(class_folders, str(tmp_path / "out"), overwrite=overwrite)
    assert list(held(tmp_path / "out")) == ["pack.json"]


def test_an_index_beside_an_unfinished_pack_goes_before_it_goes_on(
    tmp_path: Path, class_folders: Path
) -> None:
    image, out = class_folders / "n01/n01_0.JPEG", tmp_path / "out"
    whole = image.read_bytes()
    image.write_bytes(b"broken")
    with pytest.raises(BadDataset, match="1 of 60"):
        pack(class_folders, str(out), shard_bytes=20_000)
    index_without_plan(out)
    with pytest.raises(BadDataset, match="1 of 60"):
        pack(class_folders, str(out), shard_bytes=20_000)
    assert not (out / "index.json").exists()
    index_without_plan(out)
    image.write_bytes(whole)
    facts = pack(class_folders, str(out), shard_bytes=20_000)
    assert any("stood beside an unfinished pack" in line for line in facts["remarks"])
    assert "stood beside" not in (out / "pack-summary.json").read_text()
    assert Dataset.open(str(out)).samples == 60


def index_without_plan(out: Path) -> None:
    """What an index of half a pack was before `mixer index` refused to make one."""
    plan = (out / "pack.json").read_bytes()
    (out / "pack.json").unlink()
    assert build_index(str(out))["samples"] < 60
    (out / "pack.json").write_bytes(plan)


def damage_gone(out: Path) -> None:
    (out / "data-000001.tar").unlink()


def damage_idx(out: Path) -> None:
    (out / "data-000001.tar.idx").unlink()


def damage_cut(out: Path) -> None:
    path = out / "data-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])


def damage_index(out: Path) -> None:
    for path in out.glob("data-000001.tar*"):
        path.unlink()
    build_index(str(out))


def damage_summary(out: Path) -> None:
    (out / "pack-summary.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_gone, r"data-000001\.tar is gone"),
        (damage_idx, r"data-000001\.tar\.idx is gone"),
        (damage_cut, r"data-000001\.tar has \d+ bytes, not \d+"),
        (damage_index, r"index\.json has another digest than pack-summary\.json"),
        (damage_summary, r"its pack-summary\.json is gone"),
    ],
)
def test_a_finished_pack_that_lost_something_says_so(
    tmp_path: Path, class_folders: Path, damage: object, message: str
) -> None:
    out = tmp_path / "out"
    digest = pack(class_folders, str(out), shard_bytes=20_000)["sets"][0]["digest"]
    assert callable(damage)
    damage(out)
    with pytest.raises(BadDataset, match=rf"{message}.*`--overwrite`"):
        pack(class_folders, str(out), shard_bytes=20_000)
    again = pack(class_folders, str(out), shard_bytes=20_000, overwrite=True)
    assert again["sets"][0]["digest"] == digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_bytes": 0}, "--shard-mb is 0; a number above 0"),
        ({"shard_bytes": -5e6}, "--shard-mb is -5; a number above 0"),
        ({"shard_bytes": float("nan")}, "--shard-mb is nan; a number above 0"),
        ({"shard_bytes": float("inf")}, "--shard-mb is inf; a number above 0"),
        ({"seed": -1}, "--seed is -1; 0 to 9223372036854775807 are allowed"),
        ({"seed": 2**63}, "--seed is 9223372036854775808; 0 to"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_meant(
    tmp_path: Path, class_folders: Path, options: dict[str, float], message: str
) -> None:
    pack(class_folders, str(tmp_path / "out"))
    before = held(tmp_path / "out")
    with pytest.raises(BadDataset, match=message):
        pack(class_folders, str(tmp_path / "out"), overwrite=True, **options)
    assert held(tmp_path / "out") == before


def test_the_largest_seed_is_one(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(tar_of({"a/0.jpg": b"x", "a/1.jpg": b"x"}))
    with pytest.raises(BadDataset, match="2 of 2 images cannot be used"):
        pack(tmp_path / "t.tar", str(tmp_path / "out"), seed=2**63 - 1, val_share=0.5)
