"""On real Ray: a rank that dies costs no placing, one that is stopped is found and named, what serves the ranks may die too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.accounts.status import Book
from orchestrator.launch import lead
from orchestrator.on_ray.machines import RayMachines
from orchestrator.run_log import Entry
from orchestrator.run_store import Run
from orchestrator.training.events import read_events
from orchestrator.watch import newest_progress
from tests.chaos.procs import look
from tests.one_history import alive, check_checkpoints
from tests.runs import Small, make_small, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]
ROOT = Path(__file__).resolve().parents[2]


def ranks(run: Run) -> dict[int, int]:
    """Pids of the newest attempt's ranks."""
    attempt = newest_progress(run).get("attempt", 0)
    return {e["rank"]: e["pid"] for e in read_events(run.store, attempt) if e["kind"] == "worker"}


def steady(run: Run) -> None:
    """Until the newest attempt has done some steps of its own."""

    def there() -> bool:
        started = [entry for entry in run.log().entries if entry.kind == "attempt started"]
        seen = newest_progress(run)
        mine = bool(started) and seen.get("attempt") == started[-1].n and len(ended(run)) < len(started)
        return mine and seen.get("step", 0) >= started[-1].facts["step"] + 5

    wait_for(there, timeout=120, every=0.2)


def after(run: Run, act: Callable[[], None], words: str, timeout: float = 60) -> int:
    """Do something; wait until an attempt ends of it, as `words` say, and the next one works. How many ended meanwhile."""
    before = len(ended(run))
    act()
    wait_for(lambda: any(words in e.facts["cause"] for e in ended(run)[before:]), timeout=timeout, every=0.1)
    steady(run)
    return len(ended(run)) - before


def ended(run: Run) -> list[Entry]:
    return [entry for entry in run.log().entries if entry.kind == "attempt ended"]


def test_what_serves_the_ranks_may_die_and_a_stopped_rank_is_named(tmp_path: Path, digits: str) -> None:
    """In a process of its own: one that has spoken to a cluster with tokens lets no Ray without them talk to it any more."""
    program = "import sys; from tests.integration.test_ray_restarts import served; served(*sys.argv[1:])"
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path), digits],
        env={**env, "RAY_AUTH_MODE": "disabled"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=270,
        check=False,
    )
    assert out.returncode == 0, out.stdout


def served(folder: str, digits: str) -> None:
    """A run on a Ray of this process, which loses one after the other what it works with."""
    small = make_small(Path(folder), digits)
    given = ("train.steps=1000000", "workers.min=2", "checkpoint.keep=1", "recovery.failures=50")
    resolved = small.resolve("served", *given)
    run, failures = resolved.run, list[BaseException]()
    machines: list[RayMachines] = []
    pids: list[int] = []

    def placed() -> tuple[Any, Any]:
        """The placement, and its shells."""
        placement = machines[0]._placement
        assert placement is not None
        return placement, placement.board().arrivals.keys()

    def send(pid: int, number: int) -> Callable[[], None]:
        pids.extend([pid, *ranks(run).values()])
        return lambda: os.kill(pid, number)

    def play() -> None:
        steady(run)
        before = placed()
        count = after(run, send(ranks(run)[1], signal.SIGKILL), "rank 1 died: signal 9")
        assert count > 1 or placed() == before  # the same shells serve the next attempt

        before, began = placed(), time.monotonic()
        hung = "rank 0 is stopped (SIGSTOP)"
        stop = send(ranks(run)[0], signal.SIGSTOP)
        count = after(run, stop, hung, timeout=30)  # not after half an hour, as the collective's own timeout
        assert count > 1 or placed() == before
        assert time.monotonic() - began < 120

        server = look(ranks(run)[0])  # the warm server: every rank of the node goes with it
        assert server is not None
        after(run, send(server.parent, signal.SIGKILL), "rank 0 died")

        before = placed()
        after(run, send(_desk_pid(), signal.SIGKILL), "the desk of this driver")
        assert placed()[0] is not before[0]
        pids.extend(ranks(run).values())

    code = _lead(resolved, machines, play, failures, small)
    assert not failures, "\n".join([str(failures), *small.said])
    assert code == 3, small.said
    causes = [(entry.facts["outcome"], entry.facts["cause"]) for entry in ended(run)]
    assert causes[-1][0] == "stopped", small.said
    assert len(causes) <= 4 + 1 + 1, (
        small.said
    )  # four deeds, the stop, and one more that a busy machine may cost
    assert {outcome for outcome, _ in causes[:-1]} == {"died", "hung"}, small.said
    assert any(outcome == "hung" and "node " in cause for outcome, cause in causes), small.said
    check_checkpoints(Book(run))
    wait_for(lambda: not alive(pids), timeout=30)


def _desk_pid() -> int:
    """The pid of the desk of this process: Ray's processes are our children's children."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (seen := look(int(entry.name))) and seen.title.startswith("ray::Desk"):
            above = seen.parent
            while above > 1 and above != os.getpid():
                found = look(above)
                above = found.parent if found else 0
            if above == os.getpid():
                return seen.process.pid
    raise AssertionError("no desk")


def _lead(
    resolved: object,
    machines: list[RayMachines],
    play: Callable[[], None],
    failures: list[BaseException],
    small: Small,
) -> int:
    """Lead the run on Ray in this thread while `play` acts in another; then the run is stopped."""
    import threading

    run = resolved.run  # type: ignore[attr-defined]

    def act() -> None:
        try:
            play()
        except BaseException as error:
            failures.append(error)
        run.request("stop")

    machines.append(RayMachines(resolved.frozen.spec.workers, say=small.said.append))  # type: ignore[attr-defined]
    actor = threading.Thread(target=act, daemon=True)
    actor.start()
    code = lead(resolved, take_over=False, say=small.said.append, machines=machines[0])  # type: ignore[arg-type]
    actor.join(timeout=60)
    return code
