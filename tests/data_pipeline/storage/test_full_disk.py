"""A disk that is full for a while delays a write and breaks none; one that stays full ends it with advice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_pipeline.storage import Store, Unavailable, open_store
from tests.chaos.disk import Disk, small_disk

PIECE = b"x" * (1 << 20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as made:
        if made is None:
            pytest.skip("a disk can be mounted by root only")
        yield made


def pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield PIECE


WRITES: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("a/b", PIECE),
    "put_if_absent": lambda store: store.put_if_absent("a/b", PIECE),
    "put_stream": lambda store: store.put_stream("a/b", 3 * len(PIECE), pieces(3)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_waits_for_a_full_disk(disk: Disk, name: str) -> None:
    store = open_store(disk.path, patience_s=30)
    assert disk.fill() > 100 << 20
    said: list[object] = []
    writer = threading.Thread(target=lambda: said.append(WRITES[name](store)), daemon=True)
    writer.start()
    writer.join(0.5)
    assert writer.is_alive()
    assert store.head("a/b") is None
    disk.free()
    writer.join(10)
    assert said == [True] if name == "put_if_absent" else said == [None]
    assert store.get("a/b") == PIECE * (3 if name == "put_stream" else 1)
    assert store.retries > 0
    assert [info.key for info in store.list()] == ["a/b"]


def test_one_that_stays_full_ends_the_write_with_advice_and_leaves_nothing(disk: Disk) -> None:
    store = open_store(disk.path, patience_s=0.3)
    disk.fill()
    for write in WRITES.values():
        with pytest.raises(Unavailable, match=r"cannot write .*/a/b: No space left on device; free some"):
            write(store)
    disk.free()
    assert not list(store.list())
    assert not [path for path in disk.path.rglob("*") if path.is_file()]
