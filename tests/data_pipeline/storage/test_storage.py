"""What holds for every store: the same calls on a folder and on a real S3 server."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from data_pipeline.storage import NotFound, Store, StoreError, open_store

MB = 1 << 20


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url, patience_s=2)


def test_an_object_comes_back_whole_and_by_ranges(store: Store) -> None:
    store.put("a/b.bin", b"0123456789")
    assert store.get("a/b.bin") == b"0123456789"
    assert store.get_range("a/b.bin", 3, 4) == b"3456"
    assert store.get_range("a/b.bin", 9, 1) == b"9"
    assert store.get_range("a/b.bin", 0, 0) == b""


@pytest.mark.parametrize(("start", "length"), [(8, 3), (10, 1), (50, 4), (-1, 2), (2, -1)])
def test_a_range_that_is_not_there_is_refused(store: Store, start: int, length: int) -> None:
    store.put("ten", b"0123456789")
    with pytest.raises(StoreError):
        store.get_range("ten", start, length)


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    info = store.head("empty")
    assert info is not None
    assert info.size == 0


def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match="no/such"):
        store.get("no/such")
    with pytest.raises(NotFound, match="no/such"):
        store.get_range("no/such", 0, 1)
    assert store.head("no/such") is None
    store.delete("no/such")


def test_put_replaces_and_delete_removes(store: Store) -> None:
    store.put("k", memoryview(b"first"))
    before = store.head("k")
    store.put("k", bytearray(b"second!"))
    after = store.head("k")
    assert before is not None
    assert after is not None
    assert (after.key, after.size) == ("k", 7)
    assert after.etag != before.etag
    store.delete("k")
    assert store.head("k") is None
    assert list(store.list()) == []


def test_put_if_absent_leaves_what_is_there_alone(store: Store) -> None:
    assert store.put_if_absent("log/0", b"mine")
    assert not store.put_if_absent("log/0", b"yours")
    assert not store.put_if_absent("log/0", b"mine")
    assert store.get("log/0") == b"mine"


@pytest.mark.timeout(60)
def test_of_sixteen_racing_writers_exactly_one_wins(store: Store, request: pytest.FixtureRequest) -> None:
    if "rclone" in request.node.name:
        pytest.skip("rclone ignores conditional writes; the probe says so")
    start = threading.Barrier(16)

    def race(writer: int) -> bool:
        start.wait(timeout=30)
        return store.put_if_absent("log/0", b"writer %d" % writer)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert won.count(True) == 1
    assert store.get("log/0") == b"writer %d" % won.index(True)


def test_list_is_sorted_relative_and_by_string_prefix(store: Store) -> None:
    for key in ("log/2", "log/10", "logs", "a-b/c", "a/z", "z"):
        store.put(key, key.encode())
    assert [info.key for info in store.list()] == sorted(["log/2", "log/10", "logs", "a-b/c", "a/z", "z"])
    assert [info.key for info in store.list("log/")] == ["log/10", "log/2"]
    assert [info.key for info in store.list("log")] == ["log/10", "log/2", "logs"]
    assert [info.key for info in store.list("nothing/here")] == []
    assert [info.size for info in store.list("a")] == [5, 3]


def test_sub_is_the_same_store_deeper(store: Store) -> None:
    run = store.sub("runs/one")
    run.put("x", b"1")
    assert store.get("runs/one/x") == b"1"
    assert [info.key for info in run.list()] == ["x"]
    assert open_store(run.url).get("x") == b"1"
    assert open_store(store.url).sub("runs").sub("one").get("x") == b"1"


def test_a_store_survives_pickling(store: Store) -> None:
    store.put("x", b"1")
    assert pickle.loads(pickle.dumps(store)).get("x") == b"1"


def _pattern(size: int, chunk: int) -> Iterator[bytes]:
    for start in range(0, size, chunk):
        yield bytes([start // chunk % 251]) * min(chunk, size - start)


@pytest.mark.parametrize("size", [0, 5, 16 * MB, 16 * MB + 1, 40 * MB + 123])
def test_a_stream_of_any_size_arrives_whole(store: Store, size: int) -> None:
    store.put_stream("big", size, _pattern(size, 3 * MB + 1))
    wanted = hashlib.sha256(b"".join(_pattern(size, 3 * MB + 1))).digest()
    assert hashlib.sha256(store.get("big")).digest() == wanted


@pytest.mark.parametrize("size", [10, 20 * MB])
@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_stream_of_the_wrong_total_leaves_nothing(store: Store, size: int, off_by: int) -> None:
    with pytest.raises(StoreError, match="were announced"):
        store.put_stream("big", size, _pattern(size + off_by, 7 * MB))
    assert store.head("big") is None
    assert list(store.list()) == []


@pytest.mark.parametrize("size", [10, 40 * MB])
def test_a_stream_that_fails_leaves_what_was_there(store: Store, size: int) -> None:
    def breaks() -> Iterator[bytes]:
        yield from _pattern(size // 2, 1 * MB)
        raise RuntimeError("the source broke")

    store.put("big", b"old")
    with pytest.raises(RuntimeError, match="the source broke"):
        store.put_stream("big", size, breaks())
    assert store.get("big") == b"old"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../../b", "a/./b", "a\\b", "a\0b"])
def test_keys_cannot_leave_the_store(store: Store, key: str) -> None:
    for act in (store.get, store.head, store.delete):
        with pytest.raises(StoreError, match="not valid"):
            act(key)
    with pytest.raises(StoreError, match="not valid"):
        store.put(key, b"")
    with pytest.raises(StoreError, match="not valid"):
        store.put_if_absent(key, b"")


def test_probe_leaves_nothing_behind(store: Store, request: pytest.FixtureRequest) -> None:
    honours = store.probe()
    assert honours.ranges
    assert honours.etags
    assert list(store.list()) == []
    is_rclone = "rclone" in request.node.name
    assert honours.conditional_put == (not is_rclone)  # it answers 200 and overwrites
    assert len(honours.describe()) == (0 if honours.conditional_put else 1)


@pytest.mark.parametrize(
    "url", ["", "gs://b/x", "s3://", "s3:///x", "s3://b/x?y=1", "file://host/x", "s3://b/../x"]
)
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(StoreError):
        open_store(url)


@pytest.mark.parametrize("url", ["s3://id:hunter2@bucket/x", "http://id:hunter2@host/x"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


def test_a_range_can_be_read_into_several_buffers(store: Store) -> None:
    data = bytes(range(256)) * 40
    store.put("k", data)
    sizes = [1, 0, 4095, 3, *[2] * 1500]
    buffers = [bytearray(size) for size in sizes]
    store.read_into("k", 17, [memoryview(buffer) for buffer in buffers])
    assert b"".join(buffers) == data[17 : 17 + sum(sizes)]
    store.read_into("k", 5, [])
    with pytest.raises(StoreError):
        store.read_into("k", len(data) - 3, [memoryview(bytearray(4))])
    with pytest.raises(StoreError):
        store.read_into("k", -1, [memoryview(bytearray(4))])
    with pytest.raises(NotFound, match="no/such"):
        store.read_into("no/such", 0, [memoryview(bytearray(4))])
