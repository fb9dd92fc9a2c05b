"""Keeps a run's driver alive: `python -m orchestrator.keeper -- python -m orchestrator train URL`. What `mixer submit` starts.

A driver that ends by a signal (SIGKILL, the memory limit, a crash in native code) or with a code that no driver ends with on purpose is
started again, after 1 s, 2 s, 4 s ... up to 60 s; 10 times in half an hour, then its code is passed on. Codes 0 to 3 are the driver's
word, and passed on at once. --take-over is meant once, and left out of later starts: whoever leads the run by then is not to be robbed.

SIGTERM and SIGINT are passed on as SIGTERM, and end the keeping. A driver whose keeper is killed gets SIGTERM: it saves and leaves. The
two stay in one process group, which is how Ray ends a job whose supervisor is gone.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from clusters.processes import tie
from orchestrator.errors import DONE, FAILED, RESUMABLE, USAGE

WORDS = (DONE, FAILED, USAGE, RESUMABLE)
WINDOW_S, RESTARTS, LONGEST_S = 1800.0, 10, 60.0
POLL_S = 0.1


def pause_s(crashes: list[float], now: float) -> float | None:
    """Seconds to wait before the next start, by the times of the crashes so far, the last one now; None: enough."""
    recent = sum(now - crash < WINDOW_S for crash in crashes)
    return min(LONGEST_S, 2.0 ** (recent - 1)) if recent <= RESTARTS else None


class Keeper:
    """Starts `command`, and starts it again while it ends without a word."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._driver: subprocess.Popen[bytes] | None = None
        self._leaving = False
        self._crashes: list[float] = []

    def keep(self) -> int:
        """The exit code of the last driver, 128 + n for signal n; 3 when a signal of ours ended it, or there was none to ask."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        while True:
            code = self._run()
            if code in WORDS:
                return code
            if self._leaving:
                return RESUMABLE
            if not self._wait(code):
                return RESUMABLE if self._leaving else _shell_code(code)
            self._command = [word for word in self._command if word != "--take-over"]

    def _run(self) -> int:
        self._driver = subprocess.Popen(tie(self._command))
        if self._leaving:  # asked while there was nobody to ask
            self._driver.send_signal(signal.SIGTERM)
        return self._driver.wait()

    def _wait(self, code: int) -> bool:
        """Wait for the next start; False when there is to be none."""
        now = time.monotonic()
        self._crashes.append(now)
        pause = pause_s(self._crashes, now)
        if pause is None:
            _say(f"the driver {_told(code)}, {RESTARTS + 1} times in {WINDOW_S / 60:g} minutes: giving up")
            return False
        _say(f"the driver {_told(code)}; starting it again in {pause:g} s")
        while time.monotonic() < now + pause and not self._leaving:
            time.sleep(POLL_S)
        return not self._leaving

    def _pass_on(self, number: int, _: object) -> None:
        self._leaving = True
        if self._driver:
            self._driver.send_signal(signal.SIGTERM)


def _told(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with the unexpected code {code}"


def _shell_code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _say(text: str) -> None:
    print(f"keeper: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """The keeper of the command after `--`; its exit code."""
    command = sys.argv[1:]
    if len(command) < 2 or command[0] != "--":
        _say("usage: python -m orchestrator.keeper -- COMMAND [ARGUMENT ...]")
        return USAGE
    return Keeper(command[1:]).keep()


if __name__ == "__main__":
    sys.exit(main())
