"""Urls with braces and globs: which shards they mean, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.errors import BadDataset, StoreError
from data_pipeline.shards.places import Place, matches
from data_pipeline.storage import open_store


def fill(url: str) -> str:
    """The url of a store with a few objects."""
    store = open_store(url)
    for split, count in (("train", 3), ("val", 2)):
        for n in range(count):
            store.put(f"set/{split}/{split}-{n:03d}.tar", b"x")
    for key in ("set/top.tar", "set/.hidden.tar", "set/top.tar.idx", "set/notes.txt", "other/set-1.tar"):
        store.put(key, b"x")
    return url.rstrip("/")


@pytest.fixture
def there(tmp_path: Path) -> str:
    return fill(str(tmp_path / "store"))


def keys(*urls: str) -> tuple[str, list[str]]:
    place = Place.of(urls)
    return place.store.url.rpartition("/")[2], [info.key for info in place.shards()]


TRAIN = [f"train/train-00{n}.tar" for n in range(3)]
VAL = [f"val/val-00{n}.tar" for n in range(2)]


MEANT: list[tuple[list[str], str | None, list[str]]] = [
    (["set"], "set", ["top.tar"]),
    (["set/"], "set", ["top.tar"]),
    (["set/train"], "train", [f"train-00{n}.tar" for n in range(3)]),
    (["set/top.tar"], "set", ["top.tar"]),
    (["set/train/train-{000..002}.tar"], "train", [f"train-00{n}.tar" for n in range(3)]),
    (["set/train/train-{002..000}.tar"], "train", [f"train-00{n}.tar" for n in (2, 1, 0)]),
    (["set/train/train-00[12].tar"], "train", ["train-001.tar", "train-002.tar"]),
    (["set/train/*-00?.tar"], "train", [f"train-00{n}.tar" for n in range(3)]),
    (["set/{val/val-00{0,1},train/train-00{2..1}}.tar"], "set", [*VAL, TRAIN[2], TRAIN[1]]),
    (["set/{val,train}/*.tar"], "set", [*VAL, *TRAIN]),
    (["set/*/*.tar"], "set", [*TRAIN, *VAL]),
    (["set/**"], "set", ["top.tar", *TRAIN, *VAL]),
    (["set/**/*-001.tar"], "set", [TRAIN[1], VAL[1]]),
    (["set/val", "set/train/train-001.tar"], "set", [*VAL, TRAIN[1]]),
    (
        ["other/set-1.tar", "set/val/val-{000..001}.tar"],
        None,
        ["other/set-1.tar", *(f"set/{v}" for v in VAL)],
    ),
]


@pytest.mark.parametrize(("urls", "folder", "expected"), MEANT)
def test_urls_mean_shards_in_their_order(
    there: str, urls: list[str], folder: str | None, expected: list[str]
) -> None:
    found, names = keys(*(f"{there}/{url}" for url in urls))
    assert names == expected
    assert folder is None or found == folder


def test_they_mean_the_same_in_every_store(store_url: str) -> None:
    url = fill(store_url)
    for urls, _, expected in MEANT:
        assert keys(*(f"{url}/{one}" for one in urls))[1] == expected


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (
            ["set/train/train-{000..004}.tar"],
            r"2 of the 5 shards named are not at .*train-003\.tar, train-004\.tar",
        ),
        (["set/train/train-{000..099}.tar"], r"97 of the 100 shards named are not at .*, \.\.\.;"),
        (["set/{train,val}"], r"2 of the 2 .* goes on: {train,val}/\*\.tar"),
        (["set/gone.tar"], r"1 of the 1 shards named"),
        (["set/train/x-*.tar"], r"no shard that matches .*/x-\*\.tar"),
        (["set/train/*.tar", "set/val/x*.tar"], r"no shard that matches .*val/x\*\.tar"),
        (["empty"], "correct the url"),
        ([""], "under other, set"),
        (["set/val", "set/val/val-000.tar"], "val-000.tar is named twice"),
        (["set/val/val-{000,000}.tar"], "val-000.tar is named twice"),
        (["set/val/val-{000.tar"], "braces"),
        (["set/val/val-{000..999999999}.tar"], "more than 2000000 shards"),
        (["set/val/{0..1999}-{0..1999}-{a,b}.tar"], "more than 2000000 shards"),
    ],
)
def test_urls_that_mean_none_or_too_many_are_refused(there: str, urls: list[str], message: str) -> None:
    with pytest.raises(BadDataset, match=message):
        keys(*(f"{there}/{url}" for url in urls))


def test_shards_of_two_stores_are_not_one_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    with pytest.raises(BadDataset, match="one store"):
        Place.of([str(tmp_path), "s3://bucket/set"])
    with pytest.raises(BadDataset, match="after the bucket's name"):
        Place.of(["s3://bucket-{0..3}/x.tar"])
    with pytest.raises(BadDataset, match="no shards are named"):
        Place.of([])


def test_a_folder_with_special_characters_in_its_name_is_that_folder(tmp_path: Path) -> None:
    odd = tmp_path / "set [1] {a,b} é"
    (tmp_path / "plain").mkdir()
    odd.mkdir()
    (odd / "x.tar").touch()
    (tmp_path / "plain" / "y.tar").touch()
    assert keys(str(odd))[1] == ["x.tar"]
    assert keys(str(odd), str(tmp_path / "plain"))[1] == ["set [1] {a,b} é/x.tar", "plain/y.tar"]
    assert keys(odd.as_uri())[1] == ["x.tar"]


def test_patterns_may_be_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x-0.tar").touch()
    monkeypatch.chdir(tmp_path)
    assert keys("x-{0..0}.tar") == (tmp_path.name, ["x-0.tar"])
    assert keys("*.tar") == (tmp_path.name, ["x-0.tar"])
    assert keys("x-0.tar") == (tmp_path.name, ["x-0.tar"])
    with pytest.raises((BadDataset, StoreError), match=r"\.\."):
        keys("{../a,b}/x.tar")


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar.zst", "b.tar.xz"])
def test_compressed_shards_are_refused_by_name_unless_the_plain_one_is_there(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "a.tar").touch()
    (tmp_path / name).touch()
    for url in (str(tmp_path), f"{tmp_path}/*.tar", f"{tmp_path}/{{a.tar,{name}}}"):
        with pytest.raises(BadDataset, match="is compressed"):
            keys(url)
    (tmp_path / "b.tar").touch()
    assert keys(str(tmp_path))[1] == ["a.tar", "b.tar"]


@pytest.mark.parametrize(
    ("key", "glob", "meant"),
    [
        ("a/b.tar", "*.tar", False),
        ("a/b.tar", "*/*.tar", True),
        ("a/b.tar", "**", True),
        ("a/b.tar", "a/**/b.tar", True),
        ("a/c/d/b.tar", "a/**/b.tar", True),
        (".a.tar", "*.tar", False),
        (".a.tar", ".*.tar", True),
        ("a[1].tar", "a[[]1].tar", True),
        ("A.tar", "a.tar", False),
    ],
)
def test_globs_are_those_of_a_shell(key: str, glob: str, meant: bool) -> None:
    assert matches(key, glob) is meant
