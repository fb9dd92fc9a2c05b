"""What must hold of a run's bucket, whatever was done to the run: one dense history, and only whole checkpoints, all of them named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.storage import Store
from orchestrator.accounts.status import Book
from orchestrator.checkpoints import reading
from orchestrator.checkpoints.manifest import load_manifest
from orchestrator.run_log import Entry, entry_key, live_checkpoints
from orchestrator.run_store import Run
from tests.runs import Small

ROOT = Path(__file__).parent.parent


def losses(book: Book) -> list[float]:
    return [line.facts["loss"] for line in book.history]


def started(book: Book) -> list[Entry]:
    return [entry for entry in book.entries if entry.kind == "attempt started"]


def folders(store: Store) -> list[str]:
    """The folders below checkpoints/ that hold anything."""
    return sorted({info.key.rpartition("/")[0] for info in store.list("checkpoints/")})


def check_log(book: Book) -> None:
    """Dense, one writer between two take-overs, each attempt from the newest live checkpoint, the last live one never deleted."""
    keys = [info.key for info in book.run.store.list("log/")]
    assert keys == [entry_key(n) for n in range(len(keys))]
    assert [entry.n for entry in book.entries] == list(range(len(keys)))
    writer = None
    for n, entry in enumerate(book.entries):
        live = live_checkpoints(book.entries[:n])
        if entry.kind in ("created", "taken over"):
            writer = entry.writer
        assert entry.writer == writer, f"entry {n} ({entry.kind}) is not by the driver that led"
        if entry.kind == "attempt started":
            named = entry.facts["checkpoint"] and entry.facts["checkpoint"]["path"]
            assert named == (live[-1].facts["path"] if live else None)
        if entry.kind == "checkpoint committed":
            assert entry.facts["path"].endswith(f"-{_attempt(book.entries[:n])}")
        if entry.kind == "checkpoint deleted":
            assert entry.facts["path"] in [old.facts["path"] for old in live[:-1]]


def _attempt(entries: list[Entry]) -> int:
    """The newest attempt, which must not have ended."""
    marks = [entry for entry in entries if entry.kind in ("attempt started", "attempt ended")]
    assert marks[-1].kind == "attempt started"
    return marks[-1].n


def check_checkpoints(book: Book) -> None:
    """What lies in checkpoints/ is what the log names as live, and every byte of it is right."""
    live = live_checkpoints(book.entries)
    assert folders(book.run.store) == sorted(entry.facts["path"] for entry in live)
    for entry in live:
        path = entry.facts["path"]
        manifest = load_manifest(book.run.store, path, entry.facts["sha256"])
        assert reading.verify(book.run.store, path, manifest) == []
        assert [manifest.step, manifest.position] == [entry.facts["step"], entry.facts["position"]]


def check_finished(book: Book, expected: list[float]) -> None:
    """Finished, with these losses to the last bit, and everything above."""
    assert book.state() == "finished"
    check_log(book)
    check_checkpoints(book)
    assert losses(book) == expected


class Driver:
    """A driver in a process of its own, and its workers."""

    def __init__(self, small: Small, name: str, *args: str, env: dict[str, str] | None = None) -> None:
        self.run = Run(f"{small.store}/runs/{name}")
        self._said = small.folder / f"{name}-{id(self)}.txt"
        command = [sys.executable, "-W", "ignore", "-m", "tests.driver_main", small.store]
        with self._said.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, str(small.folder / "small.yaml"), name, *args],
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def committed(self) -> bool:
        """Whether the log names a checkpoint."""
        self._require_alive()
        return self.run.log().last("checkpoint committed") is not None

    def workers(self) -> list[int]:
        """The pids that the workers of the newest attempt noted."""
        self._require_alive()
        book = Book(self.run)
        if book.attempt is None or f"/{self.process.pid}/" not in book.attempt.writer:
            return []
        notes = (event for event in book.events if event["attempt"] == book.attempt.n)
        return [event["pid"] for event in notes if event["kind"] == "worker"]

    def wait(self, timeout: float = 60) -> int:
        return self.process.wait(timeout)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)

    def _require_alive(self) -> None:
        assert self.process.poll() is None, f"the driver has ended: {self.said}"


@contextmanager
def driver(small: Small, name: str, *args: str, env: dict[str, str] | None = None) -> Iterator[Driver]:
    """A Driver that is gone afterwards, and its workers with it."""
    made = Driver(small, name, *args, env=env)
    try:
        yield made
    finally:
        made.end()


def alive(pids: list[int]) -> list[int]:
    """Which of these processes run, or could again."""
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def send(number: signal.Signals, *pids: int) -> None:
    for pid in pids:
        os.kill(pid, number)
