"""The judge sees what is wrong: on a real run that was broken and mended, and on the same run with its notes doctored."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.accounts.status import Book
from orchestrator.run_log import live_checkpoints
from orchestrator.run_store import Run
from orchestrator.watch import newest_progress
from tests import killing
from tests.chaos.judge import Verdict, faultless, judge
from tests.chaos.play import Played
from tests.chaos.record import STALL_S, Record
from tests.gang import GangMachines
from tests.runs import make_small, wait_for

pytestmark = pytest.mark.timeout(300)
Event = dict[str, Any]


@dataclass
class Case:
    """A run on gangs that a kill broke off, and that was stopped and went on with one worker: what was done, and what it should be."""

    played: Played
    book: Book
    wanted: dict[int, str]

    def judged(self, **changes: Any) -> Verdict:
        """The verdict, with `events` or `entries` put in place of the run's own, or other facts of how it was played."""
        book = Book(changes.pop("run", self.book.run))
        for name in ("events", "entries"):
            vars(book)[name] = changes.pop(name, getattr(self.book, name))
        return judge(replace(deepcopy(self.played), **changes), book, self.wanted)

    def doctored(self, step: int, doctor: Callable[[Event], Event]) -> list[Event]:
        """The run's events, with those of the last time a step was done passed through `doctor`."""
        attempt = next(line.attempt for line in self.book.history if line.step == step)
        return [
            doctor(deepcopy(event))
            if event["kind"] == "step" and (event["step"], event["attempt"]) == (step, attempt)
            else event
            for event in self.book.events
        ]


@pytest.fixture(scope="module")
def case(digits: str, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("broken")
    small, began = make_small(folder, digits), time.time()
    steady: Any = {
        "fn": killing.main,
        "env": {**killing.at_step(14), **killing.hold(99, 12)},
    }  # the kill and the stop find it in the middle
    assert small.lead("broken", "workers.min=2", "train.steps=60", during=_kill_then_stop, **steady)[0] == 3
    code, book = small.lead("broken", "workers.max=1", "train.steps=60")
    assert code == 0
    ended = next(entry for entry in book.entries if entry.kind == "attempt ended")
    record = Record(0, "kill rank", "rank 1", ended.time - 1.5, ended.facts["attempt"], 14, "training")
    played = Played("broken", [record], code=0, began=began, ended=book.entries[-1].time)
    return Case(played, book, faultless(book, folder))


def _kill_then_stop(run: Run, machines: GangMachines) -> None:
    wait_for(lambda: len(machines.attempts) == 2)  # the kill is over before the stop
    wait_for(lambda: (seen := newest_progress(run)).get("attempt", 0) > 1 and seen.get("step", 0) > 20)
    run.request("stop")


def test_nothing_is_found_where_nothing_is_wrong(case: Case) -> None:
    assert {line.facts["world_size"] for line in case.book.history} == {1, 2}
    verdict = case.judged()
    assert verdict.problems == []
    assert verdict.clean
    assert (verdict.faults, verdict.steps, verdict.by_kind) == (1, 60, {"kill rank": 1})
    assert verdict.recoveries["kill rank"]["count"] == 1


def test_one_sample_for_another_is_one_skipped_and_one_repeated(case: Case) -> None:
    def doctor(event: Event) -> Event:
        for ids in event["ids"].values():
            ids[0] = ids[1]
        return event

    verdict = case.judged(events=case.doctored(7, doctor))
    slots = case.book.frozen.spec.train.micro_batches
    assert (verdict.samples_skipped, verdict.samples_repeated) == (slots, slots)
    assert not verdict.clean


def test_a_sample_that_is_not_there_is_skipped(case: Case) -> None:
    def doctor(event: Event) -> Event:
        for ids in event["ids"].values():
            ids.pop()
        return event

    assert case.judged(events=case.doctored(7, doctor)).samples_skipped >= 1


def test_a_step_without_notes_is_a_whole_batch_skipped(case: Case) -> None:
    events = [event for event in case.book.events if event["kind"] != "step" or event["step"] != 9]
    verdict = case.judged(events=events)
    assert verdict.samples_skipped >= case.book.frozen.spec.train.global_batch
    assert "no notes of committed steps [9]" in verdict.problems


def test_samples_in_another_order_are_not_where_they_belong(case: Case) -> None:
    def doctor(event: Event) -> Event:
        event["ids"] = {slot: ids[::-1] for slot, ids in event["ids"].items()}
        return event

    assert case.judged(events=case.doctored(40, doctor)).samples_skipped > 0


def test_one_bit_of_one_loss_is_seen(case: Case) -> None:
    def doctor(event: Event) -> Event:
        return {**event, "loss": math.nextafter(event["loss"], 9.0)} if "loss" in event else event

    verdict = case.judged(events=case.doctored(41, doctor))
    assert verdict.losses_unequal == 1
    assert verdict.problems == ["losses of steps [41] are not those of the replay"]


def test_an_attempt_that_nobody_saw_end_is_silent(case: Case) -> None:
    entries = [replace(e, kind="waiting") if e.kind == "attempt ended" else e for e in case.book.entries]
    assert case.judged(entries=entries).silent == 1


def test_a_rank_that_nobody_missed_is_silent(case: Case) -> None:
    records = deepcopy(case.played.records)
    records[0].later.append("UNSEEN: the stopped process was there after 90 s")
    assert case.judged(records=records).silent == 1


def test_a_stall_that_stands_nowhere_is_silent(case: Case) -> None:
    at = next(line.facts["t"] for line in case.book.history if line.step == 55)
    late = [{**e, "t": e["t"] + STALL_S + 5} if e["t"] > at else e for e in case.book.events]
    attempt = case.book.history[-1].attempt
    record = Record(0, "pause rank", "rank 0", at, attempt, 55, "training")
    played = {"records": [record], "ended": case.played.ended + STALL_S + 5}
    assert case.judged(events=late, **played).silent == 1
    noted = [*late, {"kind": "save failed", "t": at + 1, "attempt": attempt, "rank": 0}]
    assert case.judged(events=noted, **played).silent == 0


def test_a_damaged_checkpoint_that_the_log_calls_whole_is_silent(case: Case, tmp_path: Path) -> None:
    copy = tmp_path / "runs" / "broken"
    shutil.copytree(case.book.run.url, copy)
    live = live_checkpoints(case.book.entries)[-1]
    file = next((copy / live.facts["path"]).glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    verdict = case.judged(run=Run(str(copy)))
    assert verdict.silent == 1
    assert any("SHA-256 differs" in problem for problem in verdict.problems)


def test_a_run_that_gave_up_is_lost(case: Case) -> None:
    verdict = case.judged(code=1)
    assert (verdict.runs_lost, verdict.clean) == (1, False)
    assert "broken is lost: its driver left with 1" in verdict.problems


def test_a_ledger_that_misses_time_is_seen(case: Case) -> None:
    verdict = case.judged(began=case.played.began - 60)
    assert "the ledger's wall time is" in verdict.problems[0]
