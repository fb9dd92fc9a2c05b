"""One rank as its shell sees it: a process that the node's warm server forked, told apart from silence by its connection and /proc."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.near import lines

LOOK_EVERY_S, DUMP_WAIT_S, END_S = 0.02, 1.0, 5.0


class Rank:
    """One rank at work: the connection `line` to the warm server, and what came over it."""

    def __init__(self, line: socket.socket, config: dict[str, Any], env: dict[str, str]) -> None:
        self.pid = 0
        self.asked = time.monotonic()
        self.result: dict[str, Any] | None = None
        self.exit: int | None = None
        self.over = False
        self._stopped_since: float | None = None
        self._line = line
        self._buffer = b""
        lines.send(self._line, {"config": config, "env": env}, [1, 2])
        self._line.setblocking(False)

    def look(self) -> None:
        """Take in what has been said."""
        try:
            while data := self._line.recv(1 << 16):
                self._buffer += data
        except BlockingIOError:
            pass
        except OSError:
            self.over = True
        else:
            self.over = True
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, said: dict[str, Any]) -> None:
        self.pid = said.get("pid", self.pid)
        if "exit" in said:
            self.exit, self.over = said["exit"], True
        elif "kind" in said:
            self.result = said

    def kill(self) -> None:
        """The server kills a rank whose line is closed from here, and tells when it is gone: until then it holds its memory."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)
        until = time.monotonic() + END_S
        while not self.over and time.monotonic() < until:
            self.look()
            time.sleep(LOOK_EVERY_S)
        self._line.close()
        self.over = True

    def stopped_s(self) -> float:
        """For how long its process has been stopped (SIGSTOP, a debugger) whenever this was asked."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            state = ""
        now = time.monotonic()
        self._stopped_since = (self._stopped_since or now) if state in ("T", "t") else None
        return now - self._stopped_since if self._stopped_since else 0.0

    @property
    def stopped(self) -> bool:
        """Whether its process is stopped."""
        self.stopped_s()
        return self._stopped_since is not None

    def outcome(self) -> dict[str, Any]:
        """How it ended, as the desk is told."""
        if self.result is not None:
            return self.result
        why = f"signal {-self.exit}" if self.exit is not None and self.exit < 0 else f"exit code {self.exit}"
        if self.exit is None:
            why = "its warm server went with it"
        elif self.exit == -signal.SIGKILL:
            why += " (SIGKILL: from somebody, or from the kernel for want of memory)"
        return {"kind": "died", "error": why}


def stack_of(rank: Rank, dump: Path) -> str:
    """Where a rank is, thread by thread. A process that is stopped cannot say."""
    if rank.stopped:
        return f"process {rank.pid} is stopped (state T: a SIGSTOP, or a debugger)"
    before = dump.stat().st_size if dump.exists() else 0
    with suppress(ProcessLookupError):
        os.kill(rank.pid, signal.SIGUSR2)
    until = time.monotonic() + DUMP_WAIT_S
    text = ""
    while time.monotonic() < until and not text.endswith("\n"):
        time.sleep(0.1)
        with suppress(OSError):
            text = dump.read_text(errors="replace")[before:]
    return text or f"process {rank.pid} did not answer SIGUSR2 in {DUMP_WAIT_S:.0f} s"
