"""Processes that take turns on one core, so that what else the machine does meets all of them alike.

The driver starts every competitor -> one line "N" on its standard input asks for N more pictures -> it answers with a line of JSON:
how many it made, and the CPU seconds of itself and its children since the answer before -> until its next turn it is stopped
(SIGSTOP), so that what it makes ahead is paid for in its own turns. The first turn, which opens the data, is not counted.

A competitor is a module of `benchmarks.data.competitors`. It needs nothing of this project but this file and its neighbours; peers run
with the Python of a venv of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
END_S = 20.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Turn(NamedTuple):
    """What a turn took, per picture: microseconds of CPU and of time."""

    cpu: float
    wall: float


class Unavailable(Exception):
    """A competitor cannot run here; says why."""


class Competitor:
    """A process that makes batches of pictures when it is its turn. Close it."""

    def __init__(self, python: str | Path, module: str, *words: str, label: str = "") -> None:
        self.name = label or module.rpartition(".")[2]
        command = [str(python), "-m", module, *words]
        surroundings = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in `close`)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        self._process = subprocess.Popen(command, env=surroundings, cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload]
        self.facts: dict[str, Any] = self._answer()

    def do(self, pictures: int) -> Turn:
        """About so many more pictures: whole batches."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        began = time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            print(pictures, file=self._process.stdin, flush=True)
        answer = self._answer()
        wall = time.perf_counter() - began
        self._process.send_signal(signal.SIGSTOP)
        return Turn(1e6 * answer["cpu"] / answer["pictures"], 1e6 * wall / answer["pictures"])

    def close(self) -> None:
        """End the process. Harmless when repeated."""
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read()[-2000:]
        self.close()
        raise Unavailable(f"{self.name} ended with {code}: {said}")


def race(competitors: Sequence[Competitor], rounds: int, pictures: int) -> dict[str, list[Turn]]:
    """Each competitor's turns, of so many pictures. Another one begins every round, and every other round goes backwards."""
    turns = defaultdict(list)
    for competitor in competitors:
        competitor.do(pictures)  # opens its data, fills its buffers
    for number in range(rounds):
        first = number % len(competitors)
        for competitor in [*competitors[first:], *competitors[:first]][:: 1 if number % 2 else -1]:
            turns[competitor.name].append(competitor.do(pictures))
    return {competitor.name: turns[competitor.name] for competitor in competitors}


def serve(batches: Iterator[Any], **facts: Any) -> None:
    """The competitor's side. `batches` never ends and gives arrays uint8 [n, H, W, 3], or whatever has their length."""
    answer, sys.stdout = sys.stdout, sys.stderr  # what a library prints goes elsewhere
    print(json.dumps(facts), file=answer, flush=True)
    before = _cpu()
    for line in sys.stdin:
        wanted, made = int(line), 0
        while made < wanted:
            made += len(next(batches))
        now = _cpu()
        print(json.dumps({"pictures": made, "cpu": now - before}), file=answer, flush=True)
        before = now
    os._exit(0)  # threads of loaders are not waited for


def _cpu() -> float:
    """CPU seconds of this process and of all that it ever started."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_spent, _children()))


def _children() -> list[str]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found += (task / "children").read_text().split()
    return found


def _spent(pid: str) -> float:
    """CPU seconds of a live process, in ticks of 10 ms."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
