"""The main of a rank: join, build, restore, train, leave by type.

Started by Ray Train (orchestrator/attempt.py) or by any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
Everything it needs comes in `config`; everything it says goes to the bucket.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from functools import partial
from typing import Any

from data_pipeline.storage import StoreError
from orchestrator.errors import PeerLost
from orchestrator.frozen import Frozen
from orchestrator.redact import redact
from orchestrator.run_store import Run
from orchestrator.training.events import Events

_PEER_SIGNS = (
    "gloo",
    "connection closed by peer",
    "connection reset",
    "nccl",
    "broken pipe",
    "timed out waiting",
)


def main(config: dict[str, Any]) -> str:
    """Work on attempt `config["attempt"]` of the run at `config["run"]`; "finished" or "stopped".

    `config`: run (url), attempt (log number of its start), frozen (text of spec.yaml with this attempt's resources), checkpoint
    ({"path", "sha256"} or None). PeerLost when another rank is gone.
    """
    started = time.time()
    run, frozen = Run(config["run"]), Frozen.from_yaml(config["frozen"])
    rank = int(os.environ["RANK"])
    events = Events(run.store, config["attempt"], rank)
    events.note("worker", pid=os.getpid(), host=socket.gethostname(), rank=rank)
    events.flush()
    try:
        return _work(config, run, frozen, events, started)
    except Exception as error:
        events.note("error", error=redact(f"{type(error).__name__}: {error}")[:2000])
        if isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _PEER_SIGNS):
            raise PeerLost(f"rank {rank} lost its peers: {str(error).splitlines()[0][:200]}") from error
        raise
    finally:
        with suppress(StoreError):  # what went wrong before matters more; a save has flushed what it covers
            events.close()


def _work(config: dict[str, Any], run: Run, frozen: Frozen, events: Events, started: float) -> str:
    spec = frozen.spec
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.expanduser("~/.cache/mixer/inductor"))
    import torch

    torch.set_num_threads(max(1, int(spec.workers.cpus)))
    from orchestrator.training.contact import Contact
    from orchestrator.training.data import evaluation_batches, open_dataset, training_loader
    from orchestrator.training.engine import Engine, join, peak_flops
    from orchestrator.training.evaluate import evaluate
    from orchestrator.training.loop import Task, train
    from orchestrator.training.restore import restore
    from orchestrator.training.snapshot import Saver

    place = join(gpus=spec.workers.gpus)
    events.note("device", device=str(place.device), peak_flops=peak_flops(place.device))
    events.note("span", name="import", start=started)
    with events.span("engine"):
        engine = Engine(spec, place)
    step = position = 0
    if config["checkpoint"]:
        with events.span("load"):
            manifest = restore(engine, run.store, **config["checkpoint"])
        step, position = manifest.step, manifest.position
    with events.span("data"):
        dataset = open_dataset(spec.data.train, frozen.train)
        val = open_dataset(spec.data.val, frozen.val) if spec.data.val and frozen.val else None
        loader = training_loader(frozen, dataset, place, position=position, events=events)
    contact = Contact(run.store, config["attempt"]) if place.rank == 0 else None
    if contact:
        contact.tell(steps=frozen.steps, step=step, world_size=place.world)
    saver = Saver(
        run.store, events, attempt=config["attempt"], rank=place.rank, world=place.world, shapes=engine.shapes
    )
    if step:
        saver.last_step = step

    def evaluation() -> dict[str, Any]:
        assert val is not None
        told = partial(events.note, "bad sample", set="val")
        return evaluate(engine, evaluation_batches(frozen, val, place, lambda facts: told(**facts)))

    task = Task(frozen, engine, loader, saver, events, contact, evaluation if val else None, step, position)
    try:
        outcome = train(task)
        events.note("loader", **loader.stats())
        events.note("left", outcome=outcome, step=task.step)
        events.flush()
        engine.agree([0.0])  # nobody leaves before everybody's notes are written
        if contact:
            contact.close(exit=outcome, step=task.step)
        return outcome
    finally:
        loader.close()
