"""A node that says beforehand that it goes: `python -m clusters.node [--grace 120] -- ray start --address ... --block`.

Runs the raylet as its child. The first SIGTERM (Kubernetes, Slurm) or SIGUSR1 (Slurm's `--signal=USR1@120`) is a warning: it becomes a
notice with the deadline now + grace, and the raylet goes on. After the grace, or at a second signal, the raylet is ended in order. SIGINT
ends it at once. Exits with the child's code (128 + n when signal n ended it), as soon as the child does.

The grace must end before the killing: terminationGracePeriodSeconds or Slurm's KillWait, less 15 s. Signals that come within a second
of the first are the same warning, told twice (srun and slurmstepd both pass it on). The raylet and its workers ignore SIGUSR1, since
Slurm may send it to every process of a step. As process 1 of a container it reaps orphans.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress

from clusters.notices import NoticeError, write_notice
from clusters.processes import tie

GRACE_S, END_S, POLL_S = 120.0, 15.0, 0.1
SAME_S = 1.0


class Warned:
    """The signals this process got: when the first came (time.monotonic()), and whether it is enough."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.since = 0.0
        self.enough = False

    def note(self, number: int, _: object) -> None:
        now = time.monotonic()
        self.enough = (
            self.enough or number == signal.SIGINT or (self.first is not None and now - self.since > SAME_S)
        )
        if self.first is None:
            self.first, self.since = signal.Signals(number), now


def main() -> int:
    """Runs the node until it ends; its exit code."""
    args = _arguments()
    os.environ.setdefault("MIXER_NODE", f"node-{secrets.token_hex(6)}")  # the child's processes watch for it
    os.environ.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")  # the grace is over when Ray is asked
    warned = Warned()
    child = _start(args.command, warned)
    notice = None
    while (code := child.poll()) is None:
        if warned.first and notice is None:
            notice = _tell(warned.first, args.grace)
        if warned.enough or (warned.first and time.monotonic() >= warned.since + args.grace):
            code = _end(child)
            break
        _reap_orphans(child.pid)
        time.sleep(POLL_S)
    if notice:
        _forget(notice)
    return code if code >= 0 else 128 - code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m clusters.node", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--grace", type=float, default=GRACE_S, help="seconds from the warning to the end (120)"
    )
    parser.add_argument("command", nargs="+", help="-- and the command of the raylet, which must not return")
    args = parser.parse_args()
    if not 0 <= args.grace < float("inf"):
        parser.error(f"--grace got {args.grace}; allowed are 0 or more seconds")
    return args


def _start(command: list[str], warned: Warned) -> subprocess.Popen[bytes]:
    """The child, in a session of its own, which gets SIGTERM when this process is killed."""
    signal.signal(signal.SIGTERM, warned.note)
    signal.signal(signal.SIGINT, warned.note)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited
    child = subprocess.Popen(tie(command), start_new_session=True)
    signal.signal(signal.SIGUSR1, warned.note)
    return child


def _tell(number: signal.Signals, grace_s: float) -> str:
    """Write the notice; its path, empty when that failed: the raylet gets its time all the same."""
    try:
        path = str(write_notice(grace_s, f"{number.name} of the node"))
    except NoticeError as error:
        path = ""
        _say(f"got {number.name}, and could not tell: {error}")
    else:
        _say(f"got {number.name}: told, ending in {grace_s:g} s or at the next signal")
    return path


def _forget(path: str) -> None:
    """A node of the same name that starts here is not the one that went."""
    with suppress(OSError):
        os.unlink(path)


def _end(child: subprocess.Popen[bytes]) -> int:
    """SIGTERM, and SIGKILL to all of its session after 15 s; its code."""
    child.terminate()
    try:
        return child.wait(END_S)
    except subprocess.TimeoutExpired:
        _say(f"the child lives {END_S:g} s after SIGTERM; killing it")
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        return child.wait()


def _reap_orphans(child: int) -> None:
    """Collect what was left to us by parents that died, and leave the child to its own waiting."""
    while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if found.si_pid == child:
            return
        os.waitpid(found.si_pid, 0)


def _say(text: str) -> None:
    print(f"node: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
