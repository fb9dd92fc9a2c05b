"""The page everyone reads: train from a step to the last one, saving, evaluating and leaving when it is time.

`step` means optimizer steps completed; a step's batch is the next one of the order that is not left out. What all ranks must do together
(save, evaluate, leave) is decided from the step number, or agreed: by the one all-reduce that ends a step, between the micro-batches of a
long step, between the batches of an evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from data_pipeline.allocator import give_back_freed
from data_pipeline.loading.loader import Batch, Loader
from data_pipeline.storage import StoreError
from orchestrator.digests import slot_digest
from orchestrator.errors import Diverged, MixerError
from orchestrator.frozen import Frozen
from orchestrator.training.aside import Aside
from orchestrator.training.compile_cache import CompileCache
from orchestrator.training.contact import Contact
from orchestrator.training.engine import Engine
from orchestrator.training.events import Events
from orchestrator.training.judge import Judge
from orchestrator.training.pulse import Pulse
from orchestrator.training.save_clock import SaveClock
from orchestrator.training.schedule import due, learning_rate
from orchestrator.training.snapshot import Saver

LONG_STEP_S = 2.0  # a step as long as this may be left between two micro-batches
LOOK_EVERY_S = 1.0
SPARE_S = 5.0  # before a deadline, kept free besides what the last save took


@dataclass
class Task:
    """What a rank works on. `step` and `position` (items passed: trained on or left out) are where it is."""

    frozen: Frozen
    engine: Engine
    loader: Loader
    saver: Saver
    events: Events
    contact: Contact | None  # rank 0 only
    evaluate: Callable[[], dict[str, Any] | None] | None  # None is its answer when told to leave meanwhile
    aside: Aside
    judge: Judge
    left_out: Sequence[int] = ()  # batches, passed and to come
    step: int = 0
    position: int = 0
    unevaluated: bool = False  # rank 0 only: the state it starts from is to be evaluated
    evaluated: int = -1
    step_s: float | None = None  # rank 0's seconds for the last step, the same number on all ranks
    clock: SaveClock = field(default_factory=SaveClock)
    pulse: Pulse = field(default_factory=Pulse)
    compile_cache: CompileCache | None = None


def train(task: Task) -> str:
    """Train to the end, or until told to leave: "finished" or "stopped"."""
    leave = begin(task)
    while task.step < task.frozen.steps and not leave:
        leave, save_asked = one_step(task)
        last = task.step == task.frozen.steps
        if leave or last or save_asked or due(task.step, task.frozen.save_steps):
            save(task)
        if not leave and not last:
            leave = evaluation_is_due(task) and not run_evaluation(task)
    whole = task.step == task.frozen.steps and run_evaluation(task)
    if not whole:
        save(task)
    task.pulse.mark("leave", task.step)
    task.saver.wait()
    return "finished" if whole else "stopped"


def begin(task: Task) -> bool:
    """Before the first step: what the attempt before could not evaluate is evaluated. Whether all agreed to leave already."""
    told = task.contact.leave if task.contact else False
    leave, unevaluated = task.engine.agree([float(told), float(task.unevaluated)])
    if not unevaluated:
        task.evaluated = task.step
    return leave > 0 or (task.step < task.frozen.steps and not run_evaluation(task))


def one_step(task: Task) -> tuple[bool, bool]:
    """One optimizer step, or none where it is left half-way. Whether all agreed to leave, and whether to save."""
    engine, start, forward_s = task.engine, time.time(), task.engine.forward_s
    task.pulse.mark("read", task.step)
    batch = next(task.loader)
    arrived = time.time()
    rate = _rate(task)
    losses = _micro_batches(task, batch, start, arrived)
    if losses is None:
        return True, False
    task.pulse.mark("collective", task.step)
    norm = engine.step(rate)
    loss, leave, save_asked, norm, task.step_s = _agree(task, float(losses), norm, start)
    global_batch = task.frozen.spec.train.global_batch
    facts = {"step": task.step + 1, "batch": batch.position // global_batch}
    if why := task.judge.judge(loss, norm):  # the same on all ranks, before anything is saved
        task.events.note("diverged", **facts, why=why)
        _let_the_upload_end(task)
        raise Diverged(**facts, why=f"{why}; lower the rate or clip harder if this comes again")
    task.step += 1
    task.position = batch.position + global_batch
    task.pulse.busy(arrived - start + engine.forward_s - forward_s)
    _note(task, batch, start=start, wait=arrived - start, loss=loss, norm=norm, lr=rate)
    if task.compile_cache:
        task.compile_cache.share(task.contact)
    return leave, save_asked


def _micro_batches(task: Task, batch: Batch, start: float, arrived: float) -> torch.Tensor | None:
    """Forward and backward of this rank's part of a step: the sum of its losses. None where all agreed to leave the step half-way."""
    engine = task.engine
    losses = torch.zeros((), dtype=torch.float64, device=engine.place.device)
    first_of_attempt = engine.fresh
    for turn in range(engine.rounds):
        if turn:
            engine.close_micro_batch()
            if _leaves_half_way(task, turn, start):
                task.events.note("step dropped", step=task.step + 1, turn=turn)
                return None
        task.pulse.mark("compute", task.step, turn)
        micro = batch.micro_batches[
            min(turn, len(batch.micro_batches) - 1)
        ]  # a short worker repeats its last one, masked
        real = turn < len(batch.micro_batches)
        losses += engine.forward_backward(micro.images, micro.labels, int(micro.items[0]), real=real)
        if turn == 0 and first_of_attempt and task.frozen.spec.train.compile:
            task.events.note("span", name="compile", start=arrived)
    return losses


