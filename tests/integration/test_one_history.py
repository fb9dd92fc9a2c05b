"""Whoever leads, the bucket holds one history: refused, paused, taken over, stopped and left drivers, each a process of its own."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from orchestrator import run_store
from orchestrator.errors import RunBusy
from orchestrator.run_log import live_checkpoints
from orchestrator.run_store import Heartbeat, Run
from orchestrator.status import Book
from orchestrator.watch import newest_progress
from tests import killing
from tests.conftest import BucketMaker
from tests.one_history import Driver, alive, check_finished, check_log, driver, losses, send, started
from tests.runs import Small, make_small, wait_for

pytestmark = pytest.mark.timeout(170)

SPEC = ("workers.min=2", "checkpoint.keep=2", "train.steps=100")
SLOW = killing.slow(0.05)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, digits: str) -> list[float]:
    """The losses of an unbroken run."""
    code, book = make_small(tmp_path_factory.mktemp("unbroken"), digits).lead("whole", *SPEC)
    assert code == 0
    return losses(book)


# -- two drivers ------------------------------------------------------------------------------------------------------------
def test_a_second_driver_on_a_live_run_is_refused(small: Small) -> None:
    with driver(small, "run", *SPEC, env=SLOW) as first:
        wait_for(first.committed)
        holder = first.run.holder()
        assert holder is not None
        with driver(small, "run", *SPEC) as second:
            assert second.wait() == 2
            assert f"is led by {holder.writer}" in second.said
            assert "--take-over" in second.said
        assert holder.pid == first.process.pid
        assert {entry.writer for entry in first.run.log().entries} == {holder.writer}
        check_log(Book(first.run))


def test_a_paused_driver_that_was_taken_over_is_fenced(small: Small, expected: list[float]) -> None:
    """Its workers, which were not paused, leave by themselves: the one who takes over tells them."""
    with driver(small, "run", *SPEC, env=SLOW) as first:
        wait_for(first.committed)
        workers = wait_for(first.workers)
        send(signal.SIGSTOP, first.process.pid)
        with pytest.raises(RunBusy):
            small.lead("run", *SPEC)
        code, book = small.lead("run", *SPEC, fn=killing.main, env=SLOW, take_over=True)
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
    with driver(small, "run", *SPEC, env=SLOW) as first:
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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_leaves(
    small: Small, expected: list[float], number: signal.Signals
) -> None:
    with driver(small, "run", *SPEC, env=SLOW) as first:
        wait_for(lambda: newest_progress(first.run).get("step", 0) >= 3)
        send(number, first.process.pid)
        assert first.wait() == 3
        assert "stopped, resumable" in first.said
    left = Book(first.run)
    steps = [event["step"] for event in left.events if event["kind"] == "step"]
    assert left.state() == "stopped"
    assert left.entries[-1].facts["why"] == f"{number.name} of the driver"
    assert live_checkpoints(left.entries)[-1].facts["step"] == max(steps) < 100
    assert first.run.holder() is None
    code, book = small.lead("run", *SPEC)
    assert code == 0
    assert started(book)[-1].facts["step"] == max(steps)
    check_finished(book, expected)


def test_a_second_signal_leaves_at_once(small: Small, expected: list[float]) -> None:
    """Also when no worker answers any more; none of them stays behind."""
    with driver(small, "run", *SPEC, env=killing.slow(60.0)) as first:
        workers = wait_for(lambda: len(pids := first.workers()) == 2 and pids)
        send(signal.SIGINT, first.process.pid)
        wait_for(lambda: "saving, then leaving" in first.said)
        time.sleep(1.0)
        assert first.process.poll() is None
        send(signal.SIGINT, first.process.pid)
        assert first.wait(10) == 3
        assert "left at once" in first.said
        wait_for(lambda: not alive(workers), timeout=20)
    assert Book(first.run).state() == "abandoned"
    code, book = small.lead("run", *SPEC)
    assert code == 0
    check_finished(book, expected)
    before = book.entries
    assert small.lead("run", *SPEC)[0] == 0, "a finished run has nothing to resume"
    assert Book(first.run).entries == before
    assert Book(first.run).state() == "finished"


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
