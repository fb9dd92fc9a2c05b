"""The run's ledger as metrics: what a driver shows on Ray's own Prometheus endpoint while it leads.

mixer_step, mixer_loss, mixer_world_size, mixer_goodput, mixer_attempts, mixer_losses, mixer_seconds{name} and mixer_loader{name}, each
with the label `run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from data_pipeline.storage import Store, StoreError
from orchestrator.accounts.totals import Totals
from orchestrator.leading import pace
from orchestrator.run_log import Entry

HELP = {
    "mixer_step": "optimizer steps completed",
    "mixer_loss": "mean loss of the newest step",
    "mixer_world_size": "workers of the newest attempt",
    "mixer_goodput": "share of the wall time that was productive",
    "mixer_attempts": "attempts started",
    "mixer_losses": "attempts that a fault, a preemption or a driver's death ended",
    "mixer_seconds": "wall time by name; the names add up to it",
    "mixer_loader": "what the loader of rank 0 has done in its attempt: bytes, gets, retries and more, by name",
}
Panel = Callable[[str, str, float, dict[str, str]], None]


class Metrics:
    """Gauges of one run, set through `panel(name, help, value, labels)` (clusters/gauges.py)."""

    def __init__(self, run: str, store: Store, panel: Panel) -> None:
        self._labels, self._panel = {"run": run}, panel
        self._totals = Totals(store)

    def show(self, entries: list[Entry], progress: dict[str, Any]) -> None:
        """Bring them up to date. A store that is away is no reason to fail: the next call catches up."""
        try:
            seconds = self._totals.seconds(entries, time.time())
        except StoreError:
            return
        for name, value in figures(entries, progress, seconds).items():
            self._panel(name, HELP[name], value, self._labels)
        for gauge, parts in (("mixer_seconds", seconds), ("mixer_loader", self._totals.loader)):
            for name, value in parts.items():
                self._panel(gauge, HELP[gauge], value, {**self._labels, "name": name})


def figures(entries: list[Entry], progress: dict[str, Any], seconds: dict[str, float]) -> dict[str, float]:
    """The gauges without parts, by name; what rank 0 has not said yet is not there."""
    said = {f"mixer_{key}": progress.get(key) for key in ("step", "loss", "world_size")}
    wall = sum(seconds.values())
    return {
        **{name: float(value) for name, value in said.items() if isinstance(value, int | float)},
        "mixer_goodput": seconds["productive"] / wall if wall else 0.0,
        "mixer_attempts": float(sum(entry.kind == "attempt started" for entry in entries)),
        "mixer_losses": float(len(pace.losses(entries))),
    }
