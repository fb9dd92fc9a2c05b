"""A SIGKILL at each moment of a save: the newest whole checkpoint that the log names is used, and nothing else."""

from __future__ import annotations

import signal

import pytest

from orchestrator import supervisor
from orchestrator.run_log import live_checkpoints
from orchestrator.status import Book
from tests import killing
from tests.conftest import BucketMaker
from tests.killing import Moment
from tests.one_history import check_finished, check_log, driver, folders, losses, started
from tests.runs import Small, make_small

pytestmark = pytest.mark.timeout(150)

SPEC = ("workers.min=2", "checkpoint.keep=2")
MOMENTS = [
    Moment("before file", rank=0),
    Moment("before file", rank=1),
    Moment("in file", rank=0),
    Moment("in file", rank=1),
    Moment("before receipt", rank=0),
    Moment("before receipt", rank=1),
    Moment("before manifest", rank=0),
    Moment("after manifest", rank=0),
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, digits: str) -> list[float]:
    """The losses of an unbroken run."""
    code, book = make_small(tmp_path_factory.mktemp("unbroken"), digits).lead("whole", *SPEC)
    assert code == 0
    return losses(book)


def lead_torn(small: Small, moment: Moment) -> Book:
    """A run whose first attempt is killed at `moment`, led to its end."""
    code, book = small.lead("torn", *SPEC, fn=killing.main, env=moment.env)
    assert code == 0
    assert [e.facts["outcome"] for e in book.entries if e.kind == "attempt ended"] == ["died", "finished"]
    return book


def origin(moment: Moment) -> int:
    """The step from which the attempt after it starts."""
    return moment.step if moment.at == "after manifest" else moment.before


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: f"{moment.at}, rank {moment.rank}")
def test_a_worker_killed_in_a_save(small: Small, expected: list[float], moment: Moment) -> None:
    book = lead_torn(small, moment)
    assert [entry.facts["step"] for entry in started(book)] == [0, origin(moment)]
    check_finished(book, expected)


@pytest.mark.parametrize("at", ["before manifest", "after manifest"])
def test_the_driver_had_not_looked_yet(
    small: Small, expected: list[float], at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stands in the log when the worker dies: what is whole is committed before the next attempt."""
    monkeypatch.setattr(supervisor, "TEND_EVERY_S", 60.0)
    moment = Moment(at, rank=0)
    book = lead_torn(small, moment)
    kinds = [entry.kind for entry in book.entries]
    saves = kinds[: kinds.index("attempt ended")].count("checkpoint committed")
    assert saves == origin(moment) // 10
    assert started(book)[1].facts["step"] == origin(moment)
    check_finished(book, expected)


@pytest.mark.rgw
@pytest.mark.parametrize(
    "moment", [Moment("in file", rank=1), Moment("after manifest", rank=0)], ids=lambda m: m.at
)
def test_a_worker_killed_in_a_save_to_ceph(
    small: Small, rgw_bucket: BucketMaker, expected: list[float], moment: Moment
) -> None:
    small.store = rgw_bucket()
    book = lead_torn(small, moment)
    assert [entry.facts["step"] for entry in started(book)] == [0, origin(moment)]
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
    newest = live_checkpoints(torn.entries)[-1]
    code, book = small.lead("torn", *SPEC)
    assert code == 0
    assert started(book)[1].facts["checkpoint"]["path"] == newest.facts["path"]
    check_finished(book, expected)
