"""The peer of restart.py and preempt.py: the same workers, loop, saves and loads under Ray Train's own restarts.

`python -m benchmarks.survival.ray_train_peer RUN_URL LEAST` trains the frozen run at RUN_URL with LEAST to 2 workers in a TorchTrainer that
may fail any number of times, on the cluster at RAY_ADDRESS or one of its own. After a failure Ray Train starts the group again, and the
workers go on from the newest whole checkpoint in the store: what a user of Ray Train writes, with our saver and our loader.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from typing import Any

from orchestrator.run_store import Run


def newest(run: Run) -> dict[str, Any] | None:
    """The newest checkpoint that has its manifest."""
    whole = sorted(info.key for info in run.store.list("checkpoints/") if info.key.endswith("/manifest.json"))
    return {"path": whole[-1].removesuffix("/manifest.json")} if whole else None


def train(config: dict[str, Any]) -> None:
    """What Ray Train calls on each worker, the first time and after each failure."""
    import torch.distributed as dist

    from orchestrator.training.worker import main

    run = Run(config["run"])
    agreed = [time.time_ns() // 1_000_000, newest(run)] if dist.get_rank() == 0 else [None, None]
    dist.broadcast_object_list(agreed)
    text = run.store.get("spec.yaml").decode()
    main(
        {"run": config["run"], "attempt": agreed[0], "frozen": text, "checkpoint": agreed[1], "left_out": []}
    )


def fit(url: str, least: int) -> None:
    """Train until this process is ended."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    given = {} if os.environ.get("RAY_ADDRESS") else {"address": "local", "include_dashboard": False}
    ray.init(log_to_driver=False, **given)
    with tempfile.TemporaryDirectory() as scratch:
        TorchTrainer(
            train,
            train_loop_config={"run": url},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(
                num_workers=2 if least == 2 else (least, 2), resources_per_worker={"CPU": 1}
            ),
            run_config=RunConfig(
                name="peer", storage_path=scratch, failure_config=FailureConfig(max_failures=-1)
            ),
        ).fit()


if __name__ == "__main__":
    fit(sys.argv[1], int(sys.argv[2]))
