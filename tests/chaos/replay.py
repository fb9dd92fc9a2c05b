"""The faultless run to hold a broken one against: the same world sizes at the same steps, on gangs of gloo processes, into a folder.

A segment is a range of steps at one world size. Each is worked on by the product's own worker main from the state that the one before
saved at its end; the saves come at the segments' ends, so that nothing of the run's own saves, attempts or machines is in it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.accounts.history import StepLine
from orchestrator.checkpoints.manifest import folder
from orchestrator.durations import Duration
from orchestrator.frozen import Frozen
from orchestrator.run_log import Entry
from orchestrator.run_log import left_out as named_left_out
from orchestrator.run_store import Run
from orchestrator.training.events import read_events
from orchestrator.training.worker import main as worker_main
from tests.gang import Gang, RankFailed

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Segment:
    """Steps begin+1..end, at one world size."""

    begin: int
    end: int
    world: int


def segments(history: Sequence[StepLine]) -> list[Segment]:
    """The committed steps, cut where the world size changes."""
    found: list[Segment] = []
    for line in history:
        world = int(line.facts["world_size"])
        if found and found[-1].world == world:
            found[-1] = Segment(found[-1].begin, line.step, world)
        else:
            found.append(Segment(line.step - 1, line.step, world))
    return found


def replay(frozen: Frozen, entries: Sequence[Entry], parts: Sequence[Segment], place: Path) -> dict[int, str]:
    """The losses of all steps of `parts`, exact (float.hex), by step. RankFailed when a gang fails."""
    run = Run(str(place / "runs" / "replay"))
    checkpoint: dict[str, str] | None = None
    losses: dict[int, str] = {}
    for number, part in enumerate(parts, 1):
        config = {
            "run": run.url,
            "attempt": number,
            "frozen": _at(frozen, part).to_yaml(),
            "checkpoint": checkpoint,
            "cpus": frozen.spec.workers.cpus,
            "gpus": 0,
            "left_out": list(named_left_out(entries)),
            "loss_every_s": None,
            "compile_cache": None,
        }
        checkpoint = _work(run, config, part, frozen.steps)
        losses |= dict(_losses(run, number, part))
    return losses


def _at(frozen: Frozen, part: Segment) -> Frozen:
    """The run, saving at the end of `part` and not before, with so many workers."""
    spec = frozen.spec
    workers = spec.workers.model_copy(update={"min": part.world, "max": part.world})
    saves = spec.checkpoint.model_copy(update={"every": Duration(part.end, "steps")})
    return frozen.with_resources(spec.model_copy(update={"workers": workers, "checkpoint": saves}))


def _work(run: Run, config: dict[str, Any], part: Segment, steps: int) -> dict[str, str]:
    """Work until the end of `part` is saved; that checkpoint."""
    path = folder(part.end, int(config["attempt"]))
    manifest = f"{path}/manifest.json"
    gang = Gang(part.world, worker_main, config)
    if part.end == steps:
        gang.wait(TIMEOUT_S)
    else:
        try:
            _until_saved(run, gang, manifest)
        finally:
            gang.kill()
    return {"path": path, "sha256": hashlib.sha256(run.store.get(manifest)).hexdigest()}


def _until_saved(run: Run, gang: Gang, manifest: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while run.store.head(manifest) is None:
        if gang.poll() or time.monotonic() > deadline:
            raise RankFailed(f"the replay ended without {manifest}: {gang.said}")
        time.sleep(0.02)


def _losses(run: Run, attempt: int, part: Segment) -> Iterator[tuple[int, str]]:
    """What rank 0 noted; its notes are written before a save is whole."""
    for event in read_events(run.store, attempt):
        if event["kind"] == "step" and "loss" in event and part.begin < event["step"] <= part.end:
            yield int(event["step"]), float(event["loss"]).hex()
