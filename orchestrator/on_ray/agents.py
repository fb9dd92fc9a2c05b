"""One agent per node: a Ray actor without CPUs that keeps the node's warm server and watches for notices.

The driver's Agents makes one on every node as it appears, and a new one where one has died. Agents belong to the driver and go with it;
their warm servers and the ranks of those go with them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from clusters import capacity
from orchestrator.training.warm_files import socket_of

NOTICE_EVERY_S = 0.5
PING_EVERY_S, PING_PATIENCE_S = 5.0, 20.0
RETRY_S = 5.0


class Agent:
    """The actor of one node."""

    def __init__(self, desk: Any, node: str, token: str, kind: list[str]) -> None:
        self._desk, self._node = desk, node
        self._gone = Event()
        self._server = _start_server(socket_of(node, token), kind)
        Thread(target=self._watch, name="notices", daemon=True).start()
        Thread(target=self._keep, args=(token, kind), name="warm", daemon=True).start()

    def alive(self) -> int:
        """The pid of the warm server."""
        return self._server.pid

    def kill(self, pid: int) -> None:
        """Kill a shell of this driver that does not answer any more."""
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)

    def _keep(self, token: str, kind: list[str]) -> None:
        path = socket_of(self._node, token)
        while not self._gone.is_set():
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(timeout=PING_EVERY_S)
            if self._server.poll() is None and not _answers(path):
                self._complain("its warm server does not answer; a new one is started")
                self._server.kill()
                self._server.wait()
            if self._server.poll() is not None:
                self._server = _start_server(path, kind)

    def _watch(self) -> None:
        from clusters.notices import NoticeError, Watcher

        try:
            watcher = Watcher(self._node, self._complain)
        except NoticeError as error:
            return self._complain(f"no notices are watched: {error}")
        while not self._gone.wait(NOTICE_EVERY_S):
            for notice in watcher.take():
                self._desk.notice.remote(vars(notice))
        return None

    def _complain(self, text: str) -> None:
        self._desk.complain.remote(f"node {self._node[:12]}: {text}")


def _answers(path: str) -> bool:
    """Whether the warm server takes a connection and closes it again: one that asks for nothing. One that still imports is given time."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(PING_PATIENCE_S)
            line.connect(path)
            line.sendall(b"\n")
            return line.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def _start_server(path: str, kind: list[str]) -> subprocess.Popen[bytes]:
    """The warm server; it ends when this process does, because its stdin ends then."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.training.warm", path, *kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=env,
        cwd=str(Path.cwd()),
    )


class Agents:
    """The driver's agents, by node. `kind` is what a warm server is told: the device, and whether ranks compile."""

    def __init__(self, desk: Any, token: str, kind: list[str]) -> None:
        self._desk, self._token, self._kind = desk, token, kind
        self._actors: dict[str, Any] = {}
        self._asked: dict[str, tuple[Any, float]] = {}

    def tend(self, nodes: set[str]) -> None:
        """Make agents on nodes that have none, and again where one has died. Never waits."""
        for node in list(self._actors):
            if node not in nodes or self._died(node):
                del self._actors[node]
                self._asked.pop(node, None)
        for node in nodes - self._actors.keys():
            self._actors[node] = self._make(node)

    def kill(self, node: str, pid: int) -> None:
        """Kill a process of this driver on `node`."""
        if node in self._actors:
            self._actors[node].kill.remote(pid)

    def close(self) -> None:
        """End them, and with them their warm servers."""
        import ray

        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()

    def _make(self, node: str) -> Any:
        import ray

        actor = ray.remote(Agent).options(
            num_cpus=0, max_concurrency=4, scheduling_strategy=capacity.on_node(node)
        )
        return actor.remote(self._desk, node, self._token, self._kind)

    def _died(self, node: str) -> bool:
        """Asks whether the agent lives, at most every RETRY_S seconds, and looks at the answer when it has come."""
        import ray

        now = time.monotonic()
        asked = self._asked.get(node)
        if asked is None:
            self._asked[node] = (self._actors[node].alive.remote(), now)
            return False
        ready, _ = ray.wait([asked[0]], timeout=0)
        if not ready:
            return False
        if now - asked[1] < RETRY_S:
            return False
        del self._asked[node]
        try:
            ray.get(ready[0])
        except Exception:  # it died, or could not be placed
            return True
        return False
