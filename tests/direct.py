"""A run led by the test itself, attempt by attempt, on gangs: the worker's side without a supervisor's decisions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.accounts.status import Book
from orchestrator.checkpoints import keeping
from orchestrator.checkpoints.keeping import whole_uncommitted
from orchestrator.checkpoints.manifest import Manifest, load_manifest
from orchestrator.run_log import RunLog, left_out, live_checkpoints, new_writer
from orchestrator.run_store import Run, create
from orchestrator.training.worker import main as worker_main
from tests.gang import Gang
from tests.runs import Small, wait_for


@dataclass
class Direct:
    """A run and its log. Each attempt starts from the newest checkpoint and leaves out what the log says."""

    run: Run
    log: RunLog

    @classmethod
    def begin(cls, small: Small, name: str, *overrides: str, left_out: Sequence[int] = ()) -> Direct:
        """A new run, frozen, that is told from its start to leave these batches out."""
        resolved = small.resolve(name, *overrides)
        writer = new_writer()
        create(resolved.run, resolved.frozen, writer, conditional=True)
        made = cls(resolved.run, resolved.run.log(writer))
        for batch in left_out:
            made.leave_out(batch)
        return made

    def leave_out(self, batch: int) -> None:
        """From the next attempt on."""
        self.log.append("batch left out", batch=batch, step=0, why="the test says so")

    def attempt(
        self,
        world: int,
        fn: Callable[[dict[str, Any]], Any] = worker_main,
        *,
        during: Callable[[Direct, int], None] | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> list[tuple[Any, ...]]:
        """What each rank said at its end; what the attempt saved whole is committed. `during(self, n)` runs beside it."""
        live = live_checkpoints(self.log.entries)
        place = {key: live[-1].facts[key] for key in ("path", "sha256")} if live else None
        step = live[-1].facts["step"] if live else 0
        n = self.log.append("attempt started", world=world, why="test", checkpoint=place, step=step).n
        config = {
            "run": self.run.url,
            "attempt": n,
            "frozen": self.run.frozen().to_yaml(),
            "checkpoint": place,
        }
        gang = Gang(world, fn, {**config, "left_out": sorted(left_out(self.log.entries))}, env=env)
        helper = threading.Thread(target=during or _nothing, args=(self, n), daemon=True)
        helper.start()
        said = _ends(gang, timeout)
        helper.join(timeout=30)
        for path in whole_uncommitted(self.run.store, self.log.entries, n):
            keeping.commit(self.run.store, self.log, path)
        outcome = self.progress(n).get("exit", "failed")
        self.log.append(
            "attempt ended", attempt=n, outcome=outcome, cause="", step=self.progress(n).get("step", 0)
        )
        return said

    def progress(self, n: int) -> dict[str, Any]:
        """What rank 0 of attempt `n` told last."""
        return self.run.read_json(f"progress/{n}.json") or {}

    def order(self, n: int, **orders: Any) -> None:
        """Tell attempt `n`."""
        self.run.write_json(f"control/{n}.json", orders)

    def saved(self) -> list[int]:
        """The steps committed, in order."""
        return [entry.facts["step"] for entry in self.log.entries if entry.kind == "checkpoint committed"]

    def newest(self) -> Manifest:
        """The manifest of the newest checkpoint."""
        return load_manifest(self.run.store, live_checkpoints(self.log.entries)[-1].facts["path"])

    def book(self) -> Book:
        return Book(self.run)

    def ids(self) -> list[list[int]]:
        """Per step of the history, the delivered sample ids in slot order."""
        return [[i for slot in sorted(line.ids) for i in line.ids[slot]] for line in self.book().history]

    def losses(self) -> list[float]:
        return [line.facts["loss"] for line in self.book().history]


def stop_at(step: int) -> Callable[[Direct, int], None]:
    """Tell an attempt to leave once it has told of `step`."""

    def during(direct: Direct, n: int) -> None:
        wait_for(lambda: direct.progress(n).get("step", 0) >= step)
        direct.order(n, leave="the test says so")

    return during


def _nothing(direct: Direct, n: int) -> None:
    return


def _ends(gang: Gang, timeout: float) -> list[tuple[Any, ...]]:
    deadline = time.monotonic() + timeout
    try:
        while not gang.poll():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the attempt took more than {timeout} s; spoken: {gang.said}")
            time.sleep(0.01)
    finally:
        gang.kill()
    return [gang.said[rank] for rank in range(len(gang.ranks))]
