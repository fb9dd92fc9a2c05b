"""The memory of the other nodes' agents: each keeps a copy of what the node before it in the ring holds, and reads for it over Ray.

Chunks travel through Ray's object store, one or two at a time; what arrives is kept outside of it, because objects die with the process
that made them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Condition, Lock, Thread
from typing import Any

from orchestrator.near.held import Held, Holdings, memory_file

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
        if not self._holdings.reserve(source, file, size):
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
            coming = self._coming.get((source, file))
            if coming is None or coming.path != path:  # a newer one has begun
                return
            del self._coming[source, file]
        self._holdings.put(coming)

    def keep(self, sources: set[str]) -> None:
        """What other nodes had begun will not end."""
        with self._lock:
            self._coming = {key: item for key, item in self._coming.items() if key[0] in sources}


class Neighbours:
    """The other nodes' agents, by node id, as the driver last told."""

    def __init__(self, node: str, complain: Callable[[str], None]) -> None:
        self._node, self._complain = node, complain
        self._agents: dict[str, Any] = {}
        self._where: dict[tuple[str, str], list[str]] = {}  # who said that it holds what
        self._asked: dict[Any, tuple[str, str]] = {}  # answers that are still to come: node and path
        self._silent: set[str] = set()  # nodes that did not answer since the last find()
        self._finding = Lock()
        self._given: dict[str, Held] = {}  # the newest of each file that is still to be copied
        self._news = Condition()
        Thread(target=self._push_all, name="copies", daemon=True).start()

    def meet(self, agents: dict[str, Any]) -> None:
        """These are the nodes' agents now; this node's own may be among them."""
        self._agents = {node: agent for node, agent in agents.items() if node != self._node}

    # -- what this node's ranks look for ----------------------------------------------------------------------------------
    def find(self, path: str, files: set[str]) -> set[str]:
        """Those of `files` that some other node holds; waits FIND_S for nodes that do not answer, no longer than files are missing."""
        with self._finding:
            self._silent, self._where = set(), {}
            asked = {agent.near_files.remote(path): (node, path) for node, agent in self._agents.items()}
            self._asked = asked
            until = time.monotonic() + FIND_S
            while (left := until - time.monotonic()) > 0:
                found = {file for file in files if (path, file) in self._where}
                if found == files or not self._hear(left):
                    break
            return {file for file in files if (path, file) in self._where}

    def _hear(self, seconds: float) -> bool:
        """Take in the answers that come next. Whether there were any to wait for."""
        import ray

        if not self._asked:
            return False
        ready, _ = ray.wait(list(self._asked), timeout=seconds)
        for ref in ready:
            node, path = self._asked.pop(ref)
            try:
                for file in ray.get(ref):
                    self._where.setdefault((path, file), []).append(node)
            except ray.exceptions.RayError:  # it is gone
                continue
        return bool(ready)

    def read(self, path: str, file: str, offset: int, length: int) -> bytes | None:
        """A range, from a node that said it holds it. A node that does not answer is not asked again."""
        tried: set[str] = set()
        while True:
            for node in set(self._where.get((path, file), ())) - tried - self._silent:
                tried.add(node)
                if (data := self._read(node, path, file, offset, length)) is not None:
                    return data
            with self._finding:  # others may have it, that answered later
                new = set(self._where.get((path, file), ())) - tried - self._silent
                if not new and not self._hear(FIND_S):
                    return None

    def _read(self, node: str, path: str, file: str, offset: int, length: int) -> bytes | None:
        import ray

        if (agent := self._agents.get(node)) is None:
            return None
        try:
            data: bytes | None = ray.get(agent.near_read.remote(path, file, offset, length), timeout=ANSWER_S)
        except (ray.exceptions.RayError, TimeoutError):
            self._silent.add(node)
            return None
        return data

    # -- what this node gives -----------------------------------------------------------------------------------------------
    def give(self, item: Held) -> None:
        """Copy it to the next node in the ring, behind whoever calls."""
        with self._news:
            self._given[item.file] = item
            self._news.notify()

    def _push_all(self) -> None:
        while True:
            with self._news:
                while not self._given:
                    self._news.wait()
                item = self._given.pop(next(iter(self._given)))
            try:
                if not item.dropped and (agent := self._next()) is not None:
                    self._push(agent, item)
            except Exception as error:  # whatever it is: the bucket has the bytes
                self._complain(f"{item.file} was not copied to another node: {type(error).__name__}")
            del item  # it may be the last who holds it

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
            ray.get(agent.near_end.remote(*name), timeout=PUSH_S)
