"""What a Ray cluster has: connect to one, count the workers its living nodes can hold.

RAY_ADDRESS set -> that cluster; else Ray starts one of this machine inside this process. Importing this module does not import ray.
"""

from __future__ import annotations

import os
from typing import Any


def connect(*, cpus: float | None = None) -> None:
    """Join the cluster at RAY_ADDRESS, or start one on this machine with `cpus` CPUs (default: what it has)."""
    import logging

    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = (
        {"address": address} if address else {"num_cpus": cpus, "include_dashboard": False}
    )
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


def disconnect() -> None:
    """Leave the cluster; end it when it was started by connect()."""
    import ray

    ray.shutdown()


def living_nodes() -> dict[str, dict[str, float]]:
    """Resources by id of the nodes that are alive."""
    import ray

    return {node["NodeID"]: dict(node["Resources"]) for node in ray.nodes() if node["Alive"]}


def count_workers(nodes: dict[str, dict[str, float]], *, cpus: float, gpus: float = 0) -> int:
    """How many workers of `cpus` and `gpus` fit on `nodes`, each worker whole on one node."""

    def fits(node: dict[str, float]) -> int:
        by_cpu = int(node.get("CPU", 0) // cpus)
        return min(by_cpu, int(node.get("GPU", 0) // gpus)) if gpus else by_cpu

    return sum(fits(node) for node in nodes.values())
