"""Small real runs for tests: the product's spec, supervisor and workers, on gloo processes instead of Ray."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.accounts.status import Book
from orchestrator.launch import lead
from orchestrator.resolving import Resolved, resolve
from orchestrator.run_store import Run
from orchestrator.training.worker import main as worker_main
from tests.gang import GangMachines

SPEC = """
name: small
model: {patch: 8, dim: 32, depth: 2, token_dim: 16, channel_dim: 64, classes: 10, image_size: 32}
data: {train: DIGITS/train, val: DIGITS/val, decode: rrc, scale: [0.6, 1.0], flip: false, resident: 0, threads: 1}
train: {global_batch: 64, micro_batch: 8, steps: 40, precision: fp32, zero: 2, compile: false, warmup_steps: 5,
        optimizer: {lr: 3e-3, weight_decay: 0.05}}
checkpoint: {every: 10 steps, keep: 3}
workers: {min: 1, max: 2, cpus: 1}
events: {sample_ids: true}
"""


@dataclass
class Small:
    """A small run: its spec's path, its store, and the way to lead it."""

    folder: Path
    store: str
    said: list[str] = field(default_factory=list)

    def resolve(self, name: str, *overrides: str) -> Resolved:
        return resolve(
            str(self.folder / "small.yaml"), store=self.store, name=name, overrides=list(overrides)
        )

    def lead(
        self,
        name: str,
        *overrides: str,
        room: int = 8,
        fn: Callable[[dict[str, Any]], Any] = worker_main,
        during: Callable[[Run, GangMachines], None] | None = None,
        env: dict[str, str] | None = None,
        take_over: bool = False,
    ) -> tuple[int, Book]:
        """Lead the run to its end; `during` runs beside it in a thread. The exit code, and the run's book."""
        resolved = self.resolve(name, *overrides)
        machines = GangMachines(fn, room, env)
        helper = (
            threading.Thread(target=during, args=(resolved.run, machines), daemon=True) if during else None
        )
        if helper:
            helper.start()
        try:
            code = lead(resolved, take_over=take_over, say=self.said.append, machines=machines)
        finally:
            for attempt in machines.attempts:
                if attempt.gang:
                    attempt.gang.kill()
        if helper:
            helper.join(timeout=10)
        return code, Book(resolved.run)


def make_small(folder: Path, digits: str, store: str | None = None, **replace: str) -> Small:
    """A Small whose spec lies in `folder`; its store is there too, unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(SPEC.replace("DIGITS", digits))
    return Small(folder, store or str(folder / "store"))


def wait_for(what: Callable[[], Any], timeout: float = 120.0, every: float = 0.02) -> Any:
    """The first true value of `what()`; TimeoutError when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} stayed false for {timeout} s")
        time.sleep(every)
    return found


def break_images(url: Path, samples: set[int]) -> set[int]:
    """Overwrite the images of `samples` in the shards at `url` with bytes that no decoder takes, then index anew; `samples`."""
    import io
    import tarfile

    from data_pipeline.shards.dataset import Dataset, build_index

    dataset = Dataset.open(str(url))
    for sample in samples:
        span = dataset.spans(sample, 1)[0]
        path = url / dataset.shards[span.shard].name
        raw = bytearray(path.read_bytes())
        start, length = int(span.offsets[0]), int(span.lengths[0])
        with tarfile.open(fileobj=io.BytesIO(bytes(raw[start : start + length]))) as tar:
            member = next(item for item in tar.getmembers() if item.name.endswith(".png"))
        at = start + member.offset_data
        raw[at : at + member.size] = b"\0" * member.size
        path.write_bytes(raw)
    for index in url.glob("*.idx"):
        index.unlink()
    (url / "index.json").unlink()
    build_index(str(url))
    return samples


def renamed(url: str, to: Path, classes: Sequence[str] | None) -> str:
    """A copy at `to` of the data set at `url`, whose classes are called `classes`, or have no names; its url."""
    from data_pipeline.shards.dataset import build_index

    shutil.copytree(url, to)
    (to / "index.json").unlink()
    build_index(str(to), classes=classes)
    return str(to)
