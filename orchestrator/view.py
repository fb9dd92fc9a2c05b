"""A run, or a spec as it would be frozen, at one step: which batch of the order that is, its items, and what the run noted of it.

run or spec -> step -> number of its batch, by the history and the batches left out -> items by slot
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.order import Order
from orchestrator.accounts import history
from orchestrator.accounts.status import Book
from orchestrator.errors import UserError
from orchestrator.frozen import Frozen
from orchestrator.resolving import frozen_of, resolve
from orchestrator.run_log import left_out


@dataclass(frozen=True)
class View:
    """A run, or a spec as it would be frozen, at one step."""

    name: str
    frozen: Frozen
    book: Book | None
    step: int

    @cached_property
    def lines(self) -> list[history.StepLine]:
        """The steps of the run that count: while it runs the newest too, else those committed."""
        return _lines(self.book)

    @cached_property
    def batch(self) -> int:
        """The number of the step's batch in the order."""
        skipped = set(left_out(self.book.entries)) if self.book else set()
        return history.batch_of(self.step, self.lines, skipped)

    @cached_property
    def items(self) -> npt.NDArray[np.int64]:
        """The items of the step, int64 [M, m]: by slot."""
        train = self.frozen.spec.train
        found = Order(self.frozen.geometry).step_items(self.batch * train.global_batch, train.global_batch)
        return found.reshape(-1, train.micro_batch)

    @property
    def epochs(self) -> range:
        """The epochs that its items are of."""
        samples = self.frozen.geometry.samples
        return range(int(self.items.min()) // samples, int(self.items.max()) // samples + 1)

    @cached_property
    def noted(self) -> dict[int, str]:
        """The digests by slot that the run itself noted of this step; none where not all of them are known yet."""
        line = next((line for line in self.lines if line.step == self.step), None)
        return line.slots if line and len(line.slots) == len(self.items) else {}

    def substitutes(self) -> dict[int, int]:
        """By item, the sample that the run says it took instead of one that did not decode."""
        events = self.book.events if self.book else []
        return {
            int(event["item"]): int(event["substitute"])
            for event in events
            if event["kind"] == "bad sample" and event.get("set") != "val"
        }


def view(
    target: str, *, store: str | None = None, overrides: Sequence[str] = (), step: int | None = None
) -> View:
    """`target`, a spec's path or a run's name or url, at `step`: else at the next one, of a finished run at the last.

    UserError for a step that the run does not have.
    """
    book = None
    if Path(target).suffix in (".yaml", ".yml"):
        frozen = frozen_of(target, overrides)
        name = frozen.spec.name
    else:
        resolved = resolve(target, store=store, overrides=overrides)
        book, frozen, name = Book(resolved.run), resolved.frozen, resolved.run.name
    if step is None:
        lines = _lines(book)
        step = min((lines[-1].step if lines else 0) + 1, frozen.steps)
    if not 1 <= step <= frozen.steps:
        raise UserError(f"--step got {step}; {name} has steps 1 to {frozen.steps}")
    return View(name, frozen, book, step)


def _lines(book: Book | None) -> list[history.StepLine]:
    if book is None:
        return []
    return history.lineage(book.entries, book.events) if book.state() == "running" else book.history
