"""Workers that kill themselves at a chosen moment of a save, slow workers, and workers that do not outlive their driver.

What to do comes in the environment (`moments`, `slow`), since a gang's ranks are processes of their own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from data_pipeline.storage import Bytes, Store
from data_pipeline.storage import s3 as storage_s3
from orchestrator.checkpoints.manifest import folder, rank_file, receipt
from orchestrator.run_log import live_checkpoints
from orchestrator.run_store import Run
from orchestrator.training import worker
from tests.runs import wait_for

_MOMENTS, _SLOW, _STEP, _HOLD = "MIXER_TEST_KILLS", "MIXER_TEST_SLOW", "MIXER_TEST_KILL_AT", "MIXER_TEST_HOLD"
_MARKS = "MIXER_TEST_MARKS"


@dataclass(frozen=True)
class Moment:
    """Kill `rank` in the save of `step`, at: before file, in file, before receipt, before manifest, after manifest."""

    at: str
    rank: int
    step: int
    before: int  # the save before, which is whole when it happens

    @property
    def origin(self) -> int:
        """The newest step that is whole after it."""
        return self.step if self.at == "after manifest" else self.before


def moments(*kills: Moment) -> dict[str, str]:
    """The environment of workers whose first attempt ends at the first moment, the second at the second, and so on."""
    return {_MOMENTS: json.dumps([asdict(moment) for moment in kills])}


def slow(seconds: float, marks: Path | None = None) -> dict[str, str]:
    """The environment of workers that take `seconds` longer for a step. In one, each leaves a file in `marks`, by its rank."""
    return {_SLOW: str(seconds), **({_MARKS: str(marks)} if marks else {})}


def at_step(step: int, rank: int = 1) -> dict[str, str]:
    """The environment of workers of whose first attempt `rank` ends before step `step` + 1, the last save before it being committed."""
    return {_STEP: json.dumps([step, rank])}


def hold(*steps: int, until: str = "") -> dict[str, str]:
    """The environment of workers whose n-th attempt does `steps[n-1]` steps and waits then, until it is told something or stopped.

    With `until` it waits for that kind of entry in the run's log. So whatever is to meet a run in its middle does, however late it comes.
    """
    return {_HOLD: json.dumps([steps, until])}


def main(config: dict[str, Any]) -> str:
    """The main of a rank: the product's, and what the environment asks for."""
    die_with_driver()
    if chosen := os.environ.get(_STEP):
        step, rank = json.loads(chosen)
        if rank == int(os.environ["RANK"]) and _attempts(config) == 1:
            _die_before(step, Run(config["run"]))
    if pause := float(os.environ.get(_SLOW, 0)):
        _slow_steps(pause)
    if held := os.environ.get(_HOLD):
        steps, until = json.loads(held)
        if (number := _attempts(config)) <= len(steps):
            _hold(steps[number - 1], until, Run(config["run"]))
    moment = _moment(config)
    if moment is not None and moment.rank == int(os.environ["RANK"]):
        _arm(moment, config["attempt"])
    return worker.main(config)


def _arm(moment: Moment, attempt: int) -> None:

    class KillingRun(Run):
        def __init__(self, url: str, **options: Any) -> None:
            super().__init__(url, **options)
            self.store: Any = KillingStore(self.store, moment, attempt)

    vars(worker)["Run"] = KillingRun


def _moment(config: dict[str, Any]) -> Moment | None:
    """What is meant for this attempt."""
    kills = json.loads(os.environ.get(_MOMENTS, "[]"))
    number = _attempts(config)
    return Moment(**kills[number - 1]) if number <= len(kills) else None


def _attempts(config: dict[str, Any]) -> int:
    """Attempts begun so far, this one among them."""
    return sum(entry.kind == "attempt started" for entry in Run(config["run"]).log().entries)


def _die_before(step: int, run: Run) -> None:
    from orchestrator.training import loop

    one_step = loop.one_step

    def until(task: loop.Task) -> tuple[bool, bool]:
        if task.step == step:
            saved = step - step % (task.frozen.save_steps or step)
            wait_for(
                lambda: (
                    not saved or any(e.facts["step"] == saved for e in live_checkpoints(run.log().entries))
                )
            )
            os.kill(os.getpid(), signal.SIGKILL)
        return one_step(task)

    vars(loop)["one_step"] = until


def _hold(steps: int, until: str, run: Run) -> None:
    from orchestrator.training import loop

    one_step, began = loop.one_step, list[int]()

    def waiting(task: loop.Task) -> tuple[bool, bool]:
        began[:] = began or [task.step]
        contact = task.contact
        if (
            contact is not None and task.step - began[0] >= steps
        ):  # rank 0; in the step the others wait for it
            wait_for(lambda: run.log().last(until) if until else contact._orders, timeout=150)
        return one_step(task)

    vars(loop)["one_step"] = waiting


def die_with_driver() -> None:
    """Kill this process when the one that asked for it, the driver, is gone: as a cluster does."""
    driver = multiprocessing.parent_process()
    assert driver is not None

    def watch() -> None:
        connection.wait([driver.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="driver", daemon=True).start()


def _slow_steps(seconds: float) -> None:
    from orchestrator.training import loop

    one_step = loop.one_step

    def slowly(task: loop.Task) -> tuple[bool, bool]:
        if folder := os.environ.get(_MARKS):
            (Path(folder) / os.environ["RANK"]).touch()
        time.sleep(seconds)
        return one_step(task)

    vars(loop)["one_step"] = slowly


class KillingStore:
    """A store whose process ends, without a last word, at the moment."""

    def __init__(self, store: Store, moment: Moment, attempt: int) -> None:
        self._store, self._moment = store, moment
        path = folder(moment.step, attempt)
        self._file = f"{path}/{rank_file(moment.rank)}"
        self._receipt, self._manifest = f"{path}/{receipt(moment.rank)}", f"{path}/manifest.json"
        self._whole = f"{folder(moment.before, attempt)}/manifest.json"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_stream(self, key: str, size: int, chunks: Iterator[Bytes]) -> None:
        if key == self._file:
            self._reach("before file")
        if key == self._file and self._moment.at == "in file":
            chunks = self._half(size, chunks)
            storage_s3.PART_BYTES = 1 << 14  # so that this small file goes up in parts
        self._store.put_stream(key, size, chunks)

    def put(self, key: str, data: Bytes) -> None:
        if key == self._receipt:
            self._reach("before receipt")
        self._store.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key == self._manifest:
            self._reach("before manifest")
        done = self._store.put_if_absent(key, data)
        if key == self._manifest:
            self._reach("after manifest")
        return done

    def _half(self, size: int, chunks: Iterator[Bytes]) -> Iterator[Bytes]:
        sent = 0
        for chunk in chunks:
            if 2 * sent > size:
                time.sleep(0.2)  # parts that fly arrive
                self._reach("in file")
            sent += memoryview(chunk).nbytes
            yield chunk

    def _reach(self, at: str) -> None:
        if at == self._moment.at:
            wait_for(lambda: self._store.head(self._whole))
            os.kill(os.getpid(), signal.SIGKILL)
