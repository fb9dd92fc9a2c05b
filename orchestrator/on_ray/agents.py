"""One agent per node: a Ray actor without CPUs that keeps the node's warm server, watches for notices and holds checkpoints in memory.

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
from orchestrator.near.server import Server as NearServer
from orchestrator.on_ray.neighbours import Copies, Neighbours
from orchestrator.training.warm_files import near_socket_of, socket_of

NOTICE_EVERY_S = 0.5
PING_EVERY_S, PING_PATIENCE_S = 5.0, 20.0
RETRY_S, MEET_EVERY_S = 5.0, 30.0
ORPHANS_S = 600.0  # long enough for any restart


class Agent:
    """The actor of one node."""

    def __init__(self, desk: Any, node: str, token: str, kind: list[str]) -> None:
        self._desk, self._node = desk, node
        self._gone = Event()
        self._server = _start_server(socket_of(node, token), kind)
        self._neighbours = Neighbours(node, self._complain)
        self._near = NearServer(near_socket_of(node, token), node, self._neighbours, self._neighbours.give)
        self._copies = Copies(self._near.holdings)
        Thread(target=self._watch, name="notices", daemon=True).start()
        Thread(target=self._keep, args=(token, kind), name="warm", daemon=True).start()

    def alive(self) -> int:
        """The pid of the warm server."""
        return self._server.pid

    def kill(self, pid: int) -> None:
        """Kill a shell of this driver that does not answer any more."""
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)

    # -- memory: what other agents, and the driver's Agents, call ----------------------------------------------------------
    def meet(self, agents: dict[str, Any]) -> None:
        """These are the nodes' agents. What a node gave that is no more among them is held for a while yet."""
        self._neighbours.meet(agents)
        self._copies.keep(set(agents))
        self._near.holdings.keep(set(agents) | {self._node}, ORPHANS_S)

    def near_files(self, path: str) -> list[str]:
        """The files of the checkpoint at `path` that this node holds."""
        return [item.file for item in self._near.holdings if item.path == path]

    def near_read(self, path: str, file: str, offset: int, length: int) -> bytes | None:
        """A range of a file that this node holds, else None."""
        item = self._near.holdings.get(path, file)
        return item.read(offset, length) if item else None

    def near_begin(self, source: str, path: str, file: str, size: int) -> bool:
        """A copy of another node's file will come. Whether there is room for it."""
        return self._copies.begin(source, path, file, size)

    def near_write(self, source: str, path: str, file: str, at: int, data: bytes) -> None:
        """A part of it."""
        self._copies.write(source, path, file, at, data)

    def near_end(self, source: str, path: str, file: str) -> None:
        """That was all of it."""
        self._copies.end(source, path, file)

    # -- warm server and notices -----------------------------------------------------------------------------------------
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
            if self._near.holdings.relieve():
                self._complain("memory is short: checkpoints are not held in it any more")

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
        self._met = 0.0

    def tend(self, nodes: set[str]) -> None:
        """Make agents on nodes that have none, and again where one has died. Never waits."""
        before = dict(self._actors)
        for node in list(self._actors):
            if node not in nodes or self._died(node):
                del self._actors[node]
                self._asked.pop(node, None)
        for node in nodes - self._actors.keys():
            self._actors[node] = self._make(node)
        if self._actors != before or time.monotonic() > self._met + MEET_EVERY_S:
            self._introduce()

    def _introduce(self) -> None:
        """Tell every agent of all the others; again now and then, since nobody waits for the answers."""
        import ray

        self._met, everybody = time.monotonic(), ray.put(self._actors)
        for actor in self._actors.values():
            actor.meet.remote(everybody)

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
            num_cpus=0, max_concurrency=16, scheduling_strategy=capacity.on_node(node)
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
        except ray.exceptions.ActorUnavailableError:  # the way to it broke
            return False
        except Exception:  # it died, or could not be placed
            return True
        return False
