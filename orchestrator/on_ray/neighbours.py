"""The memory of the other nodes' agents: each keeps a copy of what the node before it in the ring holds, and reads for it over Ray.

Chunks travel through Ray's object store, one or two at a time; what arrives is kept outside of it, because objects die with the process
that made them.
"""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from orchestrator.near.held import Held, Holdings, has_room, memory_file

CHUNK_BYTES = 16 << 20
FIND_S, ANSWER_S, PUSH_S = 1.0, 4.0, 30.0


class Copies:
    """What this node takes in of others, chunk by chunk; each copy is held once it is whole."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._coming: dict[tuple[str, str], Held] = {}
        self._lock = Lock()

    def begin(self, source: str, path: str, file: str, size: int) -> bool:
        """A copy will come, instead of the one before it. False: there is no room for it."""
        with self._lock:
            self._coming.pop((source, file), None)
        self._holdings.drop(source, file)
        if not has_room(size):
            return False
        coming = Held(source, path, file, size, memory_file(file))
        coming.room.resize(size)
        with self._lock:
            self._coming[source, file] = coming
        return True

    def write(self, source: str, path: str, file: str, at: int, data: Any) -> None:
        """The bytes from `at`."""
        with self._lock:
            coming = self._coming.get((source, file))
        if coming is not None and coming.path == path:
            coming.room.write(data, at)

    def end(self, source: str, path: str, file: str) -> None:
        """All has come."""
        with self._lock:
            coming = self._coming.pop((source, file), None)
        if coming is not None and coming.path == path:
            self._holdings.put(coming)


class Neighbours:
    """The other nodes' agents, by node id, as the driver last told."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._agents: dict[str, Any] = {}
        self._where: dict[tuple[str, str], str] = {}
        self._queue: SimpleQueue[Held] = SimpleQueue()
        Thread(target=self._push_all, name="copies", daemon=True).start()

    def meet(self, agents: dict[str, Any]) -> None:
        """These are the others now."""
        self._agents = agents

    # -- what this node's ranks look for ----------------------------------------------------------------------------------
    def find(self, path: str, files: set[str]) -> set[str]:
        """Those of `files` that some other node holds; waits FIND_S for nodes that do not answer, no longer than files are missing."""
        import ray

        asked = {agent.near_files.remote(path): node for node, agent in self._agents.items()}
        found: dict[str, str] = {}
        until = time.monotonic() + FIND_S
        while asked and files - found.keys() and (left := until - time.monotonic()) > 0:
            ready, _ = ray.wait(list(asked), timeout=left)
            for ref in ready:
                node = asked.pop(ref)
                try:
                    found.update(dict.fromkeys(files.intersection(ray.get(ref)), node))
                except ray.exceptions.RayError:  # it is gone
                    continue
        self._where.update({(path, file): node for file, node in found.items()})
        return set(found)

    def read(self, path: str, file: str, offset: int, length: int) -> bytes | None:
        """A range, from the node that find() saw it on."""
        import ray

        agent = self._agents.get(self._where.get((path, file), ""))
        if agent is None:
            return None
        try:
            data: bytes | None = ray.get(agent.near_read.remote(path, file, offset, length), timeout=ANSWER_S)
        except (ray.exceptions.RayError, TimeoutError):
            return None
        return data

    # -- what this node gives -----------------------------------------------------------------------------------------------
    def give(self, item: Held) -> None:
        """Copy it to the next node in the ring, behind whoever calls."""
        self._queue.put(item)

    def _push_all(self) -> None:
        import ray

        while True:
            try:
                item = self._queue.get(timeout=60.0)
            except Empty:
                continue
            if (agent := self._next()) is None or item.dropped:
                continue
            try:
                self._push(agent, item)
            except (
                ray.exceptions.RayError,
                TimeoutError,
            ):  # it is gone, or too slow: the bucket has the bytes
                continue

    def _next(self) -> Any:
        """The agent of the node after this one, by id, round again after the last."""
        others = sorted(self._agents)
        after = [node for node in others if node > self._node]
        return self._agents.get((after or others or [""])[0])

    def _push(self, agent: Any, item: Held) -> None:
        import ray

        name = (item.source, item.path, item.file)
        if not ray.get(agent.near_begin.remote(*name, item.size), timeout=PUSH_S):
            return
        last = None
        for at in range(0, item.size, CHUNK_BYTES):
            data = item.read(at, min(CHUNK_BYTES, item.size - at))
            if data is None:  # the next save has begun
                return
            sent = agent.near_write.remote(*name, at, data)
            if last is not None:
                ray.get(last, timeout=PUSH_S)
            last = sent
        if last is not None:
            ray.get(last, timeout=PUSH_S)
        if not item.dropped:
            agent.near_end.remote(*name)
