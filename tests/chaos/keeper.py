"""Who starts the run's driver, and starts it again when it is gone: a user at a terminal, or what Ray Jobs and Slurm do for one."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import DONE, RESUMABLE
from tests.chaos.arena import Arena, Driver

RESTART_S = 0.5
END_S = 60.0


class Keeper:
    """Keeps one driver of the run at work, by the same command every time."""

    def __init__(self, arena: Arena, folder: Path, spec: str, store: str, name: str) -> None:
        self._arena, self._folder, self.store, self.name = arena, folder, store, name
        self._command = ("train", spec, "--store", store, "--name", name)
        self._count = 0
        self._again_at: float | None = None
        self.unasked: list[str] = []  # drivers that went although nobody harmed them
        self.expected: set[int] = set()  # pids of drivers that were told to go, or killed
        self._beside: list[Driver] = []
        self.driver = self._start()

    def tend(self, gave_up: Callable[[], bool]) -> int | None:
        """Start the driver again when it is gone; its exit code once the run is over: finished, or given up."""
        code = self.driver.poll()
        if code is None:
            return None
        asked = self.driver.pid in self.expected
        if (code == DONE and not asked) or gave_up():
            return code
        if self._again_at is None:
            if not asked:
                self.unasked.append(f"driver {self._count} left with {code}: {self.said()[-300:]}")
            self._again_at = time.monotonic() + RESTART_S
        elif time.monotonic() > self._again_at:
            self._again_at = None
            self.driver = self._start()
        return None

    def kill(self) -> int:
        """SIGKILL the driver; its pid."""
        self.expected.add(self.driver.pid)
        self._arena.signal(self.driver, signal.SIGKILL)
        return self.driver.pid

    def ask(self, *args: str) -> Driver:
        """Another command of mixer about this run, beside the driver."""
        verb, *rest = args
        command = (verb, self.name, *rest, "--store", self.store)
        self._beside.append(self._arena.start(*command, said=self._folder / f"{self.name}-{verb}.txt"))
        return self._beside[-1]

    def rival(self) -> Driver:
        """Stop the driver's clock (SIGSTOP) and start another that takes the run over; the one that sleeps now."""
        old = self.driver
        self._beside.append(old)
        self.expected.add(old.pid)
        self._arena.signal(old, signal.SIGSTOP)
        self.driver = self._start("--take-over")
        return old

    def said(self) -> str:
        """What the newest driver has printed."""
        path = self._path(self._count)
        return path.read_text(errors="replace") if path.exists() else ""

    def end(self) -> None:
        """No driver any more, and nobody who asks one for something."""
        for process in (self.driver, *self._beside):
            if process.poll() is None:
                self._arena.signal(process, signal.SIGKILL)
            process.wait(timeout=END_S)

    def _start(self, *more: str) -> Driver:
        self._count += 1
        return self._arena.start(*self._command, *more, said=self._path(self._count))

    def _path(self, count: int) -> Path:
        return self._folder / f"{self.name}-driver-{count}.txt"


def awaken(arena: Arena, driver: Driver) -> str:
    """Let a sleeping driver go on; how it ended. It must find that it leads no more."""
    arena.signal(driver, signal.SIGCONT)
    try:
        code = driver.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        arena.signal(driver, signal.SIGKILL)
        driver.wait(timeout=END_S)
        return "UNSEEN: the old driver led on, and had to be killed"
    return f"the old driver left with {code}" + ("" if code == RESUMABLE else ", not 3")
