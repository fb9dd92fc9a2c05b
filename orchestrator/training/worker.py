"""The main of a rank: join, build, restore, train, leave by type.

Started by Ray Train (orchestrator/on_ray) or by any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
Everything it needs comes in `config`; everything it says goes to the bucket.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Any

from data_pipeline.storage import StoreError
from orchestrator.errors import PeerLost
from orchestrator.frozen import Frozen
from orchestrator.redact import redact
from orchestrator.run_store import Run
from orchestrator.training.events import Events
from orchestrator.training.pulse import Pulse

_PEER_SIGNS = (
    "gloo",
    "connection closed by peer",
    "connection reset",
    "nccl",
    "broken pipe",
    "timed out waiting",
)


def preload() -> None:
    """Import what main() would, so that processes forked off this one need not."""
    import data_pipeline.storage.s3_client  # noqa: F401
    from orchestrator.training import contact, data, engine, evaluate, loop, restore, snapshot  # noqa: F401


def main(config: dict[str, Any]) -> str:
    """Work on attempt `config["attempt"]` of the run at `config["run"]`; "finished" or "stopped".

    `config`: run (url), attempt (log number of its start), frozen (text of spec.yaml with this attempt's resources), checkpoint
    ({"path", "sha256"} or None), left_out (numbers of the batches to leave out). PeerLost when another rank is gone; Diverged when a
    batch gives a loss or a gradient that cannot be used.
    """
    started = time.time()
    run, frozen = Run(config["run"]), Frozen.from_yaml(config["frozen"])
    rank = int(os.environ["RANK"])
    events, pulse = Events(run.store, config["attempt"], rank), Pulse.of_environment()
    node = os.environ.get("MIXER_NODE")
    events.note("worker", pid=os.getpid(), host=socket.gethostname(), rank=rank, node=node)
    events.flush()
    try:
        return _work(config, run, frozen, events, pulse, started)
    except Exception as error:
        events.note("error", error=redact(f"{type(error).__name__}: {error}")[:2000])
        if _is_of_peers(error):
            raise PeerLost(f"rank {rank} lost its peers: {str(error).splitlines()[0][:200]}") from error
        raise
    finally:
        with suppress(StoreError):  # what went wrong before matters more; a save has flushed what it covers
            events.close()


def _is_of_peers(error: Exception) -> bool:
    """Whether an error says that another rank, or the way to it, is gone."""
    from torch.distributed import DistError

    signs = isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _PEER_SIGNS)
    return signs or isinstance(error, DistError)


def _work(
    config: dict[str, Any], run: Run, frozen: Frozen, events: Events, pulse: Pulse, started: float
) -> str:
    spec = frozen.spec
    pulse.mark("import")
    root = os.environ.get("MIXER_CACHE") or os.path.expanduser("~/.cache/mixer/inductor")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", root)
    import torch

    torch.set_num_threads(max(1, int(spec.workers.cpus)))
    from data_pipeline.allocator import keep_freed_blocks
    from orchestrator.near.client import Near
    from orchestrator.training.aside import Aside
    from orchestrator.training.board import Board
    from orchestrator.training.compile_cache import take_cache
    from orchestrator.training.contact import Contact, evaluated_by
    from orchestrator.training.data import evaluation_batches, open_dataset, training_loader
    from orchestrator.training.engine import Engine, join, peak_flops
    from orchestrator.training.evaluate import evaluate
    from orchestrator.training.judge import Judge
    from orchestrator.training.loop import Task, train
    from orchestrator.training.restore import begin_from, restore
    from orchestrator.training.save_clock import SaveClock
    from orchestrator.training.schedule import batches_to_skip
    from orchestrator.training.snapshot import Saver

    pulse.mark("join")
    place = join(gpus=spec.workers.gpus)
    pulse.mark("engine")
    events.note("device", device=str(place.device), peak_flops=peak_flops(place.device))
    events.note("span", name="import", start=started)
    cache = take_cache(spec, place.device, run.store, events, config)
    with events.span("engine"):
        engine = Engine(spec, place)
        engine.pulse = pulse
    near = Near.of_environment() if spec.checkpoint.in_memory else Near(None)
    step = position = 0
    state: dict[str, Any] = {}
    if config["checkpoint"]:
        pulse.mark("load")
        with events.span("load"):
            manifest, took = restore(engine, run.store, **config["checkpoint"], near=near)
        events.note("loaded", **took)
        step, position, state = manifest.step, manifest.position, manifest.state
    elif frozen.init:
        pulse.mark("load")
        with events.span("load"):
            took = begin_from(engine, run.store, frozen.init)
        events.note("loaded", **took)
    batch = spec.train.global_batch
    left_out = batches_to_skip(config.get("left_out", ()), state.get("skipped", ()), position, batch)
    pulse.mark("data", step)
    keep_freed_blocks(large=place.device.type == "cpu")  # a GPU's activations are not in this memory
    with events.span("data"):
        dataset = open_dataset(spec.data.train, frozen.train)
        val = open_dataset(spec.data.val, frozen.val) if spec.data.val and frozen.val else None
        loader = training_loader(frozen, dataset, place, position=position, left_out=left_out, events=events)
    with loader:
        events.meter("loader", loader.stats)
        contact = Contact(run.store, config["attempt"]) if place.rank == 0 else None
        if contact:
            events.board = Board(run.store, config["attempt"], batch=batch, step=step)
            contact.tell(steps=frozen.steps, step=step, world_size=place.world)
        of_rank = {"attempt": config["attempt"], "rank": place.rank, "world": place.world}
        saver = Saver(run.store, events, **of_rank, shapes=engine.shapes, kinds=engine.kinds, near=near)
        saver.prepare(engine.owned())
        if step:
            saver.last_step = step

        unevaluated = contact is not None and step > 0 and state.get("unevaluated", step == frozen.steps)
        if unevaluated:  # unless an attempt did it that left before it could save again
            unevaluated = not evaluated_by(run.store, range(manifest.attempt, config["attempt"]), step)

        def evaluation() -> dict[str, Any] | None:
            assert val is not None
            batches = evaluation_batches(frozen, val, place, events.note)
            return evaluate(engine, batches, contact, pulse)

        task = Task(
            frozen,
            engine,
            loader,
            saver,
            events,
            contact,
            evaluation if val else None,
            Aside(place),
            Judge(spec.recovery.spike, state.get("judged")),
            left_out,
            step,
            position,
            unevaluated=unevaluated,
            clock=SaveClock(spec.checkpoint.every, config.get("loss_every_s")),
            pulse=pulse,
            compile_cache=cache,
        )
        try:
            outcome = train(task)
            events.settle()
            events.note("left", outcome=outcome, step=task.step)
            events.flush()
            engine.agree([0.0])  # nobody leaves before everybody's notes are written
            if contact:
                contact.close(exit=outcome, step=task.step)
            pulse.mark("leave", task.step)
            return outcome
        finally:
            events.settle()
