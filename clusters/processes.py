"""Processes we start and must be able to find and end again: nothing else may be touched.

The chain: `spawn` starts a program in a session of its own, its output going to a file -> the returned
`Process` names it by pid *and* start time, so that a pid the kernel gave to somebody else is never
signalled -> `marked` finds everything that inherited a marker from it, whatever session it moved to ->
`end` asks, waits, insists.

Linux only: /proc is read, and a tied child is bound to its parent by prctl(PR_SET_PDEATHSIG).
Not here: what the programs are (object_store, local), restarting them, reading their output.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Runs in the child before the program: SIGTERM when the parent dies, and give up if it died already.
# Not subprocess's preexec_fn: Python code between fork and exec can deadlock in a process with threads.
_TIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]): sys.exit("the parent process is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Process:
    """One process of ours, by pid and start time (clock ticks since boot, /proc/<pid>/stat field 22)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this pid now; one that is dead already gives a Process that is not alive."""
        return cls(pid, _started(pid) or 0)

    def alive(self) -> bool:
        """Whether this very process still runs. Zombies count as dead; our own children are reaped."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return _started(self.pid) == self.started

    def signal(self, signum: int) -> None:
        """Send a signal, unless the process is gone already."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)


def spawn(argv: Sequence[str], *, env: Mapping[str, str], log: Path, tied: bool) -> Process:
    """Start `argv` in a new session with exactly `env`, output appended to `log` (made with mode 600), and
    no other file: a server that stays must not hold on to locks and pipes of who called us.

    tied: the program gets SIGTERM when the thread that called this dies, however it dies.
    """
    command = tie(argv) if tied else list(argv)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        *((os.POSIX_SPAWN_CLOSE, number) for number in _open_files() if number > 2),
    ]
    pid = os.posix_spawn(command[0], command, dict(env), file_actions=actions, setsid=True)
    return Process.of(pid)


def tie(argv: Sequence[str]) -> list[str]:
    """The command that becomes `argv` and gets SIGTERM when the thread of this process that starts it dies."""
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *argv]


def marked(variable: str, value: str) -> list[Process]:
    """Every process of this user that was started with `variable=value` in its environment."""
    wanted = f"{variable}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and wanted in _environ(entry):
            found.append(Process.of(int(entry.name)))
    return [process for process in found if process.alive()]


def end(processes: Iterable[Process], grace_s: float) -> None:
    """SIGTERM, up to `grace_s` seconds, then SIGKILL, and wait until they are gone."""
    left = list(processes)
    for process in left:
        process.signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not any(p.alive() for p in left), grace_s, "the end of our processes")
    kill(left)


def kill(processes: Iterable[Process]) -> None:
    """SIGKILL, and wait until they are gone."""
    left = list(processes)
    for process in left:
        process.signal(signal.SIGKILL)
    wait_until(lambda: not any(p.alive() for p in left), 10, "the end of processes sent SIGKILL")


def wait_until(check: Callable[[], T | None], timeout_s: float, what: str, every_s: float = 0.05) -> T:
    """The first true value of `check`, asked again and again. Raises TimeoutError naming `what`."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := check():
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(every_s)


def free_port() -> int:
    """A TCP port nobody listens on at 127.0.0.1 right now (somebody else may take it before you do)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def without_proxy() -> dict[str, str]:
    """NO_PROXY with 127.0.0.1 in it, where this user has a proxy set; S3 clients and Ray would send
    loopback there.
    """
    if not any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        return {}
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    value = ",".join([*filter(None, listed.split(",")), "127.0.0.1", "localhost"])
    return {"NO_PROXY": value, "no_proxy": value}


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log file, for an error message; empty when there is no file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _open_files() -> list[int]:
    """Numbers of this process's open files; one that was closed meanwhile does no harm to who closes it again."""
    return [int(name) for name in os.listdir("/proc/self/fd")]


def _started(pid: int) -> int | None:
    """Start time of a process in clock ticks, None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _environ(entry: Path) -> list[bytes]:
    """The environment a process was started with; empty for processes that are gone or not ours."""
    try:
        return (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
