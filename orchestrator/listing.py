"""The runs of a store, a line each: from their logs' ends, so that it stays quick for many runs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.accounts.status import Book
from orchestrator.run_store import Run, list_runs, runs_url


def list_store(store: str) -> list[dict[str, Any]]:
    """run, state, step, steps, since: one dict a run, by name."""
    names = list_runs(store)
    with ThreadPoolExecutor(8) as pool:
        rows = pool.map(lambda name: _row(Run(f"{runs_url(store)}/{name}")), names)
        return [row for row in rows if row]


def _row(run: Run) -> dict[str, Any] | None:
    """None for a folder that whoever began to make a run there left without one."""
    book = Book(run)
    if not book.entries and not run.exists():
        return None
    saved = [entry.facts["step"] for entry in book.entries if entry.kind == "checkpoint committed"]
    last = book.entries[-1].time if book.entries else time.time()
    return {
        "run": run.name,
        "state": book.state(),
        "step": max(int(book.progress.get("step", 0)), *saved, 0),
        "steps": book.frozen.steps,
        "since": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last)),
        "url": run.url,
    }
