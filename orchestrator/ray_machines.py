"""The supervisor's Machines on a Ray cluster: what its living nodes hold, and attempts as Ray Train runs."""

from __future__ import annotations

import os
from typing import Any

from clusters import capacity
from orchestrator.attempt import ENVIRONMENT, Attempt
from orchestrator.spec import Workers


class RayMachines:
    """The cluster at RAY_ADDRESS, or one of this machine that lives as long as this process."""

    def __init__(self, workers: Workers) -> None:
        os.environ.update(ENVIRONMENT)  # before Ray starts: its processes inherit
        capacity.connect()

    def available(self, workers: Workers) -> int:
        """Workers that the living nodes can hold."""
        return capacity.count_workers(capacity.living_nodes(), cpus=workers.cpus, gpus=workers.gpus)

    def nodes(self) -> set[str]:
        """Ids of the living nodes."""
        return set(capacity.living_nodes())

    def attempt(self, name: str, world: int, workers: Workers, config: dict[str, Any]) -> Attempt:
        """An attempt, not started. None of the ones before it may be working."""
        capacity.free_leftovers()
        return Attempt(name, world, workers, config)

    def release(self) -> None:
        """End every worker that this driver started, by leaving the cluster."""
        capacity.disconnect()
