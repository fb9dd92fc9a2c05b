"""A placement: one Ray Train run whose workers are shells that wait for orders. With shell.py the only importer of ray.train.

Ray Train places the shells and watches them; it is told never to retry: deciding is the supervisor's. A placement serves one attempt
after another at its world size; it is over when one of its shells, or a machine below it, is gone.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from clusters import capacity
from orchestrator.on_ray.desk import Board, DeskGone, Line
from orchestrator.on_ray.shell import run_shell
from orchestrator.spec import Workers

ENVIRONMENT = {  # of Ray Train: what it polls often, what it must not do by itself
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
LEAVE_S, KILL_S = 3.0, 20.0
_numbers = itertools.count(1)


class Placement:
    """`world` shells on a cluster. start(), then order(); `error` is what Ray Train said when it is over."""

    def __init__(self, line: Line, world: int, workers: Workers) -> None:
        self.number, self.world, self.workers = next(_numbers), world, workers
        self.error: BaseException | None = None
        self._line = line
        self._orders = itertools.count(1)
        self._thread = threading.Thread(target=self._run, name=f"placement-{self.number}", daemon=True)

    def start(self) -> None:
        """Begin, unless that is done; returns at once."""
        if self._thread.ident is None:
            self._thread.start()

    @property
    def over(self) -> bool:
        """Whether its shells are gone."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def board(self) -> Board:
        """What its shells have told the desk."""
        board: Board = self._line.ask("look", self.number)
        return board

    def order(self, kind: str, **facts: Any) -> None:
        """Give all shells an order."""
        self._line.ask("command", self.number, {"number": next(self._orders), "kind": kind, **facts})

    def close(self, kill: Callable[[str, int], None]) -> None:
        """End the shells and their ranks, by order, and those that do not obey by `kill(node, pid)`."""
        with suppress(DeskGone):
            shells = self.board().arrivals
            self.order("leave")
            self._thread.join(LEAVE_S)
            if not self.over:
                for facts in shells.values():
                    kill(facts["node"], facts["pid"])
                self._thread.join(LEAVE_S)
            self._line.ask("forget", self.number)
        if not self.over:
            capacity.free_leftovers()  # Ray ends what is placed in a group that is removed
            self._thread.join(KILL_S)

    def _run(self) -> None:
        try:
            self._fit()
        except BaseException as error:
            self.error = error

    def _fit(self) -> None:
        os.environ.update(ENVIRONMENT)
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        gpus = self.workers.gpus
        resources = {"CPU": self.workers.cpus, **({"GPU": gpus} if gpus else {})}
        with tempfile.TemporaryDirectory(prefix="mixer-placement-", ignore_cleanup_errors=True) as scratch:
            DataParallelTrainer(
                run_shell,
                train_loop_config={"desk": self._line.desk, "placement": self.number},
                scaling_config=ScalingConfig(
                    num_workers=self.world,
                    use_gpu=bool(gpus),
                    resources_per_worker=resources,
                    placement_strategy="PACK",
                ),
                run_config=RunConfig(
                    name=f"mixer-{os.getpid()}-{self.number}-{time.time_ns()}",
                    storage_path=scratch,  # never used: nothing is reported to Ray
                    failure_config=FailureConfig(
                        max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                    ),
                ),
            ).fit()
