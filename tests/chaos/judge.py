"""Was it the same run? What chaos did to one run, counted from its own bucket and from a faultless replay of it.

Sample ids against the pure order, losses bit by bit against the replay, every live checkpoint byte by byte, the log's rules, the ledger
against a clock that stood outside. A committed thing that is wrong and that the log does not name counts as silent.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.order import Order
from data_pipeline.storage import StoreError
from orchestrator.accounts.history import StepLine
from orchestrator.accounts.proof import delivered_once
from orchestrator.accounts.status import Book
from orchestrator.checkpoints import reading
from orchestrator.checkpoints.manifest import load_manifest
from orchestrator.errors import MixerError
from orchestrator.run_log import Entry, live_checkpoints
from tests.chaos.play import Played
from tests.chaos.record import Record, fill_in
from tests.chaos.replay import replay, segments
from tests.one_history import check_checkpoints, check_log

LEDGER_SHARE, LEDGER_S = (
    0.01,
    5.0,
)  # the clock outside stops when the driver is gone, some time after the run's end


@dataclass
class Verdict:
    """Totals over one run or several. All of the first six but `faults` must be 0, and `problems` empty."""

    faults: int = 0
    runs_lost: int = 0
    samples_skipped: int = 0
    samples_repeated: int = 0
    losses_unequal: int = 0
    silent: int = 0
    seed: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    ledger: dict[str, float] = field(default_factory=dict)
    recoveries: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was lost."""
        wrong = self.runs_lost + self.samples_skipped + self.samples_repeated
        return not (wrong + self.losses_unequal + self.silent) and not self.problems

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(played: Played, book: Book, wanted: Mapping[int, str]) -> Verdict:
    """The verdict on one run, whose losses must be `wanted` (float.hex, by step); also fills in its records."""
    fill_in(played.records, book.entries, book.events, played.ended)
    verdict = Verdict(problems=list(played.unasked), seconds=played.ended - played.began)
    if played.lost:
        verdict.runs_lost = 1
        verdict.problems.append(f"{played.name} is lost: {played.lost}")
    _count(verdict, played.records)
    _samples(verdict, book)
    _losses(verdict, book.history, wanted)
    _bucket(verdict, book, finished=not played.lost)
    _ledger(verdict, book, played)
    return verdict


def total(verdicts: Sequence[Verdict], records: Sequence[Record], seed: int) -> Verdict:
    """All runs of one schedule together."""
    whole = Verdict(seed=seed)
    for one in verdicts:
        for name in ("runs_lost", "samples_skipped", "samples_repeated", "losses_unequal", "silent", "steps"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
        whole.seconds += one.seconds
        whole.problems += one.problems
        sums = Counter(whole.ledger)
        sums.update(one.ledger)
        whole.ledger = dict(sums)
    done = [record for record in records if not record.missed]
    whole.faults, whole.by_kind = len(done), dict(Counter(record.kind for record in done))
    whole.recoveries = recoveries(done)
    return whole


def recoveries(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Seconds from fault to first new step, by kind: count, median, max."""
    by_kind: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.recovered_s is not None:
            by_kind[record.kind].append(record.recovered_s)
    return {
        kind: {
            "count": len(found),
            "median": round(statistics.median(found), 2),
            "max": round(max(found), 2),
        }
        for kind, found in sorted(by_kind.items())
    }


def _count(verdict: Verdict, records: Sequence[Record]) -> None:
    done = [record for record in records if not record.missed]
    verdict.faults, verdict.by_kind = len(done), dict(Counter(record.kind for record in done))
    verdict.recoveries = recoveries(done)
    verdict.silent = sum(record.silent for record in done)
    verdict.problems += [f"silent: {record.kind} {record.target}" for record in done if record.silent]


def _samples(verdict: Verdict, book: Book) -> None:
    """Every epoch whole, and every step's samples those of its batch, in order."""
    history = book.history
    verdict.steps = len(history)
    gaps = sorted(set(range(1, (history[-1].step if history else 0) + 1)) - {line.step for line in history})
    if gaps:
        verdict.problems.append(f"no notes of committed steps {gaps[:5]}")
    try:
        verdict.samples_skipped, verdict.samples_repeated = delivered_once(book)
    except ValueError as error:  # a step with fewer samples than its batch
        verdict.problems.append(f"sample ids: {error}")
    batch = book.frozen.spec.train.global_batch
    missing = sum(missing_samples(line, Order(book.frozen.geometry), batch) for line in history)
    verdict.samples_skipped = max(verdict.samples_skipped, missing + batch * len(gaps))


def missing_samples(line: StepLine, order: Order, batch: int) -> int:
    """Samples of a step's batch that are not where they belong."""
    wanted = order.sample_ids(order.step_items(line.batch * batch, batch)).tolist()
    found = [sample for slot in sorted(line.ids) for sample in line.ids[slot]]
    same = sum(a == b for a, b in zip(wanted, found, strict=False))
    return int(max(len(wanted), len(found)) - same)


def faultless(book: Book, scratch: Path) -> dict[int, str]:
    """The losses of the committed steps, from a replay in `scratch`. RankFailed when that is not possible."""
    whole = [line for line in book.history if "loss" in line.facts]
    return replay(book.frozen, book.entries, segments(whole), scratch)


def _losses(verdict: Verdict, history: Sequence[StepLine], wanted: Mapping[int, str]) -> None:
    different = unequal(history, wanted)
    verdict.losses_unequal = len(different)
    if different:
        verdict.problems.append(f"losses of steps {different[:5]} are not those of the replay")


def unequal(history: Sequence[StepLine], wanted: Mapping[int, str]) -> list[int]:
    """Steps whose loss is not the replay's to the last bit."""
    losses = {line.step: float(line.facts.get("loss", math.nan)).hex() for line in history}
    return [step for step, loss in losses.items() if loss != wanted.get(step)]


def _bucket(verdict: Verdict, book: Book, *, finished: bool) -> None:
    """The log's rules hold, and every byte of the checkpoints that it calls whole is right."""
    for check in (check_log, check_checkpoints) if finished else (check_log,):
        try:
            check(book)
        except (AssertionError, MixerError, StoreError) as error:
            verdict.problems.append(f"{check.__name__}: {type(error).__name__} {error}"[:500])
    damage = [problem for entry in live_checkpoints(book.entries) for problem in _damage(book, entry)]
    verdict.silent += len(damage)
    verdict.problems += damage


def _damage(book: Book, entry: Entry) -> list[str]:
    """What is wrong with a live checkpoint: what `mixer verify` says."""
    store, path = book.run.store, entry.facts["path"]
    try:
        return reading.verify(store, path, load_manifest(store, path, entry.facts["sha256"]))
    except (MixerError, StoreError) as error:
        return [str(error)]


def _ledger(verdict: Verdict, book: Book, played: Played) -> None:
    """Its names add up to its wall time, and that is the time which passed."""
    seconds, wall = book.ledger.seconds, book.ledger.wall_s
    verdict.ledger = {**seconds, "wall": wall}
    if abs(sum(seconds.values()) - wall) > LEDGER_SHARE * wall:
        verdict.problems.append(f"the ledger's names add up to {sum(seconds.values()):.1f} s of {wall:.1f} s")
    outside = played.ended - played.began
    if not played.lost and abs(wall - outside) > LEDGER_SHARE * outside + LEDGER_S:
        verdict.problems.append(f"the ledger's wall time is {wall:.1f} s, {outside:.1f} s passed outside")
