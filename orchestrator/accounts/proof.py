"""Was it the same run? Two histories compared loss by loss and id by id, and one history held against its data set."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from data_pipeline.order import Order
from orchestrator import run_log
from orchestrator.accounts import history
from orchestrator.accounts.history import StepLine
from orchestrator.accounts.status import Book


@dataclass(frozen=True)
class Comparison:
    """What a broken and an unbroken run have in common."""

    steps: int
    equal_losses: int
    steps_after_kill: int
    skipped: int
    repeated: int
    left_out: int
    equal_digests: bool

    @property
    def bit_identical(self) -> bool:
        return self.equal_losses == self.steps


def compare(broken: Book, unbroken: Book, killed_at: int) -> Comparison:
    """Losses bit by bit and sample ids one by one."""
    left, right = broken.history, unbroken.history
    same = sum(a.facts["loss"] == b.facts["loss"] for a, b in zip(left, right, strict=False))
    skipped, repeated = delivered_once(broken)
    return Comparison(
        steps=max(len(left), len(right)),
        equal_losses=same,
        steps_after_kill=len(left) - killed_at,
        skipped=skipped,
        repeated=repeated,
        left_out=samples_left_out(broken),
        equal_digests=[line.as_json()["id_digest"] for line in left]
        == [line.as_json()["id_digest"] for line in right],
    )


def delivered_once(book: Book) -> tuple[int, int]:
    """Samples skipped and repeated, counted from the ids that the workers noted, epoch by epoch.

    An epoch that the run has left behind must hold every sample once, but for those of batches it was told to leave out; the one it
    ended in, none twice.
    """
    batch, samples = book.frozen.spec.train.global_batch, book.frozen.geometry.samples
    order = Order(book.frozen.geometry)
    epochs: dict[int, Counter[int]] = defaultdict(Counter)
    for line in book.history:
        items = order.step_items(line.batch * batch, batch)
        for item, sample in zip(items.tolist(), _ids(line), strict=True):
            epochs[item // samples][sample] += 1
    repeated = sum(count - 1 for seen in epochs.values() for count in seen.values())
    for number in _left_out(book):
        items = order.step_items(number * batch, batch)
        for item, sample in zip(items.tolist(), order.sample_ids(items).tolist(), strict=True):
            epochs[item // samples][sample] += 1
    whole = (book.history[-1].batch + 1) * batch // samples if book.history else 0
    skipped = sum(samples - len(epochs[epoch]) for epoch in range(whole))
    return skipped, repeated


def samples_left_out(book: Book) -> int:
    """Samples of the batches that the run was told to leave out, and has passed."""
    return len(_left_out(book)) * book.frozen.spec.train.global_batch


def _left_out(book: Book) -> list[int]:
    """Batches that no step trained on and that the log says to leave out; any other that is missing was skipped."""
    told = set(run_log.left_out(book.entries))
    return [number for number in history.left_out(book.history) if number in told]


def _ids(line: StepLine) -> list[int]:
    return [sample for slot in sorted(line.ids) for sample in line.ids[slot]]
