"""A run written by hand into a folder: log, workers' notes and checkpoints, at times the test chooses.

What the driver and the workers would write, through the product's own classes where they take a clock.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from orchestrator.accounts.status import Book
from orchestrator.checkpoints import keeping
from orchestrator.checkpoints.manifest import KINDS, Manifest, Slice, folder
from orchestrator.digests import slot_digest
from orchestrator.frozen import DataFacts, Frozen, bind
from orchestrator.run_log import Entry, RunLog
from orchestrator.run_store import Run
from orchestrator.spec_text import validate

Weight = np.ndarray[Any, np.dtype[np.float32]]
START = 1_780_000_000.0
SPEC: dict[str, Any] = {
    "name": "digits",
    "model": {
        "classes": 10, "image_size": 32, "patch": 4, "dim": 64, "depth": 4, "token_dim": 32,
        "channel_dim": 128,
    },
    "data": {"train": "data/train", "val": "data/val", "flip": False},
    "train": {"global_batch": 128, "micro_batch": 32, "steps": 120, "precision": "fp32", "zero": 2},
    "checkpoint": {"every": "20 steps", "keep": 2},
    "workers": {"min": 1, "max": 2},
}  # fmt: skip


class ScriptedRun:
    """Writes a run; `now` is its clock, in seconds since START."""

    def __init__(
        self, folder: Path, spec: dict[str, Any] | None = None, *, name: str = "digits-abc123"
    ) -> None:
        self.run = Run(f"{folder}/runs/{name}")
        self.now = 0.0
        self.frozen: Frozen = bind(
            validate(spec or SPEC),
            DataFacts(1437, 900.0, "d1" * 32),
            DataFacts(360, 900.0, "d2" * 32),
            code={"mixer": "0.1.0", "torch": "2.11.0"},
        )
        self.run.store.put("spec.yaml", self.frozen.to_yaml().encode())
        self.log = RunLog(self.run.store, "host/1/aa", clock=lambda: START + self.now)
        self._notes: dict[tuple[int, int], list[str]] = defaultdict(list)
        self.add(
            "created",
            run=name,
            fingerprint=self.frozen.fingerprint,
            code=self.frozen.code,
            steps=self.frozen.steps,
        )

    def add(self, kind: str, *, after: float = 0.0, **facts: Any) -> Entry:
        """A log entry, `after` seconds from now."""
        self.now += after
        return self.log.append(kind, **facts)

    def note(self, attempt: int, kind: str, *, rank: int = 0, at: float | None = None, **facts: Any) -> None:
        """A note of a worker, now or at `at`."""
        moment = START + (self.now if at is None else at)
        self._notes[attempt, rank].append(json.dumps({"t": moment, "kind": kind, **facts}))

    def span(self, attempt: int, name: str, seconds: float) -> None:
        """Rank 0 does something for `seconds`."""
        begin = START + self.now
        self.now += seconds
        self.note(attempt, "span", name=name, start=begin)

    def begin(self, world: int = 2, step: int = 0, path: str | None = None, *, place: float = 2.0) -> int:
        """An attempt starts: places workers (`place` s), imports (3), builds (1), loads (0.5), data (0.25)."""
        entry = self.add("attempt started", world=world, why="room for 2", checkpoint=path, step=step)
        self.now += place
        for rank in range(world):
            self.note(entry.n, "worker", pid=100 + rank, host="node-1", rank=rank)
        self.span(entry.n, "import", 3.0)
        self.span(entry.n, "engine", 1.0)
        if step:
            self.span(entry.n, "load", 0.5)
        self.span(entry.n, "data", 0.25)
        return entry.n

    def steps(
        self,
        attempt: int,
        first: int,
        last: int,
        *,
        world: int = 2,
        each: float = 0.5,
        wait: float = 0.1,
        fresh: bool = False,
    ) -> None:
        """Steps `first`..`last`, of `each` seconds; `fresh`: the first one compiles for 4 s more."""
        for step in range(first, last + 1):
            begin = self.now
            self.now += wait
            if fresh and step == first:
                self.span(attempt, "compile", 4.0)
            self.now = max(self.now, begin + each)
            for rank in range(world):
                slots = {
                    str(slot): slot_digest(np.arange(3) + 10 * step + slot)
                    for slot in range(4)
                    if slot * world // 4 == rank
                }
                mine = {
                    "start": START + begin,
                    "wait": wait,
                    "loss": loss(step),
                    "world_size": world,
                    "lr": 1e-3,
                    "norm": 1.0,
                    "position": 128 * step,
                }
                self.note(attempt, "step", rank=rank, step=step, slots=slots, **(mine if rank == 0 else {}))

    def save(
        self,
        attempt: int,
        step: int,
        *,
        stall: float = 0.2,
        delete: str | None = None,
        change: dict[str, Weight] | None = None,
    ) -> str:
        """Rank 0 saves, the driver commits; the checkpoint's path. It holds the weights that pictures show, some with a `change`."""
        self.span(attempt, "save", stall)
        path, name = folder(step, attempt), "rank-00000.safetensors"
        weights = {**picture_weights(), **(change or {})}
        slices, data = [], b""
        for param, weight in weights.items():
            raw = weight.astype("<f4").tobytes()
            for kind in KINDS:
                slices.append(Slice(param, kind, 0, weight.size, name, len(data), google_crc32c.value(raw)))
                data += raw
        files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
        shapes = {param: list(weight.shape) for param, weight in weights.items()}
        self.run.store.put(f"{path}/{name}", data)
        self.run.store.put(
            f"{path}/manifest.json", Manifest(step, 128 * step, attempt, shapes, files, slices, {}).to_bytes()
        )
        keeping.commit(self.run.store, self.log, path)
        if delete:
            self.add("checkpoint deleted", path=delete, step=0, why="keep: 2")
        return path

    def saved_twice(self) -> tuple[int, str, str]:
        """A first attempt of 40 steps, saved at 20 and at 40: its number and the two paths."""
        one = self.begin()
        self.steps(one, 1, 20)
        first = self.save(one, 20)
        self.steps(one, 21, 40)
        return one, first, self.save(one, 40)

    def evaluate(self, attempt: int, step: int, accuracy: float, *, seconds: float = 0.3) -> None:
        """Rank 0 evaluates."""
        self.span(attempt, "evaluation", seconds)
        self.note(attempt, "evaluated", step=step, accuracy=accuracy, loss=loss(step), samples=360)

    def end(self, attempt: int, outcome: str, step: int, cause: str = "", *, after: float = 0.0) -> None:
        """The driver writes how the attempt ended, `after` seconds from now."""
        self.add("attempt ended", after=after, attempt=attempt, outcome=outcome, cause=cause, step=step)

    def book(self) -> Book:
        """Everything written, read back from the store."""
        for (attempt, rank), lines in self._notes.items():
            body = ("\n".join(lines) + "\n").encode()
            self.run.store.put(f"events/{attempt:010d}-{rank:05d}-000000.jsonl", body)
        return Book(self.run)


