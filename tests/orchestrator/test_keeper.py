"""A driver that dies without a word is started again, a driver's word is passed on, and a run whose driver was killed goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusters.processes import Process, end, marked
from orchestrator.accounts.status import Book
from orchestrator.keeper import LONGEST_S, RESTARTS, WINDOW_S, pause_s
from orchestrator.run_store import Run
from tests import killing
from tests.one_history import alive, check_finished, check_log, losses, started
from tests.runs import Small, make_small, wait_for

pytestmark = pytest.mark.timeout(170)

ROOT = Path(__file__).parents[2]
SPEC = ("workers.min=2", "checkpoint.keep=2", "train.steps=40")
# Does what the n-th word of `plan` says at its n-th start: a code, "kill", "wait" for SIGTERM and end with 3, or "default".
ACTOR = """
import os, signal, sys, time
plan, notes = sys.argv[1].split(), open(sys.argv[2], "a+")
notes.seek(0)
turn = len(notes.readlines())
def leave(number, frame):
    print("asked", flush=True)
    sys.exit(3)
if plan[turn] == "wait":
    signal.signal(signal.SIGTERM, leave)
print(os.getpid(), *sys.argv[3:], file=notes, flush=True)
if plan[turn] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if plan[turn] in ("wait", "default"):
    time.sleep(60)
