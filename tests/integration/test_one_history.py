"""Whoever leads, the bucket holds one history: refused, paused, taken over, stopped and left drivers, each a process of its own."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import run_store
from orchestrator.accounts.status import Book
from orchestrator.errors import RunBusy
from orchestrator.run_log import live_checkpoints
from orchestrator.run_store import Heartbeat, Run
from tests import killing
from tests.conftest import BucketMaker
from tests.one_history import (
    Driver,
    alive,
    check_checkpoints,
    check_finished,
    check_log,
    driver,
    losses,
    send,
    started,
)
from tests.runs import Small, make_small, wait_for

pytestmark = pytest.mark.timeout(170)

SPEC = ("workers.min=2", "checkpoint.keep=2", "train.steps=80")
HELD = killing.hold(12)  # past its first save


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, digits: str) -> list[float]:
    """The losses of an unbroken run."""
    code, book = make_small(tmp_path_factory.mktemp("unbroken"), digits).lead("whole", *SPEC)
    assert code == 0
    return losses(book)


# -- two drivers ------------------------------------------------------------------------------------------------------------
def test_a_paused_driver_that_was_taken_over_is_fenced(small: Small, expected: list[float]) -> None:
    """Its workers, which were not paused, leave by themselves: the one who takes over tells them."""
    with driver(small, "run", *SPEC, env=HELD) as first:
        wait_for(first.committed)
        workers = wait_for(lambda: len(pids := first.workers()) == 2 and pids)
        check_refused(small, first)
        send(signal.SIGSTOP, first.process.pid)
        code, book = small.lead("run", *SPEC, fn=killing.main, env=killing.slow(0.03), take_over=True)
        assert code == 0
        wait_for(lambda: not alive(workers), timeout=20)
        check_finished(book, expected)
        check_taken_over(book, first)
        assert sum(book.ledger.seconds.values()) == pytest.approx(book.ledger.wall_s, rel=0.02)
        before = book.entries
        fenced(first)
        assert first.run.log().entries == before
        assert Book(first.run).state() == "finished"


@pytest.mark.rgw
def test_a_paused_machine_that_was_taken_over_is_fenced_on_ceph(
    small: Small, rgw_bucket: BucketMaker, expected: list[float]
) -> None:
    """The driver and its workers are paused, as in a suspended machine; continued, they save once more, and that counts for nothing."""
    small.store = rgw_bucket()
    with driver(small, "run", *SPEC, env=HELD) as first:
        wait_for(first.committed)
        workers = wait_for(lambda: len(pids := first.workers()) == 2 and pids)
        send(signal.SIGSTOP, first.process.pid, *workers)
        with pytest.raises(RunBusy):
            small.lead("run", *SPEC)
        code, book = small.lead("run", *SPEC, take_over=True)
        assert code == 0
        check_finished(book, expected)
        check_taken_over(book, first)
        before = book.entries
        send(signal.SIGCONT, *workers)
        fenced(first)
        wait_for(lambda: not alive(workers), timeout=20)
        again = Book(first.run)
        assert again.entries == before
        assert again.state() == "finished"
        assert losses(again) == expected


def check_refused(small: Small, first: Driver) -> None:
    """A second driver ends with 2 and says who leads; nothing of the run is changed."""
    holder = first.run.holder()
    assert holder is not None
    assert holder.pid == first.process.pid
    with driver(small, "run", *SPEC) as second:
        assert second.wait() == 2
        assert f"is led by {holder.writer}" in second.said
        assert "--take-over" in second.said
    assert {entry.writer for entry in first.run.log().entries} == {holder.writer}


def fenced(first: Driver) -> None:
    """Continue the paused driver: it ends at its first commit, and says who leads."""
    assert alive([first.process.pid])
    send(signal.SIGCONT, first.process.pid)
    assert first.wait() == 3
    assert "so it leads the run now" in first.said


def check_taken_over(book: Book, first: Driver) -> None:
    """One take-over; what the paused driver's attempt saved counts only as far as the new driver named it before its own attempt."""
    claims = [entry for entry in book.entries if entry.kind == "taken over"]
    assert [entry.facts["forced"] for entry in claims] == [True]
    after = book.entries[claims[0].n :]
    assert f"/{first.process.pid}/" not in str({entry.writer for entry in after})
    old, new = started(book)
    assert old.n < claims[0].n < new.n
    committed = [entry for entry in after if entry.kind == "checkpoint committed"]
    assert committed[-1].n > new.n
    assert all(entry.facts["path"].endswith(f"-{old.n if entry.n < new.n else new.n}") for entry in committed)


