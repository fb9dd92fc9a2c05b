"""Starting the nodes of a local Ray cluster: the command, the environment, and the wait until they are alive.

`start_head` and `start_node` write the node down before anybody waits for it, so that `clusters.local.down`
finds it. A durable head has a fixed port and its state in <cluster's folder>/gcs: started again, it is the
same head to its nodes.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusters.local_state import MARK, NODE_MARK, Cluster, ClusterError, Node, save
from clusters.processes import free_port, spawn, tail, wait_until
from clusters.settings import DRIVER, SERVER_ENV, durable_env

START_TIMEOUT_S = 90.0
OBJECT_STORE_BYTES = 256 * 2**20  # Ray's own is 30 % of the machine's memory, per node


def start_head(cluster: Cluster, cpus: int, env: Mapping[str, str], tied: bool) -> Cluster:
    """Start node 0 and wait for its address: a new one, or the one that is written down. Raises ClusterError."""
    dashboard = cluster.dashboard or f"http://127.0.0.1:{free_port()}"
    port = cluster.address.rpartition(":")[2] or (str(free_port()) if cluster.durable else "0")
    options = ["--head", "--port", port, "--include-dashboard", "true", "--dashboard-host", "127.0.0.1"]
    options += [
        "--dashboard-port",
        dashboard.rpartition(":")[2],
        "--ray-client-server-port",
        str(free_port()),
    ]
    written = cluster.temp / "0" / "ray_current_cluster"
    written.unlink(missing_ok=True)
    cluster = _launch(replace(cluster, dashboard=dashboard), 0, options, cpus, env, tied)
    head = cluster.nodes[0].process
    _wait(cluster, lambda: written.exists() or not head.alive(), "the Ray head to start")
    if not written.exists():
        raise ClusterError(
            f"the Ray head ended at once; its log ends:\n{tail(cluster.folder / 'node-0.log')}"
        )
    return save(replace(cluster, address=written.read_text().strip()))


def start_node(cluster: Cluster, cpus: int, env: Mapping[str, str], tied: bool) -> Cluster:
    """Start one more node; it is not alive yet."""
    index = 1 + max(node.index for node in cluster.nodes)
    options = ["--address", cluster.address]
    if cluster.durable:
        options += ["--resources", json.dumps({DRIVER: 1})]
    return _launch(cluster, index, options, cpus, env, tied)


def _launch(
    cluster: Cluster, index: int, options: list[str], cpus: int, env: Mapping[str, str], tied: bool
) -> Cluster:
    launcher = str(Path(__file__).with_name("local_node.py"))
    command = [sys.executable, "-P", launcher, "start", "--block", "--disable-usage-stats", *options]
    common = {
        "--node-ip-address": "127.0.0.1",
        "--num-cpus": cpus,
        "--dashboard-agent-listen-port": 0,
        "--object-store-memory": OBJECT_STORE_BYTES,
        "--temp-dir": cluster.temp / str(index),
    }
    command += [str(word) for option in common.items() for word in option]
    whole = _server_env(cluster, index) | dict(env)
    process = spawn(command, env=whole, log=cluster.folder / f"node-{index}.log", tied=tied)
    nodes = sorted((*cluster.nodes, Node(index, process, cpus)), key=lambda node: node.index)
    return save(replace(cluster, nodes=tuple(nodes)))


def _server_env(cluster: Cluster, index: int) -> dict[str, str]:
    """Ours without the user's RAY_*; `python` in a job is this interpreter."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{ours.get('PATH', os.defpath)}"
    marks = {MARK: cluster.mark, NODE_MARK: f"{cluster.mark}/{index}"}
    durable = durable_env(cluster.folder / "gcs") if cluster.durable and index == 0 else cluster.patience
    return ours | {"PATH": path} | SERVER_ENV | durable | cluster.auth_env | marks


def wait_for_nodes(cluster: Cluster) -> None:
    """Until all its nodes are alive and Ray Jobs answers. Raises ClusterError with the ends of the logs."""
    wanted = len(cluster.nodes)
    _wait(cluster, lambda: alive_nodes(cluster) >= wanted, f"{wanted} Ray node(s) to be alive")
    _wait(cluster, lambda: _ask(cluster, "/api/jobs/") is not None, "Ray Jobs to answer")


def _wait(cluster: Cluster, check: Any, what: str) -> None:
    try:
        wait_until(check, START_TIMEOUT_S, what, every_s=0.2)
    except TimeoutError as error:
        logs = "\n".join(tail(log) for log in sorted(cluster.folder.glob("*.log")))
        raise ClusterError(
            f"cluster '{cluster.name}' did not start: {error}. The logs end:\n{logs}"
        ) from None


def alive_nodes(cluster: Cluster) -> int:
    """How many nodes the dashboard counts as alive; 0 while it does not answer."""
    told = _ask(cluster, "/api/v0/nodes")
    rows = told["data"]["result"]["result"] if told else []
    return sum(row["state"] == "ALIVE" for row in rows)


def _ask(cluster: Cluster, path: str) -> Any:
    """JSON from the dashboard, None while it does not answer. No proxy: it is on this machine."""
    token = cluster.token_file.read_text()
    request = urllib.request.Request(cluster.dashboard + path, headers={"Authorization": f"Bearer {token}"})
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return None
