"""The cache of blocks: never wrong, never over its limit for long, shared by processes, harmless when it breaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.loading.blocks import BlockFetcher
from data_pipeline.loading.cache import ABANDONED_S, BlockCache
from data_pipeline.shards.dataset import Dataset
from tests.data_pipeline.loading.test_blocks import flipped, numbers

LIMIT = 1_000_000


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in kept(folder))


def test_a_second_reader_asks_the_store_for_nothing(make_set: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = make_set(31)
    for expected in ((3, 0), (0, 3)):
        fetcher = BlockFetcher(dataset, BlockCache(tmp_path / "cache", LIMIT))
        assert numbers(fetcher.fetch(5, 20)) == list(range(5, 25))
        assert (fetcher.gets, fetcher.stats()["cache_hits"]) == expected
    assert fetcher.stats()["cache_bytes"] == size(tmp_path / "cache")


def test_what_the_disk_spoilt_is_dropped_and_fetched_again(
    make_set: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset, folder = make_set(31, shards=1), tmp_path / "cache"
    BlockFetcher(dataset, BlockCache(folder, LIMIT)).fetch(0, 8)
    (path,) = kept(folder)
    whole = path.read_bytes()
    for spoilt in (flipped(whole, 700), whole[:-1], whole + b"x", b""):
        path.write_bytes(spoilt)
        fetcher = BlockFetcher(dataset, BlockCache(folder, LIMIT))
        assert numbers(fetcher.fetch(0, 8)) == list(range(8))
        assert fetcher.gets == 1
        assert path.read_bytes() == whole


def test_another_data_set_of_the_same_names_is_another_thing(
    make_set: Callable[..., Dataset], tmp_path: Path, through: Callable[..., Any]
) -> None:
    dataset = make_set(31)
    cache = BlockCache(tmp_path / "cache", LIMIT)
    BlockFetcher(dataset, cache).fetch(0, 4)
    dataset.digest = "another"
    store = through(dataset)
    BlockFetcher(dataset, cache).fetch(0, 4)
    assert len(store.reads) == 1


def test_the_limit_holds_and_what_was_used_last_stays(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, LIMIT)
    block = os.urandom(20_000)
    for n in range(200):
        cache.put(block, n)
        os.utime(cache._path((n,)), (n, n))
        assert cache.get(0) == block  # always in use
        assert size(tmp_path) <= LIMIT + len(block)
    assert cache.get(199) == block
    assert cache.get(20) is None
    assert size(tmp_path) > 0.8 * LIMIT


def test_a_block_too_large_for_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, LIMIT)
    cache.put(b"x" * (LIMIT // 2), 0)
    assert kept(tmp_path) == []


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    make_set: Callable[..., Dataset], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    fetcher = BlockFetcher(make_set(31), BlockCache(tmp_path / "file", LIMIT))
    assert numbers(fetcher.fetch(0, 8)) == list(range(8))
    assert fetcher.stats()["cache_failures"] > 0


WRITER = """
import os, sys
from data_pipeline.loading.cache import BlockCache
cache, block = BlockCache(sys.argv[1], int(sys.argv[2])), bytes(range(256)) * 60
print("begun", flush=True)
n = 0
while True:
    cache.put(block, sys.argv[3], n)
    data = cache.get(sys.argv[3], n - 3)
    assert data is None or data == block, "torn"
    n += 1
"""


def test_writers_may_die_at_any_moment_and_share_one_folder(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(LIMIT), str(n % 2)], stdout=subprocess.PIPE
        )
        for n in range(4)
    ]
    try:
        for number, writer in enumerate(writers):
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"begun\n"
            time.sleep(0.3 * (number + 1) / 2)
            assert writer.poll() is None, "a reader saw a torn block"
            writer.send_signal(signal.SIGKILL)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(10)
            assert writer.stdout is not None
            writer.stdout.close()
    whole = bytes(range(256)) * 60
    blocks = [path for path in kept(tmp_path) if not path.name.startswith(".tmp-")]
    assert blocks
    assert all(path.read_bytes() == whole for path in blocks)
    assert size(tmp_path) <= LIMIT * 1.1 + 4 * len(whole)


def test_what_dead_writers_left_goes(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, LIMIT)
    cache.put(b"x" * 1000, 0)
    old, new = (path.with_name(f".tmp-{path.name}{n}") for n, path in enumerate(kept(tmp_path) * 2))
    for path, age in ((old, ABANDONED_S + 9), (new, 0.0)):
        path.write_bytes(b"y")
        os.utime(path, (time.time() - age,) * 2)
    BlockCache(tmp_path, LIMIT).put(b"x", 1)  # the first write of a process looks at the folder
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("home", ["~", "~/x"])
def test_the_folder_may_be_in_the_home(home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    BlockCache(home, LIMIT).put(b"x", 0)
    assert len(kept(tmp_path)) == 1


def test_what_is_not_the_caches_is_left_alone(tmp_path: Path) -> None:
    """The folder may be anybody's scratch; only blocks are counted, and only blocks go."""
    foreign = [tmp_path / "ab" / "model.pt", tmp_path / f"blocks-of-{os.getuid()}" / "cd" / "notes.txt"]
    for path in foreign:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * LIMIT)
        os.utime(path, (0, 0))
    (tmp_path / f"blocks-of-{os.getuid()}" / "ef" / "folder").mkdir(parents=True)
    cache = BlockCache(tmp_path, LIMIT)
    for n in range(200):
        cache.put(os.urandom(20_000), n)
    assert all(path.exists() for path in foreign)
    own = sum(path.stat().st_size for path in kept(tmp_path) if path not in foreign)
    assert 0.8 * LIMIT < own <= LIMIT + 20_000
    assert cache.failures == 0


def test_nobody_else_may_look_into_it(tmp_path: Path) -> None:
    BlockCache(tmp_path, LIMIT).put(b"x", 0)
    (own,) = (path for path in tmp_path.iterdir())
    assert own.stat().st_mode & 0o777 == 0o700
