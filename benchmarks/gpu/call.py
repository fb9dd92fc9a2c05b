"""One call of the benchmark: its device, its time, and the figures it adds to.

Call(asked).run(groups) -> each row measured and written -> table, bars, what was left for want of time
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import torch

from benchmarks import report
from benchmarks.gpu import ceiling, curve, plan, profiling, tables
from benchmarks.gpu.plan import FULL, TINY, Row, Setting
from benchmarks.gpu.results import Results, file_name, now
from benchmarks.gpu.steps import FULL_MEMORY, about, attempted, measured

SPARE: Final = 1.2
"""A row is begun while this many times the longest so far is left."""
FIRST: Final = 20.0
"""Seconds that a row is thought to take before there was one."""
COMMAND: Final = "python -m benchmarks.gpu"

Piece = tuple[str, str, Callable[[], dict[str, Any]]]
"""A part of the figures, a key in it, and what finds its value."""


class Call:
    """What was asked for, and the figures so far."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.setting: Setting = TINY if asked.tiny else FULL
        self.device = torch.device("cpu" if asked.tiny else "cuda")
        if asked.tiny:
            torch.set_num_threads(1)
        card = "tiny" if asked.tiny else torch.cuda.get_device_name()
        self.results = Results.open(asked.out, file_name(card), COMMAND + (" --tiny" if asked.tiny else ""))
        self.results.tree["card"] = card
        self.ends = time.monotonic() + 60 * asked.minutes
        self.longest = 0.0 if asked.tiny else FIRST
        self.full: dict[str, int] = {}

    def run(self, groups: Iterable[str]) -> None:
        """Each group in its order, each figure written when it is there."""
        left = [
            key
            for group in groups
            for part, key, find in self._pieces(group)
            if not self._done(part, key, find)
        ]
        tables.show(self.results.tree)
        report.say(self.results.tree.get("bars", []))
        if left:
            print(f"not begun, {self.asked.minutes:g} minutes were over: {'; '.join(left)}")
        print(f"written: {self.results.path.name}")

    def _pieces(self, group: str) -> Iterator[Piece]:
        """Lazily: what is best together is known only when the rows before are there."""
        known = self.results.part("rows")
        if group == "ceiling":
            yield "ceiling", "products", lambda: ceiling.measure(self.setting, self.device)
        elif group == "curve":
            for seed in range(self.asked.seeds):
                for precision in curve.PRECISIONS:
                    yield "curve", f"{precision}, seed {seed}", self._curve(precision, seed)
        elif group == "profile":
            for row in [*plan.rows("best", self.setting, known), *plan.rows("main", self.setting, known)[:3]]:
                yield "profile", row.key, self._profile(row)
        else:
            for row in plan.rows(group, self.setting, known):
                yield "rows", row.key, self._row(row)

    def _done(self, part: str, key: str, find: Callable[[], dict[str, Any]]) -> bool:
        """False if there is no time for it, as far as one can tell from the others."""
        if self.asked.missing and self.results.part(part).get(key, {}).get("status") == "measured":
            return True
        began = time.monotonic()
        if began + SPARE * self.longest > self.ends:
            return False
        found = {**find(), "at": now()}
        self.results.put(part, key, found)
        self.longest = max(self.longest, time.monotonic() - began)
        said = found.get("images_per_s", found.get("end", found.get("why", "")))
        print(f"{part} {key}: {found.get('status', '')} {said}", flush=True)
        return True

    def _row(self, row: Row) -> Callable[[], dict[str, Any]]:
        def find() -> dict[str, Any]:
            at = self.full.get(row.label, row.batch + 1)
            if row.size == self.setting.main and row.batch >= at:
                return {**about(row), "status": FULL_MEMORY, "why": f"not tried, it was at {at}"}
            found = measured(row, self.setting, self.device)
            if found["status"] == FULL_MEMORY:
                self.full[row.label] = min(at, row.batch)
            top = self.results.part("ceiling").get("products", {}).get("bf16_tflops")
            return found | (
                {"of_ceiling": ceiling.digits(found["tflops"] / top)} if top and "tflops" in found else {}
            )

        return find

    def _curve(self, precision: str, seed: int) -> Callable[[], dict[str, Any]]:
        return lambda: attempted(lambda: curve.run(precision, seed, self.setting, self.device), self.device)

    def _profile(self, row: Row) -> Callable[[], dict[str, Any]]:
        return lambda: attempted(lambda: profiling.profiled(row, self.setting, self.device), self.device)
