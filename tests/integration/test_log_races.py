"""The log under fire: rivals that append at the same moment, replies that are lost, a store that fails in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from data_pipeline.storage import Unavailable, open_store
from orchestrator.errors import Fenced
from orchestrator.run_log import Entry, RunLog
from orchestrator.run_store import Run
from orchestrator.watch import newest_progress
from tests import killing
from tests.data_pipeline.faulty_front import Fault, Front, serve
from tests.gang import GangMachines, run_gang
from tests.runs import Small, wait_for

pytestmark = pytest.mark.timeout(120)

RACERS, ROUNDS = 6, 8
STORES = ["folder", pytest.param("rgw", marks=pytest.mark.rgw)]


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """An empty store that honours conditional writes."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return str(request.getfixturevalue("rgw_bucket")())


def read(url: str, writer: str = "reader") -> RunLog:
    log = RunLog(open_store(url), writer)
    log.refresh()
    return log


def test_of_threads_that_append_at_once_one_wins(url: str) -> None:
    """And every other one is told who did."""
    store = open_store(url)
    for number in range(ROUNDS):
        barrier = threading.Barrier(RACERS)

        def race(racer: int, barrier: threading.Barrier = barrier) -> str:
            log = RunLog(store, f"racer {racer}")
            log.refresh()
            barrier.wait(timeout=30)
            try:
                return log.append("note").writer
            except Fenced as error:
                return str(error)

        with ThreadPoolExecutor(RACERS) as pool:
            said = list(pool.map(race, range(RACERS)))
        entries = read(url).entries
        assert [entry.n for entry in entries] == list(range(number + 1))
        winner = entries[-1].writer
        assert said.count(winner) == 1
        assert all(text == winner or f"is taken: {winner} wrote" in text for text in said)


def test_processes_that_append_at_once_make_one_dense_log(url: str) -> None:
    won = run_gang(3, append_until_fenced, url, 10, timeout=60)
    entries = read(url).entries
    assert sorted(n for numbers in won for n in numbers) == list(range(len(entries)))
    for numbers in won:
        assert len({entries[n].writer for n in numbers}) <= 1
    assert sum(len(numbers) for numbers in won) >= 10


def append_until_fenced(url: str, tries: int) -> list[int]:
    """The numbers that this process won."""
    from orchestrator.run_log import new_writer

    log, won = read(url, new_writer()), []
    for _ in range(tries):
        log.refresh()
        try:
            won.append(log.append("note").n)
        except Fenced:
            continue
    return won


@pytest.fixture
def front(rgw_bucket: Any, rgw: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """A front of Ceph; the environment's endpoint is now its address."""
    target = urlsplit(rgw.endpoint)
    front = Front(str(target.hostname), int(target.port or 0))
    with serve(front) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield front
        server.shutdown()
        thread.join(timeout=10)


@pytest.mark.rgw
def test_an_entry_whose_reply_was_lost_is_known_as_our_own(rgw_bucket: Any, front: Front) -> None:
    log = RunLog(open_store(f"{rgw_bucket()}/run"), "us")
    log.append("created")
    front.faults = [Fault("PUT", "log/0000000001", "lost")]
    assert log.append("attempt started", world=2).n == 1
    assert front.faults == []
    assert [method for method, path in front.asked if "log/0000000001" in path].count("PUT") == 2
    assert log.append("attempt ended").n == 2
    rival = RunLog(open_store(log._store.url), "them")
    assert [entry.kind for entry in rival.refresh()] == ["created", "attempt started", "attempt ended"]


class LostReplies:
    """A store whose next conditional put does its work, and then says that it could not."""

    def __init__(self, url: str) -> None:
        self._store, self.lose = open_store(url), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        done = self._store.put_if_absent(key, data)
        if self.lose:
            self.lose -= 1
            raise Unavailable("the reply was lost, and so were all others until patience ended")
        return done


def test_a_driver_does_not_fence_itself(tmp_path: Any) -> None:
    """An append that failed may have written: the next one finds that entry and keeps it."""
    store: Any = LostReplies(str(tmp_path))
    log = RunLog(store, "us")
    store.lose = 1
    with pytest.raises(Unavailable):
        log.append("checkpoint committed", path="checkpoints/1")
    assert log.append("checkpoint committed", path="checkpoints/1").n == 0
    store.lose = 1
    with pytest.raises(Unavailable):
        log.append("request", id="1")
    assert log.append("checkpoint committed", path="checkpoints/2").n == 2
    assert [entry.kind for entry in log.entries] == [
        "checkpoint committed",
        "request",
        "checkpoint committed",
    ]
    assert read(str(tmp_path)).entries == log.entries
    with pytest.raises(Fenced, match="us wrote 'checkpoint committed' there"):
        RunLog(store, "them").append("taken over")


def test_a_stop_that_the_log_did_not_take_at_first_is_obeyed_later(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    append = RunLog.append

    def failing(log: RunLog, kind: str, **facts: Any) -> Entry:
        if kind == "request" and not failed:
            failed.append(facts["id"])
            raise Unavailable("not now")
        return append(log, kind, **facts)

    monkeypatch.setattr(RunLog, "append", failing)
    steady = {"fn": killing.main, "env": killing.hold(5)}  # so that the stop finds it in the middle
    code, book = small.lead("run", during=_stop_soon, **steady)
    assert code == 3
    assert [entry.facts["id"] for entry in book.entries if entry.kind == "request"] == failed
    assert book.state() == "stopped"


def _stop_soon(run: Run, machines: GangMachines) -> None:
    wait_for(lambda: newest_progress(run).get("step", 0) >= 1)
    run.request("stop")
