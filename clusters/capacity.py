"""What a Ray cluster has: connect to one, count the workers its living nodes can hold.

RAY_ADDRESS set -> that cluster; else Ray starts one of this machine inside this process. Importing this module does not import ray.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

PASSED_ON = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION")


def connect(*, cpus: float | None = None) -> None:
    """Join the cluster at RAY_ADDRESS, or start one on this machine with `cpus` CPUs (default: what it has).

    To another cluster our code and the store's endpoint travel along; inside a Ray job they have done so already.
    """
    import logging

    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    if os.environ.get("RAY_ADDRESS"):
        inside_a_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        options = (
            {} if inside_a_job else {"runtime_env": {"working_dir": str(_code()), "env_vars": endpoint_env()}}
        )
    ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)


def endpoint_env() -> dict[str, str]:
    """Where the store is, never who asks: credentials belong to the cluster's machines."""
    return {key: os.environ[key] for key in PASSED_ON if key in os.environ}


def _code() -> Path:
    from clusters.jobs import pack_code

    folder = Path(tempfile.mkdtemp(prefix="mixer-code-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pack_code(folder)


def disconnect() -> None:
    """Leave the cluster; end it when it was started by connect()."""
    import ray

    ray.shutdown()


def living_nodes() -> dict[str, dict[str, float]]:
    """Resources by id of the nodes that are alive."""
    import ray

    return {node["NodeID"]: dict(node["Resources"]) for node in ray.nodes() if node["Alive"]}


def draining_nodes() -> dict[str, float | None]:
    """Deadlines (Unix seconds, None without one) by id of the living nodes that Ray drains: nothing new is placed there."""
    import ray

    ray.get_runtime_context()  # refuses when not connected
    told = ray._private.state.state.get_draining_nodes()
    return {node: at / 1000 if at else None for node, at in told.items()}


def drain(node: str, *, deadline: float | None, cause: str) -> bool:
    """Ask Ray to place nothing more on `node`, which goes at `deadline` (Unix seconds). Whether Ray agreed.

    What runs there goes on running: leaving in time is the caller's.
    """
    import ray
    from ray.core.generated import autoscaler_pb2

    client = ray._private.worker.global_worker.gcs_client
    preemption = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, _why = client.drain_node(node, preemption, cause, int(deadline * 1000) if deadline else 0)
    return bool(accepted)


def ask_for(bundles: list[dict[str, float]]) -> None:
    """Ask Ray's autoscaler, where there is one, for a cluster that can hold `bundles`; an empty list withdraws it."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)


def on_node(node: str) -> Any:
    """The scheduling strategy that places something on `node` or nowhere."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def here() -> str:
    """The id of the node this process is connected to."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def free_leftovers() -> int:
    """Give back what dead attempts of this driver still hold; how many placement groups that were.

    Ray Train 2.60 leaves a placement group behind when a process of its own is killed while it tidies up after a killed worker, and
    the next attempt would wait for its room for ever. Only groups of this driver's job are touched: a group's id ends with its job's.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    held = [
        pg
        for pg, facts in placement_group_table().items()
        if facts["state"] != "REMOVED" and pg.endswith(job)
    ]
    for pg in held:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(pg))))
    return len(held)


def count_workers(nodes: dict[str, dict[str, float]], *, cpus: float, gpus: float = 0) -> int:
    """How many workers of `cpus` and `gpus` fit on `nodes`, each worker whole on one node."""

    def fits(node: dict[str, float]) -> int:
        by_cpu = int(node.get("CPU", 0) / cpus + 1e-9)  # 1 // 0.1 is 9
        return min(by_cpu, int(node.get("GPU", 0) / gpus + 1e-9)) if gpus else by_cpu

    return sum(fits(node) for node in nodes.values())