def _leaves_half_way(task: Task, turn: int, start: float) -> bool:
    """Whether all agree to drop the step after `turn` micro-batches. Its gradients are in no saved state; it is done again."""
    if task.step_s is not None:  # in the first step of an attempt, which compiles, they always look
        every = max(1, int(LOOK_EVERY_S * task.engine.rounds / max(task.step_s, 1e-6)))
        if task.step_s < LONG_STEP_S or turn % every:
            return False
    task.pulse.mark("collective", task.step, turn)
    return task.aside.any(task.contact is not None and _too_late(task.contact, task, turn, start))


def _too_late(contact: Contact, task: Task, turn: int, start: float) -> bool:
    """Whether the rest of the step and a save do not fit before the deadline."""
    if not contact.leave or contact.deadline is None:
        return False
    now, rounds = time.time(), task.engine.rounds
    whole = task.step_s or (now - start) * rounds / turn
    rest = whole * (rounds - turn) / rounds
    return now + rest + task.saver.upload_s + SPARE_S > contact.deadline


def _agree(
    task: Task, losses: float, norm: float | None, start: float
) -> tuple[float, bool, bool, float | None, float]:
    """The mean loss, whether to leave, whether to save, the gradient's norm and rank 0's seconds: the same on all ranks."""
    first = task.contact is not None
    mine = norm or 0.0
    numbers = [losses, *_orders(task), mine if first else 0.0 * mine, time.time() - start if first else 0.0]
    total, leave, save_asked, agreed, seconds = task.engine.agree(
        numbers
    )  # 0 * inf is nan: no rank's is lost
    return total / task.engine.slots, leave > 0, save_asked > 0, None if norm is None else agreed, seconds


def _let_the_upload_end(task: Task) -> None:
    """Before all ranks fail alike: what was saved before is whole in the store, and the run goes back no further than to that."""
    task.pulse.mark("save", task.step)
    with suppress(StoreError, MixerError):
        task.saver.wait()
    task.engine.agree([0.0])  # the first to fail ends the others


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
    by_clock = task.clock.due(task.saver.upload_s)
    return [float(task.contact.leave), float(task.contact.take_save() or by_clock)]


def save(task: Task) -> None:
    """Save this step, unless it is saved or is none."""
    if task.saver.last_step == task.step or not task.step:
        return
    task.pulse.mark("save", task.step)
    began = time.monotonic()
    with task.events.span("save"):
        task.saver.save(task.engine.owned(), step=task.step, position=task.position, state=_state(task))
        if not task.frozen.spec.checkpoint.async_:
            task.saver.wait()
        if task.engine.place.device.type == "cpu":  # where large blocks are kept too (worker.py)
            give_back_freed()
    task.clock.saved(time.monotonic() - began)


def _state(task: Task) -> dict[str, Any]:
    """What a checkpoint holds besides the engine's part. What a plain run does not need is not there."""
    batch = task.frozen.spec.train.global_batch
    skipped = [number for number in task.left_out if number * batch < task.position]
    state: dict[str, Any] = {"updates": task.step, "skipped": skipped}
    if judged := task.judge.state:
        state["judged"] = judged
    if evaluation_is_due(task):
        state["unevaluated"] = True
    return state


def evaluation_is_due(task: Task) -> bool:
    """Whether this step is to be evaluated, and is not yet."""
    here = task.step == task.frozen.steps or due(task.step, task.frozen.evaluate_steps)
    return here and task.evaluate is not None and task.evaluated != task.step


def run_evaluation(task: Task) -> bool:
    """Evaluate at this step, unless that is done. False when told to leave meanwhile: then it is as if it had not begun."""
    if task.evaluate is None or task.evaluated == task.step:
        return True
    task.pulse.mark("evaluate", task.step)
    with task.events.span("evaluation"):
        result = task.evaluate()
    if result is None:
        return False
    task.evaluated = task.step
    if task.contact:
        task.events.note("evaluated", step=task.step, **result)
        with suppress(StoreError):  # before the driver is told: what it knows of is not done again
            task.events.flush()
        task.contact.tell(evaluation={"step": task.step, **result})
    return True


def _note(task: Task, batch: Batch, **facts: Any) -> None:
    slots = {str(micro.slot): slot_digest(micro.ids) for micro in batch.micro_batches}
    global_batch = task.frozen.spec.train.global_batch
    mine: dict[str, Any] = {"batch": batch.position // global_batch, "slots": slots}
    if task.frozen.spec.events.sample_ids:
        mine["ids"] = {str(micro.slot): micro.ids.tolist() for micro in batch.micro_batches}
    if task.contact is None:
        task.events.note("step", step=task.step, **mine)
        return
    world = task.engine.place.world
    task.events.note("step", step=task.step, world_size=world, position=task.position, **facts, **mine)
    seconds = time.time() - facts["start"]
    task.contact.tell(
        step=task.step,
        loss=facts["loss"],
        samples_seen=task.step * global_batch,
        images_per_s=global_batch / seconds,
        time=time.time(),
    )
