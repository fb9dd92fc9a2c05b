"""Speak with a run from afar, through the bucket alone: read along, stop it, scale it."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.accounts.status import Book
from orchestrator.errors import UserError
from orchestrator.frozen import Frozen
from orchestrator.logs import lines, stamp
from orchestrator.run_log import ENDS
from orchestrator.run_store import Run
from orchestrator.watch import newest_progress, progress_text

POLL_S, STOP_TIMEOUT_S = 2.0, 600.0


def print_logs(run: Run, *, follow: bool, say: Callable[[str], None]) -> None:
    """Every line so far; with `follow`, new ones until the run ends."""
    shown: set[str] = set()
    last_step = -1
    while True:
        book = Book(run)
        for line in lines(book.entries, book.events):
            if line not in shown:
                shown.add(line)
                say(line)
        if not follow or book.state() in ("stopped", "failed", "finished", "abandoned"):
            return
        seen = newest_progress(run)
        if seen.get("step", -1) != last_step and "loss" in seen:
            last_step = seen["step"]
            say(f"{stamp(time.time())}  step {last_step}/{seen.get('steps', '?')}  {progress_text(seen)}")
        time.sleep(POLL_S)


def stop_run(run: Run, *, wait: bool) -> str:
    """Ask the run to save and leave; what came of it. UserError when nobody leads it."""
    _require_led(run)
    number = run.request("stop")
    if not wait:
        return f"asked {run.name} to stop ({number})"
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        entries = run.log().entries
        if entries and entries[-1].kind in ENDS:
            saved = [entry.facts["step"] for entry in entries if entry.kind == "checkpoint committed"]
            return f"{run.name}: {entries[-1].kind} at step {saved[-1] if saved else 0}; `mixer train {run.name}` resumes it"
        time.sleep(POLL_S / 2)
    raise UserError(
        f"{run.name} has not left after {STOP_TIMEOUT_S:.0f} s; `mixer logs {run.name}` shows what it does"
    )


def scale_run(run: Run, size: str) -> str:
    """Change workers.min and workers.max of a led run; UserError when MIN:MAX is not two numbers that fit."""
    low, _, high = size.partition(":")
    if not (low.isdigit() and high.isdigit() and 1 <= int(low) <= int(high)):
        raise UserError(f"scale got {size!r}; write MIN:MAX, for example 2:8")
    frozen: Frozen = run.frozen()
    slots = frozen.spec.train.micro_batches
    if int(high) > slots:
        raise UserError(
            f"scale got at most {high} workers; a step has {slots} micro-batches, so at most {slots} have work"
        )
    _require_led(run)
    number = run.request("scale", min=int(low), max=int(high))
    return f"asked {run.name} for {low}..{high} workers ({number})"


def _require_led(run: Run) -> None:
    state = Book(run).state()
    if state == "finished":
        raise UserError(f"{run.name} has finished: no driver leads it, and none will")
    if state in ("stopped", "failed", "abandoned"):
        raise UserError(f"{run.name} is {state}: no driver leads it; `mixer train {run.name}` resumes it")
