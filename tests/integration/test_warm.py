"""The warm server with real ranks: forked, watched, stopped, killed; nothing outlives whoever asked for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.on_ray.hangs import Limits, find_hang
from orchestrator.on_ray.rank import Rank, stack_of
from orchestrator.run_store import create
from orchestrator.training import pulse
from orchestrator.training.warm_files import DUMP
from tests.gang import free_port
from tests.one_history import alive
from tests.runs import Small, make_small, wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of a warm server's socket."""
    path = str(tmp_path_factory.mktemp("warm") / "s")
    command = [sys.executable, "-m", "orchestrator.training.warm", path, "cpu"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"ready\n"
    yield path
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()


@pytest.fixture
def config(tmp_path: Path, digits: str) -> dict[str, Any]:
    """What an attempt gives its ranks: a run that is long enough to be interrupted."""
    small: Small = make_small(tmp_path / "run", digits)
    resolved = small.resolve("warm", "train.steps=100000", "checkpoint.every=100000 steps")
    create(resolved.run, resolved.frozen, "test", conditional=True)
    facts = {"run": resolved.run.url, "attempt": 1, "frozen": resolved.frozen.to_yaml(), "checkpoint": None}
    return {**facts, "cpus": 1, "gpus": 0}


_begun: list[Rank] = []


@pytest.fixture(autouse=True)
def _no_rank_stays() -> Iterator[None]:
    yield
    while _begun:
        _begun.pop().kill()


def begin(server: str, config: dict[str, Any], folder: Path, world: int = 1) -> list[Rank]:
    port = str(free_port())
    ranks = []
    for rank in range(world):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        files = {pulse.ENVIRONMENT: folder / f"pulse-{rank}", DUMP: folder / f"stack-{rank}"}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {**os.environ, **{key: str(value) for key, value in {**place, **files, **address}.items()}}
        line = socket.socket(socket.AF_UNIX)
        wait_for(lambda line=line: _connected(line, server), timeout=60)
        ranks.append(Rank(line, config, env))
    _begun.extend(ranks)
    return ranks


def _connected(line: socket.socket, path: str) -> bool:
    try:
        line.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def until(rank: Rank, what: Any) -> None:
    def looked() -> Any:
        rank.look()
        return what(rank)

    wait_for(looked, timeout=60)


def marks(folder: Path, rank: int) -> dict[str, Any]:
    beat = pulse.read(str(folder / f"pulse-{rank}"))
    return {} if beat is None else beat.facts(time.monotonic())


def test_a_rank_says_who_it_is_and_how_it_failed(server: str, config: dict[str, Any], tmp_path: Path) -> None:
    moved = config["frozen"].replace("/train", "/elsewhere")
    [rank] = begin(server, {**config, "frozen": moved}, tmp_path)
    until(rank, lambda rank: rank.over)
    assert rank.pid > 0
    assert rank.outcome()["kind"] in ("failed", "refused")
    assert rank.exit == 1


def test_a_killed_rank_is_told_by_its_signal(server: str, config: dict[str, Any], tmp_path: Path) -> None:
    [rank] = begin(server, config, tmp_path)
    until(rank, lambda _: marks(tmp_path, 0).get("step", 0) >= 2)
    os.kill(rank.pid, signal.SIGKILL)
    until(rank, lambda rank: rank.over)
    assert rank.outcome() == {
        "kind": "died",
        "error": "signal 9 (SIGKILL: from somebody, or from the kernel for want of memory)",
    }


def test_a_rank_ends_with_the_connection_of_its_shell(
    server: str, config: dict[str, Any], tmp_path: Path
) -> None:
    [rank] = begin(server, config, tmp_path)
    until(rank, lambda rank: rank.pid and marks(tmp_path, 0))
    rank.kill()
    wait_for(lambda: not alive([rank.pid]), timeout=20)


def test_all_ranks_end_with_the_server(config: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "own")
    command = [sys.executable, "-m", "orchestrator.training.warm", path, "cpu"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    [rank] = begin(path, config, tmp_path)
    until(rank, lambda rank: rank.pid)
    process.kill()
    process.wait(timeout=20)
    wait_for(lambda: not alive([rank.pid]), timeout=20)
    assert process.stdin is not None
    process.stdin.close()


def test_a_stopped_rank_and_its_waiting_peer_are_told_apart(
    server: str, config: dict[str, Any], tmp_path: Path
) -> None:
    first, second = begin(server, config, tmp_path, world=2)
    limits, found = Limits(), []
    until(first, lambda _: marks(tmp_path, 0).get("step", 0) >= 5)
    until(second, lambda rank: rank.pid)
    os.kill(second.pid, signal.SIGSTOP)

    def hang() -> bool:
        pulses = {
            number: {**marks(tmp_path, number), "at": 0.0, "stopped_s": rank.stopped_s()}
            for number, rank in enumerate((first, second))
        }
        found[:] = [find_hang(pulses, limits, 0.0)]
        return found[0] is not None

    wait_for(hang, timeout=30)
    assert found[0].ranks == (1,)
    assert "is stopped" in stack_of(second, tmp_path / "stack-1")
    assert "one_step" in stack_of(first, tmp_path / "stack-0")
    first.kill()
    second.kill()
    wait_for(lambda: not alive([first.pid, second.pid]), timeout=20)
