"""From the SIGKILL of a worker to the first new step: ours against Ray Train's own restart of the same loop, side by side.

`python -m benchmarks.survival.restart [--kills 3] [--rounds 2] [--eager]`. Both train the same small Mixer on the digits with 2 workers,
save every 10 steps to a local folder and load with the same code; both have a warm compile cache. Each kill is one figure; the systems
take turns. Ray Train is measured with its defaults and with its polls set to 0.5 s, as ours has them.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import report
from data_pipeline.pack import pack
from orchestrator.launch import resolve
from orchestrator.run_log import new_writer
from orchestrator.run_store import Run, create
from orchestrator.status import Book
from orchestrator.training.events import read_events

SPEC = Path(__file__).resolve().parents[2] / "runs" / "digits.yaml"
PATIENCE_S, STEPS_BETWEEN = 180.0, 25
OURS, DEFAULT, TUNED = "mixer", "Ray Train, defaults", "Ray Train, polls of 0.5 s"
TUNING = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
}


def measure(system: str, folder: Path, kills: int, eager: bool) -> list[float]:
    """Seconds from each of `kills` kills to the end of the first new step."""
    store, name = str(folder / "store"), f"r{time.time_ns()}"
    sets = ["train.steps=1000000", "train.epochs=null", "checkpoint.every=10 steps", "evaluate.every=null"]
    sets += [
        f"data.train={folder}/digits/train",
        f"data.val={folder}/digits/val",
        f"train.compile={not eager}",
    ]
    resolved = resolve(str(SPEC), store=store, name=name, overrides=sets)
    run, writer = resolved.run, new_writer()
    create(run, resolved.frozen, writer, conditional=True)
    command = [sys.executable, "-m", "orchestrator", "train", run.url]
    if system != OURS:
        command = [sys.executable, "-m", "benchmarks.survival.ray_train_peer", run.url, "2"]
    env = {**os.environ, "RAY_TRAIN_V2_ENABLED": "1", **(TUNING if system == TUNED else {})}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        moments = [_kill(run, process) for _ in range(kills)]
        _wait_for_steps(run, process, after=moments[-1])
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    steps = sorted(
        (event["t"], event["attempt"])
        for event in read_events(run.store)
        if event["kind"] == "step" and event["rank"] == 0
    )
    if system == OURS:
        for parts in Book(run).ledger.recoveries():
            print("   ", ", ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items()), flush=True)
    return [_first_new(steps, moment) - moment for moment in moments]


def _first_new(steps: list[tuple[float, int]], moment: float) -> float:
    """When the first step of the attempt after the one that was killed at `moment` ended."""
    killed = max(attempt for at, attempt in steps if at <= moment)
    return min(at for at, attempt in steps if at > moment and attempt > killed)


def _kill(run: Run, process: subprocess.Popen[bytes]) -> float:
    """Wait until the newest attempt is steady, then kill its rank 1; when."""
    began = time.time()
    _wait_for_steps(run, process, after=began)
    newest: dict[str, Any] = {}
    for event in read_events(run.store):
        if event["kind"] == "worker" and event["rank"] == 1:
            newest = event
    moment = time.time()
    os.kill(newest["pid"], signal.SIGKILL)
    return moment


def _wait_for_steps(run: Run, process: subprocess.Popen[bytes], *, after: float) -> None:
    """Until an attempt that is at work after `after` has made STEPS_BETWEEN steps since it was first seen."""
    first: dict[int, int] = {}
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the training ended with {process.returncode}")
        for info in run.store.list("progress/"):
            facts = run.read_json(info.key) or {}
            if (
                facts.get("time", 0) > after + 2
                and facts["step"] >= first.setdefault(facts["attempt"], facts["step"]) + STEPS_BETWEEN
            ):
                return
        time.sleep(0.1)
    raise TimeoutError(f"no {STEPS_BETWEEN} steps in {PATIENCE_S:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--eager", action="store_true")
    given = parser.parse_args()
    samples: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack("sklearn:digits", str(folder / "digits"))
        measure(OURS, folder, 1, given.eager)  # fills the compile cache
        for _ in range(given.rounds):
            for system in (OURS, DEFAULT, TUNED):
                found = measure(system, folder, given.kills, given.eager)
                print(system, [round(value, 2) for value in found], flush=True)
                samples[system] += found
    print(report.table("worker SIGKILL to the first new step", samples, DEFAULT))
    middle = report.medians(samples)
    bars = [
        report.bar("ours / Ray Train's own, defaults", middle[OURS] / middle[DEFAULT], 0.5, most=True),
        report.bar("ours / Ray Train's own, polls of 0.5 s", middle[OURS] / middle[TUNED], 0.5, most=True),
    ]
    command = "python -m benchmarks.survival.restart " + " ".join(sys.argv[1:])
    report.write(
        "restart" + ("-eager" if given.eager else ""), command, seconds=samples, medians=middle, bars=bars
    )


if __name__ == "__main__":
    main()
