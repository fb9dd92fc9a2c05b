"""An arena without Ray: drivers that lead their ranks as gloo gangs (tests.driver_main). No nodes, so only what happens to processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from clusters.processes import Process
from tests.chaos import memory
from tests.chaos.arena import ROOT, Arena, Driver
from tests.chaos.disk import small_disk
from tests.chaos.environment import environment
from tests.chaos.front import fronting
from tests.chaos.scene import Scene, furnish, make_bucket

MARK = "MIXER_CHAOS_GANG"


class Server(Protocol):
    """An S3 server that runs."""

    @property
    def endpoint(self) -> str: ...
    @property
    def env(self) -> dict[str, str]: ...


class GangArena(Arena):
    """Ranks are processes of this machine; they carry this arena's mark."""

    def __init__(self, mark: str, env: Mapping[str, str]) -> None:
        self._mark, self._env = mark, dict(env)

    @property
    def kinds(self) -> frozenset[str]:
        found = {"kill rank", "kill ranks", "pause rank", "kill driver", "rival driver", "stop", "scale"}
        return frozenset(found | ({"memory"} if memory.can_limit() else set()))

    def start(self, *args: str, said: Path) -> Driver:
        """`mixer train` becomes a driver on gangs; everything else is the command itself."""
        command = [sys.executable, "-W", "ignore", "-m", "orchestrator", *args]
        if args[0] == "train":
            _, spec, _, store, _, name, *more = args
            command[3:] = ["-m", "tests.driver_main", store, spec, name, *more]
        env = {**os.environ, **self._env, MARK: self._mark}
        with said.open("ab") as out:
            return subprocess.Popen(
                command, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def rank(self, worker: Mapping[str, Any]) -> Process | None:
        path, wanted = Path(f"/proc/{worker['pid']}/environ"), f"{MARK}={self._mark}".encode()
        try:
            ours = wanted in path.read_bytes().split(b"\0")
        except OSError:
            return None
        return Process.of(int(worker["pid"])) if ours else None

    def squeeze(self, process: Process) -> None:
        memory.limit(process, self._mark)


@contextmanager
def on_gangs(
    folder: Path, *, steps: int, mark: str, server: Server | None = None, seed: int = 0
) -> Iterator[Scene]:
    """A scene on gangs; the store is a local folder whose disk may be full, or a running S3 server with a proxy before it."""
    with ExitStack() as stack:
        stack.callback(memory.tidy, mark)
        store, front, disk, env = str(folder / "store"), None, None, {}
        if server:
            stack.enter_context(environment(server.env))
            front = stack.enter_context(fronting(server.endpoint, folder, seed))
            store, env = make_bucket("gangs"), {**server.env, "AWS_ENDPOINT_URL": front.endpoint}
        else:
            disk = stack.enter_context(small_disk(folder / "store"))
        spec = furnish(folder, store, steps)
        yield Scene(GangArena(mark, env), spec, store, folder, front, disk)
