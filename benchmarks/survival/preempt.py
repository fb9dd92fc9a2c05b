"""A node is drained with a deadline and loses its power then: when does the smaller world do its first step? Ours against Ray Train's own.

`python -m benchmarks.survival.preempt [--deadline 60] [--rounds 1]`. Two Ray nodes of one worker each on this machine; both systems train
the same small Mixer and hear of it in the same way (`ray drain-node`). Ray Train is elastic, 1 to 2 workers, with its defaults.
Figures count from the notice; a figure below the deadline means that nothing waited for it. Steps done again are counted from what ranks
had written down; what a killed rank had not is unknown, so for Ray Train they are a lower bound.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.survival.trainings import DEFAULT, OURS, Training, first_new
from clusters import local
from data_pipeline.packing.pack import pack

CLUSTER = "bench-preempt"


def measure(system: str, folder: Path, deadline_s: int) -> tuple[float, int]:
    """Seconds from the notice to the first step of the smaller world, and the steps that were done again."""
    with local.running(nodes=2, cpus=1, name=CLUSTER):
        env = local.env_for(CLUSTER)
        with Training(system, folder, eager=True, least=1, env=env) as training:
            training.wait_for_steps(after=time.time())
            node = _other_node(env)
            noticed = time.time()
            _ray(env, "drain-node", "--address", env["RAY_ADDRESS"], "--node-id", node,
                 "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
                 "--deadline-remaining-seconds", str(deadline_s))  # fmt: skip
            time.sleep(max(0.0, noticed + deadline_s - time.time()))
            local.cut_power(CLUSTER, 1)
            _wait_for_world(training, 1, after=noticed)
            training.wait_for_steps(after=time.time())
        moment, again = first_new(training.steps(), noticed)
        return moment - noticed, again


def _wait_for_world(training: Training, world: int, *, after: float, patience_s: float = 400.0) -> None:
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        for info in training.run.store.list("progress/"):
            facts: dict[str, Any] = training.run.read_json(info.key) or {}
            if facts.get("world_size") == world and facts.get("time", 0) > after:
                return
        time.sleep(0.2)
    raise TimeoutError(f"no attempt of {world} worker(s) in {patience_s:.0f} s")


def _other_node(env: dict[str, str]) -> str:
    """The id of the node that is not the head."""
    code = (
        "import ray; ray.init(logging_level='ERROR', log_to_driver=False); "
        "print([n['NodeID'] for n in ray.nodes() if n['Alive'] and 'node:__internal_head__' not in n['Resources']][0])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[-1]


def _ray(env: dict[str, str], *args: str) -> None:
    ray = str(Path(sys.executable).parent / "ray")
    subprocess.run([ray, *args], env={**os.environ, **env}, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deadline", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    samples: dict[str, list[float]] = defaultdict(list)
    again: dict[str, list[int]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack("sklearn:digits", str(folder / "digits"))
        for _ in range(given.rounds):
            for system in (OURS, DEFAULT):
                seconds, steps = measure(system, folder, given.deadline)
                print(f"{system}: {seconds:.1f} s after the notice, {steps} steps done again", flush=True)
                samples[system].append(seconds)
                again[system].append(steps)
    print(
        report.table(f"notice of {given.deadline} s to the first step of the smaller world", samples, DEFAULT)
    )
    middle = report.medians(samples)
    bars = [
        report.bar(
            "ours, seconds after the notice / its deadline", middle[OURS] / given.deadline, 1.0, most=True
        ),
        report.bar("ours, steps done again", float(max(again[OURS])), 0.0, most=True),
    ]
    command = " ".join(["python -m benchmarks.survival.preempt", *sys.argv[1:]])
    report.write("preempt", command, seconds=samples, steps_again=again, medians=middle, bars=bars)


if __name__ == "__main__":
    main()
