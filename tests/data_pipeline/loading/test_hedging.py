"""One slow GET among quick ones is sent again; a slow store is not asked for twice as much."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from data_pipeline.loading import hedging
from data_pipeline.loading.hedging import Closed, HedgedGets

PATIENCE_S = 20.0


class Server:
    """Answers at once, but for the calls numbered in `stuck`, which wait for `go`."""

    def __init__(self, *stuck: int) -> None:
        self.stuck, self.go = set(stuck), threading.Event()
        self.calls = 0
        self.lock = threading.Lock()

    def get(self, key: str, start: int, length: int) -> bytes:
        with self.lock:
            self.calls += 1
            number = self.calls
        if number in self.stuck:
            assert self.go.wait(PATIENCE_S)
        return f"{key}:{start}+{length}:{number}".encode()


def quick(gets: HedgedGets, count: int = hedging.ENOUGH) -> None:
    for _ in range(count):
        gets.get("k", 0, 1)


def test_a_get_that_hangs_is_sent_again_and_the_second_answer_is_taken() -> None:
    server = Server(hedging.ENOUGH + 1)
    gets = HedgedGets(server.get)
    quick(gets)
    assert gets.get("k", 3, 4) == b"k:3+4:22"
    assert (gets.hedges, gets.won) == (1, 1)
    server.go.set()


def test_before_it_knows_what_is_slow_it_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedging, "UNKNOWN_S", 0.2)
    server = Server(1)
    gets, began = HedgedGets(server.get), time.monotonic()
    assert gets.get("k", 0, 1) == b"k:0+1:2"
    assert time.monotonic() - began >= 0.2
    server.go.set()


def test_of_two_the_good_answer_is_taken_and_of_two_errors_one_is_raised() -> None:
    go = threading.Event()

    def failing(key: str, start: int, length: int) -> bytes:
        if key == "quick":
            return b""
        with lock:
            calls.append(key)
            first = len(calls) == 1
        if first:
            assert go.wait(PATIENCE_S)
            if key == "good":
                return b"late but good"
        else:
            go.set()
        raise OSError("no")

    for key in ("good", "bad"):
        lock, calls = threading.Lock(), list[str]()
        go.clear()
        gets = HedgedGets(failing)
        for _ in range(hedging.ENOUGH):
            gets.get("quick", 0, 1)
        if key == "good":
            assert gets.get(key, 0, 1) == b"late but good"
        else:
            with pytest.raises(OSError, match="no"):
                gets.get(key, 0, 1)
        assert gets.hedges == 1


def test_a_store_that_is_slow_as_a_whole_is_not_asked_for_twice_as_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hedging, "UNKNOWN_S", 0.0)
    monkeypatch.setattr(hedging, "SHORTEST_S", 0.0)
    calls = []

    def slow(key: str, start: int, length: int) -> bytes:
        calls.append(start)
        time.sleep(0.002)
        return b""

    gets = HedgedGets(slow)
    for n in range(200):
        gets.get("k", n, 1)
    assert 0 < gets.hedges <= hedging.ALWAYS_ALLOWED + hedging.HEDGED_SHARE * 200
    assert len(calls) == 200 + gets.hedges


def test_closing_frees_everybody_who_waits() -> None:
    server = Server(1, 2, 3, 4)
    gets = HedgedGets(server.get)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(gets.get, "k", 0, 1) for _ in range(2)]
        while server.calls < 2:
            time.sleep(0.01)
        gets.close()
        gets.close()
        for future in waiting:
            with pytest.raises(Closed):
                future.result(PATIENCE_S)
    server.go.set()


def test_a_get_that_trickles_is_sent_again_whatever_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedging, "LONGEST_S", 0.2)
    monkeypatch.setattr(hedging, "ALWAYS_ALLOWED", 0)
    monkeypatch.setattr(hedging, "HEDGED_SHARE", 0.0)
    server = Server(hedging.ENOUGH + 1)
    gets = HedgedGets(server.get)
    quick(gets)
    assert gets.get("k", 0, 1) == b"k:0+1:22"
    assert gets.hedges == 1
    server.go.set()
