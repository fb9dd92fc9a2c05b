"""Gangs: real gloo processes on this machine, started in a tenth of a second from a server that has torch and deepspeed loaded.

run_gang() calls a function on every rank and gives the results. GangMachines lets the real Supervisor lead real workers without Ray.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DamagedCheckpoint, Diverged, PeerLost, needs_the_user
from orchestrator.leading import supervisor, tending
from orchestrator.leading.policy import Outcome
from orchestrator.run_store import Run
from orchestrator.spec import Workers

if TYPE_CHECKING:
    from clusters.notices import Notice

# Once a second is often enough for machines, not for a test that waits.
tending.LOOK_EVERY_S = supervisor.WAIT_EVERY_S = 0.2
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.gang_preload"])


class RankFailed(Exception):
    """A rank raised, or died."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _rank_main(pipe: Connection, env: dict[str, str], fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send(("ok", fn(*args)))
        code = 0
    except BaseException as error:
        batch = getattr(error, "batch", None)
        pipe.send(("error", f"{type(error).__name__}: {error}", traceback.format_exc(), _kind(error), batch))
        code = 1
    pipe.close()
    os._exit(code)  # process groups and threads of a killed gang may not be able to end in order


def _kind(error: BaseException) -> str:
    if isinstance(error, PeerLost):
        return "peer"
    if isinstance(error, DamagedCheckpoint):
        return "damaged"
    if isinstance(error, Diverged):
        return "diverged"
    return "refused" if needs_the_user(error) else "failed"


class Gang:
    """`world` processes, each calling `fn(*args)` with the environment of a rank."""

    def __init__(
        self, world: int, fn: Callable[..., Any], *args: Any, env: dict[str, str] | None = None
    ) -> None:
        port = str(free_port())
        self.ranks: list[tuple[BaseProcess, Connection]] = []
        inherited = {key: value for key, value in os.environ.items() if key.startswith(("AWS_", "MIXER_"))}
        for rank in range(world):
            place = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
            }
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
            ours, theirs = _context.Pipe(duplex=False)
            full = {**inherited, **place, **address, **(env or {})}
            process = _context.Process(target=_rank_main, args=(theirs, full, fn, args), daemon=True)
            process.start()
            theirs.close()
            self.ranks.append((process, ours))
        self.said: dict[int, tuple[Any, ...]] = {}

    def poll(self) -> bool:
        """Collect what has been said; whether all ranks have spoken or are gone."""
        for rank, (process, pipe) in enumerate(self.ranks):
            if rank in self.said:
                continue
            try:
                if pipe.poll(0):
                    self.said[rank] = pipe.recv()
                elif not process.is_alive() and not pipe.poll(0):
                    self.said[rank] = ("died", f"exit code {process.exitcode}")
            except EOFError:
                process.join(timeout=10)
                self.said[rank] = ("died", f"exit code {process.exitcode}")
        return len(self.said) == len(self.ranks)

    def wait(self, timeout: float) -> list[Any]:
        """The results by rank. RankFailed when a rank raised or died; the others are ended."""
        deadline = time.monotonic() + timeout
        try:
            while not self.poll():
                if time.monotonic() > deadline:
                    raise RankFailed(f"gang took more than {timeout} s; spoken: {sorted(self.said)}")
                if any(said[0] != "ok" for said in self.said.values()):
                    time.sleep(0.5)
                    self.poll()
                    break
                time.sleep(0.01)
        finally:
            self.kill()
        bad = {rank: said for rank, said in self.said.items() if said[0] != "ok"}
        if bad:
            raise RankFailed(
                "\n".join(f"rank {rank}: {' '.join(map(str, said[:3]))}" for rank, said in bad.items())
            )
        return [self.said[rank][1] for rank in range(len(self.ranks))]

    def kill(self) -> None:
        """End what is left, and let it go."""
        for process, _ in self.ranks:
            if process.is_alive():
                process.kill()
        for process, pipe in self.ranks:
            process.join(timeout=10)
            pipe.close()


