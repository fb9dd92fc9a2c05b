"""The page everyone reads: train from a step to the last one, saving, evaluating and leaving when it is time.

`step` means optimizer steps completed. What all ranks must do together (save, evaluate, leave) is decided from the step number, or
agreed by the one all-reduce that ends a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from data_pipeline.loader import Batch, Loader
from orchestrator.digests import slot_digest
from orchestrator.errors import Diverged
from orchestrator.frozen import Frozen
from orchestrator.training.contact import Contact
from orchestrator.training.engine import Engine
from orchestrator.training.events import Events
from orchestrator.training.schedule import due, learning_rate
from orchestrator.training.snapshot import Saver


@dataclass
class Task:
    """What a rank works on. `step` and `position` (items consumed) are where it is."""

    frozen: Frozen
    engine: Engine
    loader: Loader
    saver: Saver
    events: Events
    contact: Contact | None  # rank 0 only
    evaluate: Callable[[], dict[str, Any]] | None
    step: int = 0
    position: int = 0
    evaluated: int = -1
    saved_at: float = field(default_factory=time.monotonic)


def train(task: Task) -> str:
    """Train to the end, or until told to leave: "finished" or "stopped"."""
    while task.step < task.frozen.steps:
        leave, save_asked = one_step(task)
        last = task.step == task.frozen.steps
        if leave or last or save_asked or due(task.step, task.frozen.save_steps):
            save(task)
        if due(task.step, task.frozen.evaluate_steps) and not leave:
            run_evaluation(task)
        if leave and not last:
            task.saver.wait()
            return "stopped"
    run_evaluation(task)
    task.saver.wait()
    return "finished"


def one_step(task: Task) -> tuple[bool, bool]:
    """One optimizer step. Whether all agreed to leave, and whether to save."""
    engine, start = task.engine, time.time()
    batch = next(task.loader)
    arrived = time.time()
    rate = _rate(task)
    losses = torch.zeros((), dtype=torch.float64, device=engine.place.device)
    first_of_attempt = engine.fresh
    for turn in range(engine.rounds):
        if turn:
            engine.close_micro_batch()
        micro = batch.micro_batches[
            min(turn, len(batch.micro_batches) - 1)
        ]  # a short worker repeats its last one, masked
        real = turn < len(batch.micro_batches)
        losses += engine.forward_backward(micro.images, micro.labels, int(micro.items[0]), real=real)
        if turn == 0 and first_of_attempt and task.frozen.spec.train.compile:
            task.events.note("span", name="compile", start=arrived)
    norm = engine.step(rate)
    total, leave, save_asked = engine.agree([float(losses), *_orders(task)])
    if not math.isfinite(total) or not math.isfinite(
        norm or 0.0
    ):  # the same on all ranks, before anything is saved
        raise Diverged(
            f"step {task.step + 1}: loss {total / engine.slots}, gradient norm {norm}; lower the rate or clip harder"
        )
    task.step += 1
    task.position += task.frozen.spec.train.global_batch
    _note(task, batch, start=start, wait=arrived - start, loss=total / engine.slots, norm=norm, lr=rate)
    return leave > 0, save_asked > 0


def _rate(task: Task) -> float:
    train, frozen = task.frozen.spec.train, task.frozen
    return learning_rate(
        task.step,
        peak=train.optimizer.lr,
        warmup=frozen.warmup_steps,
        steps=frozen.steps,
        schedule=train.schedule,
    )


def _orders(task: Task) -> list[float]:
    """What rank 0 has been told or knows by its clock: leave, save. Other ranks add nothing."""
    if task.contact is None:
        return [0.0, 0.0]
    every = task.frozen.spec.checkpoint.every.seconds
    by_clock = every is not None and time.monotonic() - task.saved_at >= every
    return [float(task.contact.leave), float(task.contact.take_save() or by_clock)]


def save(task: Task) -> None:
    """Save this step, unless it is saved."""
    if task.saver.last_step == task.step:
        return
    with task.events.span("save"):
        task.saver.save(
            task.engine.owned(),
            step=task.step,
            position=task.position,
            state={"updates": task.step, "skipped": []},
        )
        if not task.frozen.spec.checkpoint.async_:
            task.saver.wait()
    task.saved_at = time.monotonic()


def run_evaluation(task: Task) -> None:
    """Evaluate at this step, unless that is done."""
    if task.evaluate is None or task.evaluated == task.step:
        return
    with task.events.span("evaluation"):
        result = task.evaluate()
    task.evaluated = task.step
    if task.contact:
        task.events.note("evaluated", step=task.step, **result)
        task.contact.tell(evaluation={"step": task.step, **result})


def _note(task: Task, batch: Batch, **facts: Any) -> None:
    slots = {str(micro.slot): slot_digest(micro.ids) for micro in batch.micro_batches}
    ids = {}
    if task.frozen.spec.events.sample_ids:
        ids = {"ids": {str(micro.slot): micro.ids.tolist() for micro in batch.micro_batches}}
    if task.contact is None:
        task.events.note("step", step=task.step, slots=slots, **ids)
        return
    world = task.engine.place.world
    task.events.note(
        "step", step=task.step, slots=slots, world_size=world, position=task.position, **facts, **ids
    )
    seconds = time.time() - facts["start"]
    task.contact.tell(
        step=task.step,
        loss=facts["loss"],
        samples_seen=task.position,
        images_per_s=task.frozen.spec.train.global_batch / seconds,
        time=time.time(),
    )
