"""A SIGKILL at each moment of a save: the newest whole checkpoint that the log names is used, and nothing else."""

from __future__ import annotations

import signal

import pytest

from orchestrator.accounts.status import Book
from orchestrator.leading import tending
from orchestrator.run_log import live_checkpoints
from tests import killing
from tests.conftest import BucketMaker
from tests.killing import Moment
from tests.one_history import check_finished, check_log, driver, folders, losses, started
from tests.runs import Small, make_small

pytestmark = pytest.mark.timeout(150)

SPEC = ("workers.min=2", "checkpoint.keep=2", "train.steps=80")
AT_RANK = {
    0: ("before file", "in file", "before receipt", "before manifest", "after manifest"),
    1: ("before file", "in file", "before receipt"),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, digits: str) -> list[float]:
    """The losses of an unbroken run."""
    code, book = make_small(tmp_path_factory.mktemp("unbroken"), digits).lead("whole", *SPEC)
    assert code == 0
    return losses(book)


def lead_torn(small: Small, *kills: Moment) -> Book:
    """A run with an attempt killed at each of these moments, led to its end; each began at what was whole then."""
    code, book = small.lead("torn", *SPEC, fn=killing.main, env=killing.moments(*kills))
    assert code == 0
    outcomes = [entry.facts["outcome"] for entry in book.entries if entry.kind == "attempt ended"]
    assert outcomes == ["died"] * len(kills) + ["finished"]
    assert [entry.facts["step"] for entry in started(book)] == [0, *(moment.origin for moment in kills)]
    return book


def one_after_another(rank: int, *at: str) -> list[Moment]:
    """A moment in each save from the second on."""
    return [Moment(name, rank, step=10 * n, before=10 * n - 10) for n, name in enumerate(at, start=2)]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_killed_at_each_moment_of_a_save(small: Small, expected: list[float], rank: int) -> None:
    check_finished(lead_torn(small, *one_after_another(rank, *AT_RANK[rank])), expected)


def test_the_driver_had_not_looked_yet(
    small: Small, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stands in the log when the worker dies: what is whole is committed before the next attempt."""
    monkeypatch.setattr(tending, "LOOK_EVERY_S", 60.0)
    book = lead_torn(small, *one_after_another(0, "before manifest", "after manifest"))
    ended = next(entry for entry in book.entries if entry.kind == "attempt ended")
    committed = [entry for entry in book.entries[: ended.n] if entry.kind == "checkpoint committed"]
    assert [entry.facts["step"] for entry in committed] == [10]
    assert committed[0].time > ended.time - 0.5
    check_finished(book, expected)


@pytest.mark.rgw
def test_a_worker_killed_in_a_save_to_ceph(
    small: Small, rgw_bucket: BucketMaker, expected: list[float]
) -> None:
    """In the middle of an upload in parts, and after the manifest."""
    small.store = rgw_bucket()
    book = lead_torn(small, Moment("in file", 1, 20, 10), Moment("after manifest", 0, 30, 20))
    check_finished(book, expected)


def test_a_driver_killed_before_it_logs_a_whole_checkpoint(small: Small, expected: list[float]) -> None:
    """Whole checkpoints that are not in the log: they are not real until the next driver has read and named them."""
    with driver(small, "torn", "--die", "before commit", *SPEC) as first:
        assert first.wait() == -signal.SIGKILL
    torn = Book(first.run)
    named = [entry.facts["path"] for entry in live_checkpoints(torn.entries)]
    assert len(named) == 1
    whole = [path for path in folders(first.run.store) if first.run.store.head(f"{path}/manifest.json")]
    assert set(named) < set(whole)
    assert torn.state() == "abandoned"
    assert [line.step for line in torn.history] == list(range(1, 11))
    code, book = small.lead("torn", *SPEC)
    assert code == 0
    assert started(book)[1].facts["checkpoint"]["path"] == whole[-1]
    check_finished(book, expected)


def test_a_driver_killed_between_the_word_and_the_deletion(small: Small, expected: list[float]) -> None:
    """The log says deleted, the bytes are still there: nobody starts from them, and they go."""
    with driver(small, "torn", "--die", "after delete", *SPEC) as first:
        assert first.wait() == -signal.SIGKILL
    torn = Book(first.run)
    deleted = torn.entries[-1]
    assert deleted.kind == "checkpoint deleted"
    assert first.run.store.head(f"{deleted.facts['path']}/manifest.json") is not None
    check_log(torn)
    code, book = small.lead("torn", *SPEC)
    assert code == 0
    second = started(book)[1]
    newest = live_checkpoints(book.entries[: second.n])[-1]  # what was saved whole meanwhile is adopted
    assert second.facts["checkpoint"]["path"] == newest.facts["path"]
    assert newest.facts["path"] != deleted.facts["path"]
    check_finished(book, expected)
