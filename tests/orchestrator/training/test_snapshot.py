"""One buffer for all saves; a save that waits says so; what is written is what was there at the save."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.storage import Bytes, StoreError, open_store
from orchestrator.checkpoints import reading
from orchestrator.checkpoints.manifest import KINDS, folder, load_manifest
from orchestrator.checkpoints.reading import read_weights
from orchestrator.errors import DamagedCheckpoint
from orchestrator.training.events import Events, read_events
from orchestrator.training.fragments import Fragment
from orchestrator.training.host_memory import HostMemory
from orchestrator.training.snapshot import SLICE_ELEMENTS, Saver

SIZES = {"big": SLICE_ELEMENTS + 1234, "small": 7}


class Gate:
    """A store whose uploads stand still until `open` is set, and fail where `broken` is."""

    def __init__(self, store: Any) -> None:
        self._store, self.open, self.broken = store, threading.Event(), False
        self.begun = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_stream(self, key: str, size: int, chunks: Iterator[Bytes]) -> None:
        self.begun.set()
        assert self.open.wait(30)
        if self.broken:
            raise StoreError("the disk is full")
        self._store.put_stream(key, size, chunks)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(open_store(tmp_path))


@pytest.fixture
def saver(gate: Gate) -> Saver:
    shapes = {name: [size] for name, size in SIZES.items()}
    return Saver(gate, Events(gate, 1, 0), attempt=1, rank=0, world=1, shapes=shapes)


def state(value: float) -> list[Fragment]:
    return [
        Fragment(name, 0, {kind: torch.full((size,), value + n) for n, kind in enumerate(KINDS)})
        for name, size in SIZES.items()
    ]


def save(saver: Saver, owned: list[Fragment], step: int) -> None:
    saver.save(owned, step=step, position=step, state={"updates": step})


def saved(gate: Gate, step: int) -> dict[str, set[float]]:
    """The values of each kind in the checkpoint of `step`."""
    path = folder(step, 1)
    manifest = load_manifest(gate, path)
    assert reading.verify(gate, path, manifest) == []
    return {
        kind: {
            float(value)
            for whole in read_weights(gate, path, manifest, kind).values()
            for value in np.unique(whole)
        }
        for kind in KINDS
    }


def notes(gate: Gate, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(gate) if event["kind"] == kind]


def test_training_goes_on_over_the_tensors_while_a_save_is_on_its_way(gate: Gate, saver: Saver) -> None:
    owned = state(1.0)
    save(saver, owned, 10)
    assert gate.begun.wait(30)
    for fragment in owned:
        for view in fragment.views.values():
            view.fill_(-5.0)
    gate.open.set()
    saver.wait()
    assert saved(gate, 10) == {"weight": {1.0}, "exp_avg": {2.0}, "exp_avg_sq": {3.0}}


@pytest.mark.parametrize("prepared", [True, False])
def test_all_saves_share_one_buffer_of_the_state_once(gate: Gate, saver: Saver, prepared: bool) -> None:
    gate.open.set()
    if prepared:
        saver.prepare(state(0.0))
    seen = set()
    for step in range(1, 4):
        save(saver, state(float(step)), step)
        saver.wait()
        seen.add((saver._memory._room.ctypes.data, saver._memory.bytes))
    assert len(seen) == 1
    assert saver._memory.bytes == 4 * 3 * sum(SIZES.values())
    assert [saved(gate, step)["weight"] for step in range(1, 4)] == [{1.0}, {2.0}, {3.0}]
    assert notes(gate, "save waited") == []


def test_a_save_that_finds_the_one_before_on_its_way_waits_and_says_so(gate: Gate, saver: Saver) -> None:
    save(saver, state(1.0), 10)
    assert gate.begun.wait(30)
    timer = threading.Timer(0.3, gate.open.set)
    timer.start()
    save(saver, state(2.0), 11)
    saver.wait()
    saver._events.flush()
    waited = notes(gate, "save waited")
    assert [(note["step"], note["behind"]) for note in waited] == [(11, 10)]
    assert waited[0]["seconds"] > 0
    assert saved(gate, 10)["weight"] == {1.0}
    assert saved(gate, 11)["weight"] == {2.0}


def test_a_save_that_failed_is_said_and_the_next_one_is_whole(gate: Gate, saver: Saver) -> None:
    gate.broken = True
    gate.open.set()
    save(saver, state(1.0), 10)
    assert saver._thread is not None
    saver._thread.join(30)
    gate.broken = False
    save(saver, state(2.0), 11)
    saver.wait()
    saver._events.flush()
    assert [note["step"] for note in notes(gate, "save failed")] == [10]
    assert saved(gate, 11)["weight"] == {2.0}
    with pytest.raises(DamagedCheckpoint):
        saved(gate, 10)


def test_a_buffer_that_is_too_small_grows() -> None:
    memory = HostMemory()
    memory.prepare([Fragment("p", 0, {"weight": torch.ones(5)})])
    copies = memory.copy([Fragment("p", 2, {"weight": torch.arange(9.0)})])
    assert [(param, kind, start) for param, kind, start, _ in copies] == [("p", "weight", 2)]
    assert copies[0][3].tolist() == list(range(9))


@pytest.mark.gpu
def test_on_a_gpu_the_buffer_is_page_locked_and_no_larger_than_the_state() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    memory, view = HostMemory(), torch.arange(1e6, device="cuda")
    fragment = Fragment("p", 0, {"weight": view})
    memory.prepare([fragment])
    copies = memory.copy([fragment])
    assert np.array_equal(copies[0][3], view.cpu().numpy())
    assert memory.locked
    assert memory.bytes == 4_000_000
