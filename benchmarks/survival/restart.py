"""From the SIGKILL of a worker to the first new step: ours against Ray Train's own restart of the same loop, side by side.

`python -m benchmarks.survival.restart [--kills 3] [--rounds 2] [--eager]`. Both train the same small Mixer on the digits with 2 workers,
save every 10 steps to a local folder and load with the same code; both have a warm compile cache. Each kill is one figure; the systems
take turns. Ray Train is measured with its defaults and with its polls set to 0.5 s, as ours has them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks import report
from benchmarks.survival.trainings import DEFAULT, OURS, TUNED, Training, first_new
from data_pipeline.packing.pack import pack
from orchestrator.accounts.status import Book


def measure(system: str, folder: Path, kills: int, eager: bool) -> tuple[list[float], list[dict[str, float]]]:
    """Seconds from each of `kills` kills to the end of the first new step, and, of ours, their parts."""
    moments = []
    with Training(system, folder, eager=eager) as training:
        training.wait_for_steps(after=time.time())
        for _ in range(kills):
            victim = training.newest_worker(1)["pid"]
            moments.append(time.time())
            os.kill(victim, signal.SIGKILL)
            training.wait_for_steps(after=moments[-1])
    steps = training.steps()
    parts = Book(training.run).ledger.recoveries() if system == OURS else []
    return [first_new(steps, moment)[0] - moment for moment in moments], parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--eager", action="store_true")
    given = parser.parse_args()
    samples: dict[str, list[float]] = defaultdict(list)
    parts: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack("sklearn:digits", str(folder / "digits"))
        measure(OURS, folder, 1, given.eager)  # fills the compile cache
        for _ in range(given.rounds):
            for system in (OURS, DEFAULT, TUNED):
                found, seen = measure(system, folder, given.kills, given.eager)
                print(system, [round(value, 2) for value in found], flush=True)
                samples[system] += found
                parts += seen
    print(report.table("worker SIGKILL to the first new step", samples, DEFAULT))
    middle = report.medians(samples)
    ours = report.medians({key: [each.get(key, 0.0) for each in parts] for key in parts[0]})
    print("of ours:", ", ".join(f"{part} {seconds:.2f}" for part, seconds in ours.items()))
    bars = [
        report.bar("ours / Ray Train's own, defaults", middle[OURS] / middle[DEFAULT], 0.5, most=True),
        report.bar("ours / Ray Train's own, polls of 0.5 s", middle[OURS] / middle[TUNED], 0.5, most=True),
    ]
    command = " ".join(["python -m benchmarks.survival.restart", *sys.argv[1:]])
    name = "restart-eager" if given.eager else "restart"
    report.write(name, command, seconds=samples, medians=middle, parts=ours, bars=bars)


if __name__ == "__main__":
    main()