sys.exit(int(plan[turn]))
"""


class Kept:
    """A keeper of `command`, a process of its own; what it and its drivers said."""

    def __init__(self, folder: Path, command: list[str], env: dict[str, str], first: str = "") -> None:
        self._said = folder / "said"
        start = ["-c", f"from orchestrator import keeper; {first}; raise SystemExit(keeper.main())"]
        with self._said.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *(start if first else ["-m", "orchestrator.keeper"]), "--", *command],
                cwd=ROOT,
                env={**os.environ, **env, "TEST_KEEPER": str(folder)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait(self) -> int:
        return self.process.wait(timeout=120)


Maker = Callable[..., Kept]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Maker]:
    made: list[Kept] = []

    def make(command: list[str], env: dict[str, str] | None = None, first: str = "") -> Kept:
        made.append(Kept(tmp_path, command, env or {}, first))
        return made[-1]

    yield make
    end(marked("TEST_KEEPER", str(tmp_path)), grace_s=5)
    for each in made:
        each.wait()


@pytest.fixture
def acted(kept: Maker, tmp_path: Path) -> Callable[..., Kept]:
    def make(plan: str, *arguments: str, first: str = "") -> Kept:
        return kept([sys.executable, "-c", ACTOR, plan, str(tmp_path / "notes"), *arguments], first=first)

    return make


def starts(folder: Path) -> list[list[str]]:
    """Of each driver so far: its pid, and its arguments."""
    notes = folder / "notes"
    return [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []


@pytest.mark.parametrize(
    ("ages", "pause"),
    [
        ([0], 1),
        ([5, 0], 2),
        ([9, 5, 0], 4),
        ([0] * 9, LONGEST_S),
        ([0] * RESTARTS, LONGEST_S),
        ([0] * (RESTARTS + 1), None),
        ([WINDOW_S + 1] * 50 + [0], 1),
    ],
)
def test_pauses_grow_and_end(ages: list[float], pause: float | None) -> None:
    assert pause_s([10_000 - age for age in ages], 10_000) == pause


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_a_drivers_word_is_passed_on(code: int, acted: Callable[..., Kept], tmp_path: Path) -> None:
    made = acted(f"{code} 99")
    assert made.wait() == code
    assert len(starts(tmp_path)) == 1


def test_a_driver_without_a_word_is_started_again_and_takes_over_once(
    acted: Callable[..., Kept], tmp_path: Path
) -> None:
    made = acted("kill 139 3", "run", "--take-over")
    assert made.wait() == 3
    assert [words[1:] for words in starts(tmp_path)] == [["run", "--take-over"], ["run"], ["run"]]
    assert "was killed by signal 9; starting it again in 1 s" in made.said
    assert "ended with the unexpected code 139; starting it again in 2 s" in made.said


@pytest.mark.parametrize(("plan", "code"), [("kill kill", 137), ("77 77", 77)])
def test_it_gives_up_and_passes_the_code_on(
    plan: str, code: int, acted: Callable[..., Kept], tmp_path: Path
) -> None:
    made = acted(plan, first="keeper.RESTARTS = 1")
    assert made.wait() == code
    assert len(starts(tmp_path)) == 2
    assert "giving up" in made.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("plan", ["wait 99", "default 99"])
def test_a_signal_is_passed_on_and_ends_the_keeping(
    number: signal.Signals, plan: str, acted: Callable[..., Kept], tmp_path: Path
) -> None:
    made = acted(plan)
    wait_for(lambda: starts(tmp_path))
    made.process.send_signal(number)
    assert made.wait() == 3
    assert ("asked" in made.said) == plan.startswith("wait")
    assert len(starts(tmp_path)) == 1


def test_a_signal_in_a_pause_ends_the_keeping(acted: Callable[..., Kept], tmp_path: Path) -> None:
    made = acted("kill 99", first="keeper.pause_s = lambda *_: 100.0")
    wait_for(lambda: "starting it again" in made.said)
    made.process.terminate()
    assert made.wait() == 3
    assert len(starts(tmp_path)) == 1


def test_a_driver_does_not_outlive_its_keeper(acted: Callable[..., Kept], tmp_path: Path) -> None:
    made = acted("wait")
    driver = Process.of(int(wait_for(lambda: starts(tmp_path))[0][0]))
    made.process.kill()
    wait_for(lambda: not driver.alive())
    assert "asked" in made.said


# -- a real run -------------------------------------------------------------------------------------------------------------
class KeptRun:
    """A run led by a driver under a keeper, as `mixer submit` starts it, on gangs."""

    def __init__(self, small: Small, kept: Maker, pause: float) -> None:
        self.run = Run(f"{small.store}/runs/run")
        driver = [sys.executable, "-W", "ignore", "-m", "tests.driver_main", small.store]
        self.kept = kept([*driver, str(small.folder / "small.yaml"), "run", *SPEC], killing.slow(pause))

    def driver(self) -> int:
        """The pid of the driver that leads, once its attempt has committed a checkpoint of its own; 0 before."""
        assert self.kept.process.poll() is None, self.kept.said
        holder = self.run.holder() if self.run.exists() else None
        entries = self.run.log().entries if holder else []
        whole = [entry for entry in entries if entry.kind == "checkpoint committed"]
        return holder.pid if holder and whole and whole[-1].writer == holder.writer else 0

    def workers(self) -> list[int]:
        return [event["pid"] for event in Book(self.run).events if event["kind"] == "worker"]


def test_a_run_whose_driver_is_killed_finishes_without_help(kept: Maker, tmp_path: Path, digits: str) -> None:
    code, whole = make_small(tmp_path / "whole", digits).lead("whole", *SPEC)
    assert code == 0
    led = KeptRun(make_small(tmp_path / "kept", digits), kept, pause=0.06)
    os.kill(wait_for(led.driver), signal.SIGKILL)
    assert led.kept.wait() == 0, led.kept.said
    book = Book(led.run)
    claims = [entry for entry in book.entries if entry.kind == "taken over"]
    assert [entry.facts["why"] for entry in claims] == ["no driver was alive"]
    assert len(started(book)) == 2
    check_finished(book, losses(whole))
    assert led.kept.said.count("was killed by signal 9") == 1


def test_a_stop_told_to_keeper_and_driver_alike_saves(kept: Maker, tmp_path: Path, digits: str) -> None:
    """As Ray stops a job: one SIGTERM to each of its processes, the driver's doubled by its keeper."""
    led = KeptRun(make_small(tmp_path, digits), kept, pause=0.2)
    driver = wait_for(led.driver)
    os.kill(driver, signal.SIGTERM)
    led.kept.process.terminate()
    assert led.kept.wait() == 3
    assert "left at once" not in led.kept.said
    book = Book(led.run)
    assert book.state() == "stopped"
    check_log(book)
    last = max(event["step"] for event in book.events if event["kind"] == "step")
    saved = [entry.facts["step"] for entry in book.entries if entry.kind == "checkpoint committed"]
    assert saved[-1] == last < 40
    assert not alive([driver, *led.workers()])
