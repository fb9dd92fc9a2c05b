"""A checkpoint in the memory of nodes: read from there when it is right, from the bucket when it is not; gone when nobody holds it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.storage import Store, open_store
from orchestrator.checkpoints import reading
from orchestrator.checkpoints.manifest import KINDS, folder, load_manifest
from orchestrator.checkpoints.reading import Want
from orchestrator.near import held
from orchestrator.near.client import Near, NearFirst
from orchestrator.near.held import Held, Holdings, memory_file
from orchestrator.near.server import Server
from orchestrator.on_ray.neighbours import Copies
from orchestrator.training.events import Events
from orchestrator.training.snapshot import SLICE_ELEMENTS, Saver
from tests.gang import run_gang
from tests.orchestrator.training.test_snapshot import SIZES, state


class Linked:
    """The other nodes, as a list of servers in this process."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.asked = 0

    def find(self, path: str, files: set[str]) -> set[str]:
        return {file for file in files if self._held(path, file)}

    def read(self, path: str, file: str, offset: int, length: int) -> bytes | None:
        self.asked += 1
        item = self._held(path, file)
        return item.read(offset, length) if item else None

    def _held(self, path: str, file: str) -> Held | None:
        found = (server.holdings.get(path, file) for server in self.servers)
        return next((item for item in found if item), None)


class Cluster:
    """Two nodes that know one another; a's ranks save."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(folder / "bucket")
        self.given: list[Held] = []
        self.of_a, self.of_b = Linked(), Linked()
        self.a = Server(str(folder / "a.near"), "a", self.of_a, self.given.append)
        self.b = Server(str(folder / "b.near"), "b", self.of_b, self.given.append)
        self.of_a.servers.append(self.b)
        self.of_b.servers.append(self.a)
        self.on_a, self.on_b = Near(str(folder / "a.near")), Near(str(folder / "b.near"))

    def saver(self, near: Near) -> Saver:
        shapes = {name: [size] for name, size in SIZES.items()}
        events = Events(self.store, 1, 0)
        return Saver(self.store, events, attempt=1, rank=0, world=1, shapes=shapes, near=near)

    def load(self, near: Near, path: str, value: float) -> NearFirst:
        """Read all of the checkpoint; every weight must be `value`, every moment one and two more."""
        manifest = load_manifest(self.store, path)
        source = near.over(self.store, path, manifest.files)
        for number, kind in enumerate(KINDS):
            for name, size in SIZES.items():
                target = np.zeros(size, dtype="<f4")
                reading.fill(source, path, manifest, [Want(name, kind, 0, size)], [target])
                assert (target == value + number).all()
        return source


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.a.close()
    made.b.close()


def save(saver: Saver, value: float, step: int) -> str:
    saver.save(state(value), step=step, position=step, state={"updates": step})
    saver.wait()
    return folder(step, 1)


def save_elsewhere(folder: str) -> str:
    """In a process of its own: a save of 1.0 at step 5."""
    shapes = {name: [size] for name, size in SIZES.items()}
    store, near = open_store(f"{folder}/bucket"), Near(f"{folder}/a.near")
    saver = Saver(store, Events(store, 1, 0), attempt=1, rank=0, world=1, shapes=shapes, near=near)
    return save(saver, 1.0, 5)


def lose(store: Store, path: str) -> None:
    """Delete the rank's file from the bucket: what is read now comes from memory."""
    store.delete(f"{path}/rank-00000.safetensors")


def test_a_save_is_read_from_the_memory_of_its_node(cluster: Cluster) -> None:
    path = save(cluster.saver(cluster.on_a), 1.0, 5)
    lose(cluster.store, path)
    size = 4 * 3 * sum(SIZES.values())
    assert cluster.load(cluster.on_a, path, 1.0).took == {"here": size}
    assert cluster.load(cluster.on_b, path, 1.0).took == {"far": size}
    assert [(item.source, item.path) for item in cluster.given] == [("a", path)]


def test_memory_outlives_the_process_that_wrote_it_and_goes_with_the_last_that_holds_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = run_gang(1, save_elsewhere, str(tmp_path), timeout=60)[0]
    lose(cluster.store, path)
    assert "bucket" not in cluster.load(cluster.on_a, path, 1.0).took
    room = f"/proc/{os.getpid()}/fd/{cluster.given[0].room.fd}"
    assert "memfd" in os.readlink(room)
    cluster.given.clear()
    cluster.a.holdings.keep(set())
    assert not Path(room).exists() or "memfd" not in os.readlink(room)


def test_the_next_save_writes_over_the_one_before_and_no_mixture_is_ever_read(cluster: Cluster) -> None:
    saver = cluster.saver(cluster.on_a)
    first = save(saver, 1.0, 5)
    second = save(saver, 10.0, 6)
    assert set(cluster.load(cluster.on_a, first, 1.0).took) == {"bucket"}
    assert set(cluster.load(cluster.on_a, second, 10.0).took) == {"here"}
    assert cluster.given[0].dropped
    assert cluster.given[0].read(0, 8) is None


def test_what_is_wrong_in_memory_is_read_from_the_bucket(cluster: Cluster) -> None:
    path = save(cluster.saver(cluster.on_a), 1.0, 5)
    os.pwrite(cluster.given[0].room.fd, b"\xff" * 64, 4 * SLICE_ELEMENTS)
    took = cluster.load(cluster.on_a, path, 1.0).took
    assert took["bucket"] > 0
    os.ftruncate(cluster.given[0].room.fd, 100)
    assert set(cluster.load(cluster.on_a, path, 1.0).took) == {"bucket"}


