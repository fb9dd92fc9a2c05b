"""What a rank notes while it works: the ledger's raw material, in order, in the bucket.

note() and span() append to memory; flush() writes the rest as one more part, `events/<n>-<rank>-<part>.jsonl`. A save flushes
before its receipt, so a committed checkpoint never outlives the notes of the steps it holds. Each part ends with what the meters say;
what is in the bucket is shown on the board, if there is one (rank 0).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from data_pipeline.storage import Store

FLUSH_EVERY_S, _READERS = 30.0, 16


class Shows(Protocol):
    """What shows events as curves (training/board.py)."""

    def take(self, part: int, lines: list[str]) -> None: ...

    def write(self, *, end: bool = False) -> None: ...


class Events:
    """The notes of one rank of one attempt. Times are Unix seconds."""

    board: Shows | None = None

    def __init__(self, store: Store, attempt: int, rank: int) -> None:
        self._store, self._key = store, f"events/{attempt:010d}-{rank:05d}"
        self._lines: list[str] = []
        self._part = 0
        self._meters: dict[
            str, tuple[Callable[[], Mapping[str, Any]], dict[str, Any]]
        ] = {}  # and what it said last
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_flushing, name="events", daemon=True)
        self._thread.start()

    def note(self, kind: str, **facts: Any) -> None:
        """Append one event of this moment."""
        line = json.dumps({"t": time.time(), "kind": kind, **facts})
        with self._adding:
            self._lines.append(line)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Note from when to when the body ran, also when it raises."""
        start = time.time()
        try:
            yield
        finally:
            self.note("span", name=name, start=start)

    def meter(self, kind: str, read: Callable[[], Mapping[str, Any]]) -> None:
        """Note what `read` says, as an event `kind`, with each part to come, where it has changed."""
        self._meters[kind] = read, {}

    def flush(self) -> None:
        """Write what is not written yet. StoreError when the store does not take it."""
        with self._writing:
            self._read_meters()
            with self._adding:
                lines, self._lines = self._lines, []
            if lines:
                self._write(lines)

    def _write(self, lines: list[str]) -> None:
        try:
            self._store.put(f"{self._key}-{self._part:06d}.jsonl", ("\n".join(lines) + "\n").encode())
        except BaseException:
            with self._adding:
                self._lines = lines + self._lines
            raise
        self._part += 1
        self._show(lines)

    def settle(self) -> None:
        """Note what the meters say a last time: what they read goes away."""
        with self._writing:
            self._read_meters()
            self._meters.clear()

    def _read_meters(self) -> None:
        for kind, (read, said) in list(self._meters.items()):
            try:
                now = dict(read())
            except Exception as error:  # no reason to lose the notes
                self.note("meter failed", meter=kind, error=f"{type(error).__name__}: {error}")
                continue
            if now != said:
                self._meters[kind] = read, now
                self.note(kind, **now)

    def _show(self, lines: list[str], *, end: bool = False) -> None:
        """Curves are a convenience: where they cannot be written, that is noted, and tried with the next part."""
        if self.board is None:
            return
        try:
            if lines:
                self.board.take(self._part - 1, lines)
            self.board.write(end=end)
        except Exception as error:
            self.note("board failed", error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Flush the rest."""
        self._done.set()
        self.flush()
        with self._writing:
            self._show([], end=True)

    def _keep_flushing(self) -> None:
        while not self._done.wait(FLUSH_EVERY_S):
            try:
                self.flush()
            except Exception as error:
                self.note(
                    "flush failed", error=str(error)
                )  # kept in memory; the next flush, or the next save, tries again


def read_events(store: Store, attempt: int | None = None) -> Iterator[dict[str, Any]]:
    """Every event, with its `attempt` and `rank`; of one attempt, or of all in order of attempt, rank and time."""
    prefix = "events/" if attempt is None else f"events/{attempt:010d}-"
    keys = [info.key for info in store.list(prefix)]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="events") as pool:
        for key, part in zip(keys, pool.map(store.get, keys), strict=True):
            number, rank, _part = key.removeprefix("events/").removesuffix(".jsonl").split("-")
            for line in part.decode().splitlines():
                yield {**json.loads(line), "attempt": int(number), "rank": int(rank)}


def read_parts(store: Store, attempt: int, rank: int, seen: set[str]) -> list[dict[str, Any]]:
    """The events in those parts of one rank that are not in `seen`, which then holds them."""
    found: list[dict[str, Any]] = []
    for info in store.list(f"events/{attempt:010d}-{rank:05d}-"):
        if info.key not in seen:
            lines = store.get(info.key).decode().splitlines()
            found += [{**json.loads(line), "attempt": attempt, "rank": rank} for line in lines]
            seen.add(info.key)
    return found
