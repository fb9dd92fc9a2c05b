"""One attempt: one Ray Train run at one world size. The only importer of ray.train.

Attempt.start() begins `TorchTrainer.fit` in a thread; poll() tells when it is over and how, in our own types. Ray Train places and
watches the workers; it is told never to retry: deciding is the supervisor's.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Any, Literal

from orchestrator.errors import DamagedCheckpoint, PeerLost, needs_the_user
from orchestrator.policy import Outcome
from orchestrator.spec import Workers

ENVIRONMENT = {  # of Ray Train: what it polls often, what it must not do by itself
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


NO_ROOM = ("WorkerGroupStartupTimeoutError", "InsufficientClusterResourcesError", "PreemptionError")


def run_worker(config: dict[str, Any]) -> None:
    """What Ray Train calls on each worker."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(config["cpus"])))
    if not config["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = (
            ""  # Ray leaves a machine's GPUs in sight of workers that asked for none
        )
    from orchestrator.training.worker import main

    main(config)


class Attempt:
    """A Ray Train run in a thread."""

    def __init__(self, name: str, world: int, workers: Workers, config: dict[str, Any]) -> None:
        self._name, self._world, self._workers = name, world, workers
        self._config = {**config, "cpus": workers.cpus, "gpus": workers.gpus}
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._outcome: Outcome | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def poll(self) -> Outcome | None:
        """How it ended, or None while it works. finished and stopped are told apart by what the workers wrote."""
        return None if self._thread.is_alive() else self._outcome

    def wait(self, seconds: float) -> None:
        """Until it ends, at most so long."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._fit()
            self._outcome = Outcome("finished")
        except BaseException as error:
            self._outcome = classify(error)

    def _fit(self) -> None:
        os.environ.update(ENVIRONMENT)
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpus = self._workers.gpus
        resources = {"CPU": self._workers.cpus, **({"GPU": gpus} if gpus else {})}
        with tempfile.TemporaryDirectory(prefix="mixer-attempt-", ignore_cleanup_errors=True) as scratch:
            TorchTrainer(
                run_worker,
                train_loop_config=self._config,
                torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=self._world,
                    use_gpu=bool(gpus),
                    resources_per_worker=resources,
                    placement_strategy="PACK",
                ),
                run_config=RunConfig(
                    name=self._name,
                    storage_path=scratch,  # never used: nothing is reported to Ray
                    failure_config=FailureConfig(
                        max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                    ),
                ),
            ).fit()


def classify(error: BaseException) -> Outcome:
    """The Outcome of what `fit` raised. Ray's exceptions end here."""
    error = getattr(error, "controller_failure", error)
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    errors = {rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()}
    gone = sorted(rank for rank, inner in errors.items() if type(inner).__module__.split(".")[0] == "ray")
    ours = {
        rank: inner for rank, inner in errors.items() if rank not in gone and not isinstance(inner, PeerLost)
    }
    for rank, inner in sorted(ours.items()):
        if isinstance(inner, DamagedCheckpoint):
            return Outcome("damaged", str(inner))
        if needs_the_user(inner):
            return Outcome("refused", str(inner))
        text = getattr(failures[rank], "_traceback_str", "") or repr(inner)
        return Outcome("failed", f"rank {rank}: {type(inner).__name__}: {inner}\n{text}")
    if gone:
        text = "\n".join(str(failures[rank]) for rank in gone)
        # The raylet tells how a process ended; when it says nothing, its machine may be gone with it.
        kind: Literal["died", "vanished"] = "died" if "exit type" in text else "vanished"
        return Outcome(kind, f"rank {', '.join(map(str, gone))} died: {_first_line(failures[gone[0]])}")
    if errors:
        return Outcome("vanished", f"a peer is gone: {_first_line(errors[min(errors)])}")
    kind_of = type(error).__name__
    if kind_of in NO_ROOM:
        return Outcome("lost", f"{kind_of}: {_first_line(error)}")
    return Outcome("failed", f"{kind_of}: {error}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