def test_what_another_node_holds_no_more_is_read_from_the_bucket(cluster: Cluster) -> None:
    path = save(cluster.saver(cluster.on_a), 1.0, 5)
    manifest = load_manifest(cluster.store, path)
    source = cluster.on_b.over(cluster.store, path, manifest.files)
    cluster.a.holdings.keep(set())
    target = np.zeros(SIZES["small"], dtype="<f4")
    reading.fill(source, path, manifest, [Want("small", "weight", 0, len(target))], [target])
    assert (target == 1.0).all()
    assert set(source.took) == {"bucket"}
    assert cluster.of_b.asked == 1


def test_without_a_node_that_answers_all_is_as_before(cluster: Cluster, tmp_path: Path) -> None:
    nobody = Near(str(tmp_path / "nobody.near"))
    path = save(cluster.saver(nobody), 1.0, 5)
    assert set(cluster.load(nobody, path, 1.0).took) == {"bucket"}
    assert set(cluster.load(Near(None), path, 1.0).took) == {"bucket"}
    assert not list(cluster.a.holdings)


def test_nothing_is_held_where_there_is_no_room(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "free_bytes", lambda: held.spare_bytes() + 1000)
    path = save(cluster.saver(cluster.on_a), 1.0, 5)
    assert not list(cluster.a.holdings)
    assert set(cluster.load(cluster.on_a, path, 1.0).took) == {"bucket"}
    assert not Copies(cluster.a.holdings).begin("b", path, "rank-00001.safetensors", 1001)
    copies = Copies(cluster.a.holdings)
    assert copies.begin("b", path, "rank-00001.safetensors", 600)
    assert not copies.begin("b", path, "rank-00002.safetensors", 600)  # the room is promised
    assert copies.begin("b", path, "rank-00001.safetensors", 1000)  # instead of the promise before


def test_a_stuck_node_does_not_hold_up_a_save_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr("orchestrator.near.client.PATIENCE_S", 0.3)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(tmp_path / "stuck.near"))
        stuck.listen(8)
        near, began = Near(str(tmp_path / "stuck.near")), time.monotonic()
        for step in (1, 2, 3):
            near.begin("rank-00000.safetensors", 8)
            near.write(b"12345678")
            assert not near.hold(folder(step, 1))
        assert time.monotonic() - began < 10


def test_a_copy_is_held_once_it_is_whole() -> None:
    holdings, path = Holdings(), folder(5, 1)
    copies = Copies(holdings)
    assert copies.begin("b", path, "f", 10)
    copies.write("b", path, "f", 0, b"01234")
    assert holdings.get(path, "f") is None
    copies.write("b", path, "f", 5, b"56789")
    copies.end("b", path, "f")
    item = holdings.get(path, "f")
    assert item is not None
    assert item.read(3, 4) == b"3456"
    assert item.read(3, 8) is None
    assert copies.begin("b", folder(6, 1), "f", 10)  # instead of the one before, not beside it
    assert holdings.get(path, "f") is None
    copies.end("b", path, "f")  # a late end of one that was overtaken
    copies.write("b", folder(6, 1), "f", 0, b"0123456789")
    copies.end("b", folder(6, 1), "f")
    newer = holdings.get(folder(6, 1), "f")
    assert newer is not None
    assert newer.read(0, 10) == b"0123456789"
    assert copies.begin("c", path, "g", 10)
    copies.keep({"b"})  # node c is gone
    holdings.keep({"a"}, orphans_s=60)
    assert [item.source for item in holdings] == ["b"]  # what is kept of a node is kept for when it is gone
    holdings.keep({"a"}, orphans_s=0)
    copies.end("c", path, "g")
    assert not list(holdings)


def test_a_new_rank_makes_room_by_what_its_forerunner_left(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When there is room for one copy only, it is the newest that is held and not the first."""
    first = save(cluster.saver(cluster.on_a), 1.0, 5)
    size = cluster.given[0].size
    cluster.given.clear()

    def free() -> int:
        taken = sum(item.room.allocated for item in cluster.a.holdings._held.values())
        return held.spare_bytes() + size + 100_000 - taken

    monkeypatch.setattr(held, "free_bytes", free)
    fresh = Near(cluster.on_a._path)
    second = save(cluster.saver(fresh), 10.0, 6)
    assert set(cluster.load(fresh, second, 10.0).took) == {"here"}
    assert set(cluster.load(fresh, first, 1.0).took) == {"bucket"}
    monkeypatch.setattr(held, "free_bytes", lambda: 0)
    assert cluster.a.holdings.relieve()
    assert set(cluster.load(fresh, second, 10.0).took) == {"bucket"}


def test_memory_that_can_be_had_is_less_than_there_is() -> None:
    assert held.SPARE_BYTES <= held.spare_bytes() < 1 << 44
    assert 0 < held.free_bytes() < held._meminfo()["MemTotal"]


def test_two_checkpoints_are_held_at_most() -> None:
    holdings = Holdings()

    def put(source: str, step: int, attempt: int) -> None:
        holdings.put(Held(source, folder(step, attempt), "f", 0, memory_file("f")))

    put("a", 10, 1)
    put("b", 10, 1)
    put("a", 20, 1)
    assert {(item.source, item.path) for item in holdings} == {
        ("a", folder(20, 1)),
        ("b", folder(10, 1)),
    }
    put("c", 15, 2)  # a later attempt's, though of an earlier step
    assert {item.path for item in holdings} == {folder(20, 1), folder(15, 2)}
    put("c", 16, 2)
    put("d", 17, 2)
    assert {item.source for item in holdings} == {"c", "d"}
