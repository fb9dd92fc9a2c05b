"""A run's log: the one truth about it. A dense sequence of small objects, each written by a conditional PUT.

`log/0000000000.json`, `log/0000000001.json`, ... An entry is written as number n+1 by whoever read n. A driver that was paused and
comes back finds its number taken and is Fenced. Kinds of entries:

created            the run exists; carries the fingerprint
submitted          a job was sent that will lead the run; carries its id
taken over         a driver starts to lead the run; carries why, and its code
resources changed  keys outside the identity that differ from the entry before
attempt started    world, checkpoint it starts from; its number names all the attempt uploads
attempt ended      outcome: finished, stopped, lost, died, hung, failed, diverged, damaged, refused; with cause
notice             a machine will go, or may: node, deadline (Unix seconds or null), cause, source
straggler          a node that is slower than the others: node, why
batch left out     from now on, because it diverged: batch, step, why
waiting            for machines; carries why
checkpoint committed / checkpoint deleted / checkpoint damaged
compile cache      what an attempt compiled lies at path; carries key and SHA-256
request            a stop, scale or save asked for by anyone, now taken up
stopped, gave up, finished
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.storage import NotFound, Store
from orchestrator.errors import Fenced
from orchestrator.spec import Spec

ENDS = ("stopped", "gave up", "finished")
REMARKS = ("notice", "request")  # entries that change nothing about what the run is doing


@dataclass(frozen=True)
class Entry:
    """One entry: its number, kind, writer, time (Unix seconds) and facts."""

    n: int
    kind: str
    writer: str
    time: float
    facts: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        head = {"n": self.n, "kind": self.kind, "writer": self.writer, "time": self.time}
        return json.dumps({**head, **self.facts}, sort_keys=False).encode()

    def says(self) -> str:
        """Kind and facts, as they lie in the store."""
        return json.dumps([self.kind, self.facts], sort_keys=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        tree = json.loads(data)
        return cls(tree.pop("n"), tree.pop("kind"), tree.pop("writer"), tree.pop("time"), tree)


def new_writer() -> str:
    """A name for a process that writes: host, pid and a random part, so that a reused pid is not the same writer."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"


def entry_key(n: int) -> str:
    """The key of entry number `n` below the run."""
    return f"log/{n:010d}.json"


class RunLog:
    """The entries read so far, and the way to add one."""

    def __init__(
        self, store: Store, writer: str, *, conditional: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self.writer, self._conditional, self._clock = store, writer, conditional, clock
        self.entries: list[Entry] = []

    def refresh(self) -> list[Entry]:
        """Read what others wrote since; all entries."""
        while True:
            try:
                self.entries.append(Entry.from_bytes(self._store.get(entry_key(len(self.entries)))))
            except NotFound:
                return self.entries

    def append(self, kind: str, **facts: Any) -> Entry:
        """Write the next entry. Fenced when somebody else has written that number.

        After a StoreError the entry may lie there all the same; then the next append finds and keeps it.
        """
        while True:
            entry = Entry(len(self.entries), kind, self.writer, self._clock(), facts)
            found = self._create(entry)
            self._require_mine(found)
            self.entries.append(found)
            if found.says() == entry.says():
                return found

    def check(self) -> None:
        """Fenced when another driver has written the next entry: a driver that has nothing to write would not notice."""
        key = entry_key(len(self.entries))
        if self._store.head(key) is not None:
            self._require_mine(Entry.from_bytes(self._store.get(key)))

    def _require_mine(self, found: Entry) -> None:
        if found.writer != self.writer:
            raise Fenced(
                f"log entry {found.n} is taken: {found.writer} wrote '{found.kind}' there, so it leads the run now; "
                "this driver stops and changes nothing more"
            )

    def _create(self, entry: Entry) -> Entry:
        """What lies under the number of `entry` now: `entry`, or what was there before."""
        key = entry_key(entry.n)
        free = self._conditional or self._store.head(key) is None
        if free and self._store.put_if_absent(key, entry.to_bytes()):
            return entry
        return Entry.from_bytes(self._store.get(key))

    def last(self, *kinds: str) -> Entry | None:
        """The newest entry of these kinds."""
        return next((entry for entry in reversed(self.entries) if entry.kind in kinds), None)


def standing(entries: list[Entry]) -> str:
    """The kind of the newest entry that says what the run is doing."""
    return next((entry.kind for entry in reversed(entries) if entry.kind not in REMARKS), "created")


def log_resources(log: RunLog, spec: Spec) -> None:
    """Write down that the run goes on with the resources of `spec`."""
    log.append("resources changed", spec=spec.model_dump(mode="json", by_alias=True))


def live_checkpoints(entries: Iterable[Entry]) -> list[Entry]:
    """The committed checkpoints that are neither deleted nor damaged, oldest first."""
    live: dict[str, Entry] = {}
    for entry in entries:
        if entry.kind == "checkpoint committed":
            live[entry.facts["path"]] = entry
        elif entry.kind in ("checkpoint deleted", "checkpoint damaged"):
            live.pop(entry.facts["path"], None)
    return list(live.values())


def left_out(entries: Iterable[Entry]) -> tuple[int, ...]:
    """The batches left out so far, in the order they diverged."""
    return tuple(int(entry.facts["batch"]) for entry in entries if entry.kind == "batch left out")


def acknowledged(entries: Iterable[Entry]) -> set[str]:
    """The ids of requests that have been taken up."""
    return {entry.facts["id"] for entry in entries if entry.kind == "request"}