def run_gang(
    world: int, fn: Callable[..., Any], *args: Any, timeout: float = 120, env: dict[str, str] | None = None
) -> list[Any]:
    """What `fn(*args)` returns on each of `world` ranks."""
    return Gang(world, fn, *args, env=env).wait(timeout)


class GangAttempt:
    """An attempt on a gang: the supervisor's Work without Ray. Rank r is on the r-th of `places`."""

    def __init__(
        self,
        world: int,
        fn: Callable[..., Any],
        config: dict[str, Any],
        env: dict[str, str],
        places: list[str],
    ) -> None:
        self._world, self._fn, self.config, self._env = world, fn, config, env
        self.places = places[:world]
        self.gang: Gang | None = None
        self.ended: Outcome | None = None  # by kill(), or by a test that plays what watches the ranks
        self.slowness: dict[str, str] = {}  # a test may say that a node is slow
        self._bad_since: float | None = None

    def start(self) -> None:
        self.gang = Gang(self._world, self._fn, self.config, env=self._env)

    def poll(self) -> Outcome | None:
        assert self.gang is not None
        if self.ended is not None:
            self.gang.kill()
            return self.ended
        over = self.gang.poll()
        bad = [said for said in self.gang.said.values() if said[0] != "ok"]
        if bad and not over:  # give the others a moment to say what they saw, then end them
            self._bad_since = self._bad_since or time.monotonic()
            if time.monotonic() - self._bad_since < 1.0:
                return None
        elif not over:
            return None
        self.gang.kill()
        return self._outcome(bad)

    def wait(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.05))

    def nodes(self) -> set[str]:
        return set(self.places)

    def started(self) -> bool:
        return "loss" in (Run(self.config["run"]).read_json(f"progress/{self.config['attempt']}.json") or {})

    def slow(self) -> dict[str, str]:
        found, self.slowness = self.slowness, {}
        return found

    def kill(self, why: str) -> None:
        assert self.gang is not None
        self.ended = Outcome("stopped", why)
        self.gang.kill()

    def _outcome(self, bad: list[tuple[Any, ...]]) -> Outcome:
        if not bad:
            return Outcome("finished")
        for said in bad:
            if said[0] == "error" and said[3] in ("damaged", "refused", "failed", "diverged"):
                cause = f"{said[1]}\n{said[2]}" if said[3] == "failed" else said[1]
                return Outcome(said[3], cause, batch=said[4])
        return Outcome("died", "; ".join(str(said[1]) for said in bad))


class GangMachines:
    """Machines for the supervisor: `room` nodes for one worker each, an attempt is a gang of gloo processes on them.

    A test may change `room`, and put notices into `announced`.
    """

    def __init__(self, fn: Callable[..., Any], room: int = 8, env: dict[str, str] | None = None) -> None:
        self._fn, self.room, self._env = fn, room, env or {}
        self.attempts: list[GangAttempt] = []
        self.announced: list[Notice] = []
        self.drained: set[str] = set()
        self.asked: list[int] = []

    def available(self, workers: Workers, without: str | None = None) -> int:
        return len(self.nodes() - {without})

    def nodes(self) -> set[str]:
        return {f"node-{number}" for number in range(self.room)} - self.drained

    def notices(self) -> list[Notice]:
        found = list(self.announced)
        del self.announced[: len(found)]
        return found

    def drain(self, notice: Notice) -> None:
        self.drained.add(notice.node)

    def ask_for(self, count: int, workers: Workers) -> None:
        self.asked.append(count)

    def attempt(self, name: str, world: int, workers: Workers, config: dict[str, Any]) -> GangAttempt:
        places = sorted(self.nodes(), key=lambda node: int(node.split("-")[1]))
        self.attempts.append(GangAttempt(world, self._fn, config, self._env, places))
        return self.attempts[-1]

    def release(self) -> None:
        for attempt in self.attempts:
            if attempt.gang:
                attempt.gang.kill()
