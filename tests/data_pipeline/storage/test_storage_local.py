"""The folder store under races and refusals."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_pipeline.storage import NotFound, StoreError, open_store
from data_pipeline.storage.local import TEMP, LocalStore

WRITERS = 16


@pytest.mark.timeout(60)
def test_of_sixteen_racing_writers_exactly_one_wins_every_key(tmp_path: Path) -> None:
    store, start = LocalStore(tmp_path), threading.Barrier(WRITERS)

    def race(writer: int) -> list[bool]:
        start.wait(timeout=30)
        return [store.put_if_absent(f"log/{key}", b"writer %d" % writer) for key in range(25)]

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(race, range(WRITERS)))
    for key in range(25):
        winners = [writer for writer in range(WRITERS) if won[writer][key]]
        assert len(winners) == 1
        assert store.get(f"log/{key}") == b"writer %d" % winners[0]
    assert not list(tmp_path.rglob(f"{TEMP}*"))


@pytest.mark.timeout(60)
def test_readers_never_see_half_an_object(tmp_path: Path) -> None:
    store, stop = LocalStore(tmp_path), threading.Event()
    store.put("k", b"0" * 100_000)

    def write() -> None:
        for n in range(100):
            store.put("k", b"%d" % (n % 10) * 100_000)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        seen = store.get("k")
        assert len(seen) == 100_000
        assert len(set(seen)) == 1
    writer.join(timeout=30)


@pytest.mark.timeout(60)
def test_a_delete_that_empties_a_folder_does_not_trip_a_write_into_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    def work(worker: int) -> None:
        for _ in range(100):
            store.put(f"deep/er/{worker}", b"x")
            store.delete(f"deep/er/{worker}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert list(tmp_path.iterdir()) == []


def test_file_urls_with_odd_characters_open_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "a b%20ü#")
    store.put("x", b"1")
    assert open_store(store.url).get("x") == b"1"
    assert store.url.startswith("file:///")


def test_an_object_and_a_prefix_of_its_name_cannot_both_be(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    store.put("b/c", b"1")
    with pytest.raises(StoreError, match="either an object or a prefix"):
        store.put("a/b", b"2")
    with pytest.raises(StoreError, match="either an object or a prefix"):
        store.put("b", b"2")
    with pytest.raises(NotFound):
        store.get("b")
    assert store.head("a/b") is None
    assert store.head("b") is None


def test_temporary_names_cannot_be_keys_and_leftovers_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / f"{TEMP}left-by-a-killed-writer").write_bytes(b"half")
    assert list(store.list()) == []
    with pytest.raises(StoreError, match="temporary"):
        store.put(f"{TEMP}x", b"")


def test_without_hard_links_a_conditional_put_is_refused_not_faked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = LocalStore(tmp_path)
    with pytest.raises(StoreError, match="without hard links"):
        store.put_if_absent("log/0", b"x")
    assert not store.probe().conditional_put
    assert list(store.list()) == []


def test_sweeping_takes_what_dead_writers_left_and_nothing_else(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("saves/1-1/whole", b"x")
    left = [tmp_path / folder / f"{TEMP}half" for folder in ("saves/1-1", "saves/2-1", "saves/3-2", "log")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")

    def dead(folder: str) -> bool:
        return folder.endswith("-1")

    assert store.sweep("saves", 3600.0, dead) == 0
    assert store.sweep("saves", 0.0, dead) == 2
    assert [path.exists() for path in left] == [False, False, True, True]
    assert not left[1].parent.exists()
    assert store.get("saves/1-1/whole") == b"x"
    assert store.sweep("saves", 0.0, dead) == 0
    assert store.sweep("none", 0.0, dead) == 0
    assert store.sweep("", 0.0, lambda folder: folder == "log") == 1