# -- leaving ----------------------------------------------------------------------------------------------------------------
def test_signals_save_the_step_and_leave(small: Small, expected: list[float]) -> None:
    """SIGTERM, then SIGINT on the resumed run, then SIGINT twice on workers that do not answer; and then the run finishes."""
    steps = [leave(small, signal.SIGTERM), leave(small, signal.SIGINT)]
    assert 0 < steps[0] < steps[1] < 80
    leave_at_once(small)
    code, book = small.lead("run", *SPEC)
    assert code == 0
    assert [entry.facts["step"] for entry in started(book)] == [0, steps[0], steps[1], steps[1]]
    check_finished(book, expected)
    before = book.entries
    assert small.lead("run", *SPEC)[0] == 0, "a finished run has nothing to resume"
    assert Book(book.run).entries == before
    assert Book(book.run).state() == "finished"


def leave(small: Small, number: signal.Signals) -> int:
    """Lead the run for a few steps, then send the driver a signal; the step it saved, which is the last it did."""
    with driver(small, "run", *SPEC, env=killing.hold(4, 4)) as first:
        wait_for(lambda: _steps_done(first) >= 3)
        send(number, first.process.pid)
        assert first.wait() == 3
        assert "stopped, resumable" in first.said
    left = Book(first.run)
    last = max(event["step"] for event in left.events if event["kind"] == "step")
    assert left.state() == "stopped"
    assert left.entries[-1].facts["why"] == f"{number.name} of the driver"
    assert live_checkpoints(left.entries)[-1].facts["step"] == last
    assert first.run.holder() is None
    check_log(left)
    check_checkpoints(left)
    return int(last)


def _steps_done(first: Driver) -> int:
    """Of the attempt that this driver leads, as far as told."""
    assert first.process.poll() is None, first.said
    began = first.run.log().last("attempt started") if first.run.exists() else None
    if began is None or f"/{first.process.pid}/" not in began.writer:
        return 0
    return int(_progress(first).get("step", 0)) - int(began.facts["step"])


def _progress(first: Driver) -> dict[str, Any]:
    """What the newest attempt told last."""
    began = first.run.log().last("attempt started")
    return (first.run.read_json(f"progress/{began.n}.json") or {}) if began else {}


def leave_at_once(small: Small) -> None:
    """The second signal does not wait for anybody, and no worker stays behind."""
    marks = small.folder / "in a step"
    marks.mkdir()
    with driver(small, "run", *SPEC, env=killing.slow(60.0, marks)) as first:
        workers = wait_for(lambda: len(pids := first.workers()) == 2 and pids)
        wait_for(lambda: len(list(marks.iterdir())) == 2)  # before it they would leave when told
        send(signal.SIGINT, first.process.pid)
        wait_for(lambda: "saving, then leaving" in first.said)
        time.sleep(1.0)
        assert first.process.poll() is None
        send(signal.SIGINT, first.process.pid)
        assert first.wait(10) == 3
        assert "left at once" in first.said
        wait_for(lambda: not alive(workers), timeout=20)
    assert Book(first.run).state() == "abandoned"


# -- who leads, for those who ask -------------------------------------------------------------------------------------------
def test_a_late_beat_of_a_fenced_driver_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "HOLDER_EVERY_S", 0.05)
    run = Run(str(tmp_path / "runs" / "run"))
    with Heartbeat(run, "new", claim=7):
        with Heartbeat(run, "old", claim=3):
            wait_for(lambda: _led_by(run, "new"), timeout=10)
            time.sleep(0.2)
            assert _led_by(run, "new")
        assert _led_by(run, "new"), "whoever leaves takes away its own holder.json only"
    assert run.holder() is None


def _led_by(run: Run, writer: str) -> bool:
    holder = run.holder()
    return holder is not None and holder.writer == writer
