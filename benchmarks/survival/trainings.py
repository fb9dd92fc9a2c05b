"""One small training, led by mixer or by Ray Train alone: the same workers, loop, saves and loads, so that only the leading differs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.resolving import resolve
from orchestrator.run_log import new_writer
from orchestrator.run_store import create
from orchestrator.training.events import read_events

SPEC = Path(__file__).resolve().parents[2] / "runs" / "digits.yaml"
OURS, DEFAULT, TUNED = "mixer", "Ray Train, defaults", "Ray Train, polls of 0.5 s"
TUNING = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
PATIENCE_S, STEPS_BETWEEN = 240.0, 25


class Training:
    """A process that trains the digits of `folder` without end. A context manager: it is gone afterwards, and its workers with it."""

    def __init__(
        self, system: str, folder: Path, *, eager: bool, least: int = 2, env: Mapping[str, str] | None = None
    ) -> None:
        """`least` to 2 workers. `env`: added to the environment, to join a cluster."""
        sets = [
            "train.steps=1000000",
            "train.epochs=null",
            "checkpoint.every=10 steps",
            "checkpoint.keep=1000000",
        ]
        sets += [f"data.train={folder}/digits/train", f"data.val={folder}/digits/val", f"workers.min={least}"]
        name = f"r{time.time_ns()}"
        resolved = resolve(
            str(SPEC), store=str(folder / "store"), name=name, overrides=[*sets, f"train.compile={not eager}"]
        )
        self.run = resolved.run
        create(self.run, resolved.frozen, new_writer(), conditional=True)
        command = ["-m", "orchestrator", "train", self.run.url]
        if system != OURS:
            command = ["-m", "benchmarks.survival.ray_train_peer", self.run.url, str(least)]
        tuned = TUNING if system == TUNED else {}
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "RAY_TRAIN_V2_ENABLED": "1", **tuned, **(env or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=60)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)

    def wait_for_steps(self, *, after: float) -> None:
        """Until an attempt that says so later than `after` has made STEPS_BETWEEN steps since it was first seen."""
        first: dict[int, int] = {}
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"the training ended with {self._process.returncode}")
            for info in self.run.store.list("progress/"):
                facts = self.run.read_json(info.key) or {}
                if facts.get("time", 0) <= after + 2 or "step" not in facts:
                    continue
                if facts["step"] >= first.setdefault(facts["attempt"], facts["step"]) + STEPS_BETWEEN:
                    return
            time.sleep(0.1)
        raise TimeoutError(f"no {STEPS_BETWEEN} steps in {PATIENCE_S:.0f} s")

    def newest_worker(self, rank: int) -> dict[str, Any]:
        """What the newest rank `rank` noted of itself: pid, host, node."""
        found = [e for e in read_events(self.run.store) if e["kind"] == "worker" and e["rank"] == rank]
        return max(found, key=lambda event: event["t"])

    def steps(self) -> list[dict[str, Any]]:
        """Rank 0's notes of its steps, by time."""
        events = read_events(self.run.store)
        return sorted(
            (e for e in events if e["kind"] == "step" and e["rank"] == 0), key=lambda event: event["t"]
        )


def first_new(steps: list[dict[str, Any]], moment: float) -> tuple[float, int]:
    """When the first step of the attempt after the one at work at `moment` ended, and how many steps were done again."""
    old = max(step["attempt"] for step in steps if step["t"] <= moment)
    last = max(step["step"] for step in steps if step["attempt"] == old)
    new = next(step for step in steps if step["attempt"] > old)
    return new["t"], last - new["step"] + 1
