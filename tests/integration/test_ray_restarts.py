"""On real Ray: a rank that dies costs no placing, one that is stopped is found and named, what serves the ranks may die too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.launch import lead
from orchestrator.on_ray.machines import RayMachines
from orchestrator.run_log import Entry
from orchestrator.run_store import Run
from orchestrator.status import Book
from orchestrator.training.events import read_events
from orchestrator.watch import newest_progress
from tests.chaos.procs import look
from tests.one_history import alive, check_checkpoints
from tests.runs import Small, make_small, wait_for

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),  # Ray is in this process here, and warns of itself
]


@pytest.fixture
def small(tmp_path: Path, digits: str, monkeypatch: pytest.MonkeyPatch) -> Small:
    """A small run on a Ray of this process: no cluster is joined."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    return make_small(tmp_path, digits)


def ranks(run: Run) -> dict[int, int]:
    """Pids of the newest attempt's ranks."""
    attempt = newest_progress(run).get("attempt", 0)
    return {e["rank"]: e["pid"] for e in read_events(run.store, attempt) if e["kind"] == "worker"}


def steady(run: Run, attempts: int) -> None:
    """Until attempt number `attempts` has done some steps of its own."""

    def there() -> bool:
        started = [entry for entry in run.log().entries if entry.kind == "attempt started"]
        seen = newest_progress(run)
        mine = len(started) == attempts and seen.get("attempt") == started[-1].n
        return mine and seen.get("step", 0) >= started[-1].facts["step"] + 5

    wait_for(there, timeout=120, every=0.2)


def ended(run: Run) -> list[Entry]:
    return [entry for entry in run.log().entries if entry.kind == "attempt ended"]


def test_what_serves_the_ranks_may_die_and_a_stopped_rank_is_named(small: Small) -> None:
    given = ("train.steps=1000000", "workers.min=2", "checkpoint.keep=1", "recovery.failures=50")
    resolved = small.resolve("served", *given)
    run, failures = resolved.run, list[BaseException]()
    machines: list[RayMachines] = []
    pids: list[int] = []

    def play() -> None:
        steady(run, 1)
        placement = machines[0]._placement
        assert placement is not None
        shells = placement.board().arrivals

        victims = ranks(run)
        pids.extend(victims.values())
        os.kill(victims[1], signal.SIGKILL)
        steady(run, 2)
        assert machines[0]._placement is placement  # the same shells serve the next attempt
        assert placement.board().arrivals.keys() == shells.keys()

        victims = ranks(run)
        pids.extend(victims.values())
        os.kill(victims[0], signal.SIGSTOP)
        began = time.monotonic()
        wait_for(lambda: len(ended(run)) == 2, timeout=60, every=0.1)
        assert time.monotonic() - began < 30  # not after half an hour, as the collective's own timeout
        steady(run, 3)
        assert machines[0]._placement is placement

        server = look(ranks(run)[0])
        assert server is not None
        pids.extend(ranks(run).values())
        os.kill(server.parent, signal.SIGKILL)  # the warm server: every rank of the node goes with it
        steady(run, 4)

        desk = _desk_pid()
        os.kill(desk, signal.SIGKILL)
        pids.extend([desk, *ranks(run).values()])
        steady(run, 5)
        assert machines[0]._placement is not placement
        pids.extend(ranks(run).values())

    code = _lead(resolved, machines, play, failures, small)
    assert not failures, "\n".join([str(failures), *small.said])
    assert code == 3, small.said
    causes = [(entry.facts["outcome"], entry.facts["cause"]) for entry in ended(run)]
    assert [outcome for outcome, _ in causes] == ["died", "hung", "died", "died", "stopped"]
    assert "rank 1 died: signal 9" in causes[0][1]
    assert "rank 0 is stopped (SIGSTOP)" in causes[1][1]
    assert "node " in causes[1][1]
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