def loss(step: int) -> float:
    """A loss that falls, with some noise; the same for a step whenever it is done."""
    return 0.04 + 2.26 * math.exp(-step / 60) * (1 + 0.12 * math.sin(step * 12.9898) * math.cos(step * 4.1))


def picture_weights() -> dict[str, Weight]:
    """The first three token MLPs and the stem of SPEC's model: waves, as trained weights often look."""
    rng = np.random.default_rng(0)
    tokens = {f"blocks.{block}.mlp_tokens.fc1.weight": _waves(32, 8, block) for block in range(3)}
    return {**tokens, "stem.proj.weight": rng.normal(size=(64, 3, 4, 4)).astype(np.float32)}


def _waves(units: int, grid: int, phase: float) -> Weight:
    """[units, grid * grid]"""
    rows, columns = np.mgrid[0:grid, 0:grid] / grid
    maps = [
        np.cos(2 * np.pi * ((unit % 5) * rows / 2 + (unit % 7) * columns / 2) + unit + phase) / (1 + unit % 9)
        for unit in range(units)
    ]
    return np.stack(maps).reshape(units, -1).astype(np.float32)


def killed_once(
    folder: Path, spec: dict[str, Any] | None = None, cause: str = "rank 1 died: SIGKILL"
) -> ScriptedRun:
    """120 steps at 2 workers; a worker is killed after step 53, the last checkpoint was that of step 40."""
    run = ScriptedRun(folder, spec)
    run.add("taken over", after=0.5, why="new run")
    one = run.begin()
    run.steps(one, 1, 20, fresh=True)
    first = run.save(one, 20)
    run.evaluate(one, 20, 0.62)
    run.steps(one, 21, 40)
    second = run.save(one, 40)
    run.evaluate(one, 40, 0.84)
    run.steps(one, 41, 53)
    run.note(one, "error", at=run.now + 0.2, error="RuntimeError: gloo: Connection closed by peer")
    run.end(one, "died", 53, cause, after=0.8)
    run.now += 0.3
    two = run.begin(step=40, path=second, place=1.5)
    run.steps(two, 41, 60, fresh=True)
    third = run.save(two, 60, delete=first)
    run.evaluate(two, 60, 0.91)
    run.steps(two, 61, 120)
    run.save(two, 120, delete=second)
    run.evaluate(two, 120, 0.968)
    run.now += 0.4
    run.note(two, "left", outcome="finished", step=120)
    run.end(two, "finished", 120, after=0.6)
    run.add("finished", after=0.1, step=120)
    del third
    return run
