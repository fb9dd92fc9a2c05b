"""Indexing again: what is kept, what is read, what survives a kill; an index that lies elsewhere; labels found out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.loading.blocks import BlockFetcher
from data_pipeline.shards import sums
from data_pipeline.shards.build import Done, Indexed, build_index, index_shards
from data_pipeline.shards.dataset import Dataset
from data_pipeline.storage import open_store
from tests.data_pipeline.shards.test_tars import make_tar

File = tuple[str, bytes]


def shard(name: str, *, count: int = 3, label: int = 0, ext: str = "jpg", fill: bytes = b".") -> bytes:
    files = []
    for n in range(count):
        files += [(f"{name}-{n}.cls", b"%d" % label), (f"{name}-{n}.{ext}", fill * 600)]
    return make_tar(files)


def put(url: str, *names: str, **options: int) -> None:
    for name in names:
        open_store(url).put(f"{name}.tar", shard(name, **options))  # type: ignore[arg-type]


def counts(found: Indexed) -> tuple[int, int, int]:
    return found.kept, found.read, len(found.dropped)


def test_only_what_is_new_is_read(store_url: str) -> None:
    put(store_url, "a", "b")
    first = index_shards([store_url])
    assert counts(first) == (0, 2, 0)
    put(store_url, "c", label=7)
    told: list[Done] = []
    second = index_shards([store_url], told.append)
    assert counts(second) == (2, 1, 0)
    assert second.old_digest == first.index["digest"] != second.index["digest"]
    assert told[-1].shards == 3
    assert told[-1].bytes == told[-1].all_bytes
    assert counts(index_shards([store_url])) == (3, 0, 0)
    open_store(store_url).delete("b.tar")
    third = index_shards([store_url])
    assert counts(third) == (2, 0, 1)
    assert third.dropped == ["b.tar"]
    assert (third.index["samples"], third.index["max_label"]) == (6, 7)
    open_store(store_url).delete("c.tar")
    assert index_shards([store_url]).index["max_label"] == 0


def test_an_index_put_together_from_idx_files_is_the_one_of_a_first_reading(tmp_path: Path) -> None:
    for folder in ("grown", "fresh"):
        put(str(tmp_path / folder), "a", "b")
    build_index(str(tmp_path / "grown"))
    for folder in ("grown", "fresh"):
        put(str(tmp_path / folder), "c", count=9)
    grown, fresh = build_index(str(tmp_path / "grown")), build_index(str(tmp_path / "fresh"))
    for index in (grown, fresh):
        index["shards"]["etag"] = []
    assert grown == fresh


def test_a_shard_replaced_by_one_of_the_same_size_is_read_again(tmp_path: Path) -> None:
    put(str(tmp_path), "a", "b")
    first = build_index(str(tmp_path))
    old = (tmp_path / "b.tar").stat()
    (tmp_path / "new").write_bytes(shard("b", fill=b"!"))
    os.utime(tmp_path / "new", ns=(old.st_atime_ns, old.st_mtime_ns - 10**9))
    (tmp_path / "new").rename(tmp_path / "b.tar")
    second = index_shards([str(tmp_path)])
    assert counts(second) == (1, 1, 0)
    assert second.index["digest"] != first["digest"]


def test_another_rule_reads_all_again(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar([("a.jpg", b"x"), ("a.cls", b"1"), ("a.txt", b"cat")]))
    assert build_index(str(tmp_path))["classes"] is None
    second = index_shards([str(tmp_path)], label="txt")
    assert counts(second) == (0, 1, 0)
    assert second.index["classes"] == ["cat"]
    third = index_shards([str(tmp_path)])
    assert (third.index["label"], third.rule_from) == ("txt", "as in the index that was there")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-240] + bytes([data[-240] ^ 1]) + data[-239:],  # the CRC32C of a row in the middle
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:-1],
    ],
)
def test_a_damaged_idx_file_is_not_believed(tmp_path: Path, damage: object) -> None:
    put(str(tmp_path), "a", "b", count=40)
    first = build_index(str(tmp_path))
    idx = tmp_path / "a.tar.idx"
    idx.write_bytes(damage(idx.read_bytes()))  # type: ignore[operator]
    second = index_shards([str(tmp_path)])
    assert counts(second) == (1, 1, 0)
    assert second.index["digest"] == first["digest"]


def test_an_idx_file_without_root_is_believed_only_where_the_shard_is_older_and_the_same(
    tmp_path: Path,
) -> None:
    put(str(tmp_path), "a", "b", "c", "d")
    build_index(str(tmp_path))
    (tmp_path / "index.json").unlink()
    newer = time.time() + 10
    os.utime(tmp_path / "b.tar", (newer, newer))
    other = (tmp_path / "c.tar").stat()
    (tmp_path / "c.tar").write_bytes(shard("c", fill=b"!"))
    os.utime(tmp_path / "c.tar", ns=(other.st_atime_ns, other.st_mtime_ns))
    assert counts(index_shards([str(tmp_path)])) == (2, 2, 0)


def test_an_indexing_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    url, names = str(tmp_path / "set"), [f"s{n:03d}" for n in range(400)]
    put(url, *names)
    code = f"from data_pipeline.shards.build import build_index; build_index({url!r}, threads=1)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline = time.monotonic() + 60
    while len(list(Path(url).glob("*.idx"))) < 20:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    assert not (Path(url) / "index.json").exists()
    again = index_shards([url])
    assert again.kept >= 19
    assert again.kept + again.read == 400
    for idx in Path(url).glob("*.idx"):
        idx.unlink()
    (Path(url) / "index.json").unlink()
    assert build_index(url)["digest"] == again.index["digest"]


def test_an_index_elsewhere_leaves_the_shards_alone_and_reads_them_where_they_are(
    store_url: str, tmp_path: Path
) -> None:
    put(f"{store_url}/shards", "a", "b", "c")
    before = [info.key for info in open_store(store_url).list()]
    train = index_shards([f"{store_url}/shards/{{a,c}}.tar"], out=f"{tmp_path}/train")
    val = index_shards([f"{store_url}/shards/b.tar"], out=f"{tmp_path}/val")
    assert [info.key for info in open_store(store_url).list()] == before
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == ["a.tar.idx", "c.tar.idx", "index.json"]
    data = Dataset.open(f"{tmp_path}/train")
    assert (data.samples, data.shards.names) == (6, ["a.tar", "c.tar"])
    assert data.url == open_store(f"{store_url}/shards").url
    assert len(BlockFetcher(data).fetch(0, 6)) == 6
    assert data.digest == train.index["digest"] != val.index["digest"]
    assert counts(index_shards([f"{store_url}/shards/{{a,c}}.tar"], out=f"{tmp_path}/train")) == (2, 0, 0)


def test_a_data_set_that_was_moved_works(tmp_path: Path) -> None:
    put(str(tmp_path / "old" / "x"), "a", "b")
    digest = build_index(f"{tmp_path}/old/x/{{a,b}}.tar")["digest"]
    assert str(tmp_path) not in (tmp_path / "old" / "x" / "index.json").read_text()
    (tmp_path / "old").rename(tmp_path / "new")
    data = Dataset.open(str(tmp_path / "new" / "x"))
    assert data.digest == digest
    assert len(BlockFetcher(data).fetch(0, 6)) == 6


def test_the_index_of_another_set_is_not_written_over(tmp_path: Path) -> None:
    put(str(tmp_path), "train-0", "val-0")
    build_index(f"{tmp_path}/train-*.tar")
    before = (tmp_path / "index.json").read_bytes()
    with pytest.raises(BadDataset, match=r"leave out, as train-0\.tar, which is still there.*--out"):
        build_index(f"{tmp_path}/val-*.tar")
    index_shards([f"{tmp_path}/val-*.tar"], out=f"{tmp_path}/val")
    put(str(tmp_path / "elsewhere"), "x")
    with pytest.raises(BadDataset, match=r"is the index of the shards at .*--out"):
        index_shards([f"{tmp_path}/elsewhere/*.tar"], out=f"{tmp_path}/val")
    assert (tmp_path / "index.json").read_bytes() == before
    assert build_index(f"{tmp_path}/*-0.tar")["samples"] == 6


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", b'{"shards": [], "version": 2}'),
        ("index.json", b"[1]"),
        ("a.tar.idx", b"v1.2 1\njpg 512 600\n"),
    ],
)
def test_files_of_other_tools_are_not_written_over(tmp_path: Path, name: str, content: bytes) -> None:
    put(str(tmp_path), "a")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadDataset, match=r"is not ours .*--out"):
        build_index(str(tmp_path))
    assert (tmp_path / name).read_bytes() == content
    assert index_shards([str(tmp_path)], out=f"{tmp_path}/ours").index["samples"] == 3


def one(tmp_path: Path, *files: File) -> str:
    (tmp_path / "s.tar").write_bytes(make_tar([("a.jpg", b"x"), *files]))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ([("a.cls", b"3"), ("a.txt", b"cat")], "cls"),
        ([("a.txt", b"cat"), ("a.json", b'{"width": 3}')], "txt"),
        ([("a.json", b"3")], "json"),
        ([("a.json", b'["x", "y"]')], "json"),
        ([("a.json", b'{"id": 3, "Label": 4}')], "json:Label"),
        ([("a.txt", b"a caption\nof two lines"), ("a.json", b'{"class_name": "cat"}')], "json:class_name"),
    ],
)
def test_the_rule_is_found_where_it_is_clear(tmp_path: Path, files: list[File], rule: str) -> None:
    found = index_shards([one(tmp_path, *files)])
    assert (found.index["label"], found.rule_from) == (rule, "as the first sample shows")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [("a.json", b'{"id": 3, "caption": "x"}')],
            r"keys id, caption \(that could be labels: id, caption\).*json:key",
        ),
        ([("a.txt", b"cat"), ("a.json", b'{"label": 3}')], "Give one: --label txt, --label json:label"),
        ([("a.json", b'{"label": 3, "class": 4}')], "Give one: --label json:label, --label json:class"),
        ([("a.npy", b"x")], r"holds jpg \(an image\); npy"),
        ([("a.txt", b"x" * 300)], "where the labels stand is not clear"),
    ],
)
def test_where_the_rule_is_not_clear_the_error_says_what_to_type(
    tmp_path: Path, files: list[File], message: str
) -> None:
    with pytest.raises(BadDataset, match=message):
        build_index(one(tmp_path, *files))


def test_names_get_numbers_by_the_alphabet_or_by_the_list_given(tmp_path: Path) -> None:
    for n, name in enumerate(("cow", "ant")):
        (tmp_path / f"{n}.tar").write_bytes(make_tar([("a.jpg", b"x"), ("a.txt", name.encode())]))
    assert build_index(str(tmp_path))["classes"] == ["ant", "cow"]
    given = build_index(str(tmp_path), classes=["cow", "bee", "ant"])
    assert given["classes"] == ["cow", "bee", "ant"]
    assert [s.labels for s in BlockFetcher(Dataset.open(str(tmp_path))).fetch(0, 2)] == [(0,), (2,)]
    assert build_index(str(tmp_path))["digest"] == given["digest"]  # a list that was given stays
    (tmp_path / "2.tar").write_bytes(make_tar([("a.jpg", b"x"), ("a.txt", b"dog")]))
    with pytest.raises(
        BadDataset, match=r"2\.tar, sample 'a' at byte 1024: the label 'dog' is none of the 3"
    ):
        build_index(str(tmp_path))


def test_captions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        names = (f"{n}{i}" for i in range(200))
        files = [f for k in names for f in ((f"{k}.jpg", b"x"), (f"{k}.txt", f"photo of {k}".encode()))]
        (tmp_path / f"{n}.tar").write_bytes(make_tar(files))
    with pytest.raises(
        BadDataset, match=r"600 samples have 600 different names.*captions.*--label.*--classes"
    ):
        build_index(str(tmp_path))
    monkeypatch.setattr(sums, "MANY_NAMES", 300)
    with pytest.raises(BadDataset, match="400 samples have 400 different names"):
        build_index(str(tmp_path), threads=1)
    assert not (tmp_path / "index.json").exists()


def test_a_shard_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path) -> None:
    put(str(tmp_path), "a")
    with pytest.raises(BadDataset, match=r"a\.tar was changed while it was read"):
        build_index(str(tmp_path), lambda done: put(str(tmp_path), "a") if not done.shards else None)
    assert not list(tmp_path.glob("*.idx"))
    assert build_index(str(tmp_path))["samples"] == 3


def test_the_patterns_stand_in_the_index(tmp_path: Path) -> None:
    put(str(tmp_path), "a", "b")
    index_shards([f"{tmp_path}/{{a,b}}.tar"])
    assert json.loads((tmp_path / "index.json").read_text())["patterns"] == ["{a,b}.tar"]
