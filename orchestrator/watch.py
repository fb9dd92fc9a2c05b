"""A live line under a foreground run: step, loss, images/s. Read from the bucket, like everybody else's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline.storage import StoreError
from orchestrator.run_store import Run

_PLAIN_EVERY_S, _LIVE_EVERY_S = 10.0, 1.0


def newest_progress(run: Run) -> dict[str, Any]:
    """What rank 0 of the newest attempt said last; empty before the first."""
    keys = [info.key for info in run.store.list("progress/")]
    newest = max(keys, key=lambda key: int(key.rsplit("/", 1)[1].removesuffix(".json")), default=None)
    return (run.read_json(newest) or {}) if newest else {}


def rate_text(rate: float) -> str:
    """A rate in as many digits as mean something: 1,090 or 774 or 0.046."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def progress_text(seen: dict[str, Any]) -> str:
    """`loss 1.2345  812 images/s  2 workers`, as far as known."""
    parts = []
    if "loss" in seen:
        parts.append(f"loss {seen['loss']:.4f}")
    if "images_per_s" in seen:
        parts.append(f"{rate_text(seen['images_per_s'])} images/s")
    if "world_size" in seen:
        parts.append(f"{seen['world_size']} workers")
    return "  ".join(parts)


@contextmanager
def watching(
    run: Run, steps: int, console: Console, label: str = "training"
) -> Iterator[Callable[[str], None]]:
    """Show the run's progress while the body runs; yields a function that prints a line above it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    done = threading.Event()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        task = progress.add_task(label, total=steps, note="starting")
        every = _LIVE_EVERY_S if console.is_terminal else _PLAIN_EVERY_S

        def look() -> None:
            shown = -1
            while not done.wait(every):
                try:
                    seen = newest_progress(run)
                except StoreError:
                    continue  # the run itself says what is wrong with the store
                step = int(seen.get("step", 0))
                progress.update(task, completed=step, note=progress_text(seen))
                if not console.is_terminal and step != shown and "loss" in seen:
                    console.print(f"step {step}/{steps}  {progress_text(seen)}", markup=False)
                    shown = step

        thread = threading.Thread(target=look, name="watch", daemon=True)
        thread.start()
        try:
            yield lambda text: console.print(text, markup=False)
        finally:
            done.set()
            thread.join(timeout=5)
