"""A Ray cluster on this machine, for `mixer cluster up local`: a head, and more raylets if asked for.

The chain: `up` makes <home>/clusters/<name>/ (token file of mode 600, cluster.json, logs) -> starts each
node as `ray start --block` in its own session, marked through its environment -> waits until the dashboard
counts all of them -> `Cluster`. `env_for` is what a client needs; `state` reads cluster.json back
(local_state); `down` ends what carries the mark, drivers of its jobs included, and nothing else (never `ray
stop`, which ends every Ray on the machine). <home> is $MIXER_HOME, else ~/.mixer. Everything listens on
127.0.0.1 and wants the token.

Several nodes on one machine share its CPUs, disk and memory: they are for trying out what happens when a
node is lost (`cut_power`) or comes (`add_node`), not for speed. The code here does not import ray.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusters.local_state import (
    MARK,
    NODE_MARK,
    Cluster,
    ClusterError,
    Node,
    folder_of,
    names,
    save,
    state,
    write_private,
)
from clusters.processes import end, free_port, kill, marked, spawn, tail, wait_until

__all__ = [
    "Cluster",
    "ClusterError",
    "Node",
    "add_node",
    "cut_power",
    "down",
    "env_for",
    "names",
    "running",
    "state",
    "up",
]

START_TIMEOUT_S = 90.0
JOB_STOP_WAIT_S = 120  # Ray's own is 3 s: too short to save a checkpoint after SIGTERM
OBJECT_STORE_BYTES = 256 * 2**20  # Ray's own is 30 % of the machine's memory, per node
SERVER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_WAIT_S),
    # A dead node is noticed after 5 failed probes; Ray's 3 s between them make 15 s of that.
    "RAY_health_check_period_ms": "1000",
}


def up(
    nodes: int = 1,
    cpus: int | None = None,
    *,
    name: str = "local",
    env: Mapping[str, str] | None = None,
    tied: bool = False,
) -> Cluster:
    """Start a cluster and wait until all its nodes are alive (about 8 s).

    cpus: per node; by default the machine's, divided among the nodes. env: added to that of every node, and
    so of every worker. tied: it ends with this process. Raises ClusterError when `name` is up already or
    does not start.
    """
    _check(nodes, cpus)
    folder = folder_of(name)
    if (old := state(name)) is not None:
        if old.running():
            raise ClusterError(
                f"cluster '{name}' is up already at {old.address}; end it first: mixer cluster down {name}"
            )
        down(name)
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    write_private(folder / "token", secrets.token_hex(32))
    temp = Path(
        tempfile.mkdtemp(prefix="mixer-ray-", dir="/tmp")
    )  # short: unix socket paths end at 107 characters
    cluster = Cluster(name, folder, temp, secrets.token_hex(8), "", "", ())
    share = cpus or max(1, (os.cpu_count() or 1) // nodes)
    try:
        cluster = _start_head(cluster, share, env or {}, tied)
        for _ in range(nodes - 1):
            cluster = _start_node(cluster, share, env or {}, tied)
        _wait_for_nodes(cluster)
    except BaseException:
        down(name)
        raise
    return cluster


def down(name: str = "local", grace_s: float = 10.0) -> bool:
    """End a cluster and remove its files. False when there is none.

    Drivers of jobs that still run get SIGTERM with the rest and `grace_s` seconds: to let them save, stop
    the jobs first.
    """
    cluster = state(name)
    if cluster is None:
        return False
    # Heads of sessions first: each `ray start --block` takes its own children with it.
    end([node.process for node in reversed(cluster.nodes)], grace_s)
    end(cluster.processes(), grace_s)
    kill(cluster.processes())  # what was started while we were looking
    shutil.rmtree(cluster.temp, ignore_errors=True)
    shutil.rmtree(cluster.folder)
    return True


@contextmanager
def running(nodes: int = 1, cpus: int | None = None, **options: Any) -> Iterator[Cluster]:
    """`up` for the length of the block, then `down`. Options as for `up`."""
    cluster = up(nodes, cpus, **options)
    try:
        yield cluster
    finally:
        down(cluster.name)


def env_for(name: str = "local") -> dict[str, str]:
    """The environment a driver or a Ray Jobs client needs. Set it before ray is imported."""
    cluster = state(name)
    if cluster is None:
        known = ", ".join(names()) or "none"
        raise ClusterError(f"no cluster '{name}' here (known: {known}); start one: mixer cluster up local")
    return cluster.client_env


def add_node(name: str = "local", cpus: int = 1, env: Mapping[str, str] | None = None) -> Node:
    """One more raylet for a running cluster; returns when it is alive."""
    cluster = state(name)
    if cluster is None or not cluster.running():
        raise ClusterError(f"cluster '{name}' is not up; start it: mixer cluster up local")
    cluster = _start_node(cluster, cpus, env or {}, tied=False)
    _wait_for_nodes(cluster)
    return cluster.nodes[-1]


def cut_power(name: str, index: int) -> None:
    """SIGKILL everything on one node at once, as a power cut would. Index 0, the head, takes the cluster
    with it.
    """
    cluster = state(name)
    if cluster is None or index not in [node.index for node in cluster.nodes]:
        raise ClusterError(f"cluster '{name}' has no node {index}")
    kill(marked(NODE_MARK, f"{cluster.mark}/{index}"))
    shutil.rmtree(cluster.temp / str(index), ignore_errors=True)
    save(replace(cluster, nodes=tuple(node for node in cluster.nodes if node.index != index)))


def _check(nodes: int, cpus: int | None) -> None:
    if nodes < 1:
        raise ClusterError(f"nodes is {nodes}; a cluster has at least 1")
    if cpus is not None and cpus < 1:
        raise ClusterError(f"cpus is {cpus}; a node has at least 1")


def _start_head(cluster: Cluster, cpus: int, env: Mapping[str, str], tied: bool) -> Cluster:
    port = free_port()
    options = ["--head", "--port", "0", "--include-dashboard", "true", "--dashboard-host", "127.0.0.1"]
    options += ["--dashboard-port", str(port), "--ray-client-server-port", str(free_port())]
    dashboard = f"http://127.0.0.1:{port}"
    cluster = _launch(replace(cluster, dashboard=dashboard), 0, options, cpus, env, tied)
    written = cluster.temp / "0" / "ray_current_cluster"
    head = cluster.nodes[0].process
    _wait(cluster, lambda: written.exists() or not head.alive(), "the Ray head to start")
    if not written.exists():
        raise ClusterError(
            f"the Ray head ended at once; its log ends:\n{tail(cluster.folder / 'node-0.log')}"
        )
    return save(replace(cluster, address=written.read_text().strip()))


def _start_node(cluster: Cluster, cpus: int, env: Mapping[str, str], tied: bool) -> Cluster:
    index = 1 + max(node.index for node in cluster.nodes)
    return _launch(cluster, index, ["--address", cluster.address], cpus, env, tied)


def _launch(
    cluster: Cluster, index: int, options: list[str], cpus: int, env: Mapping[str, str], tied: bool
) -> Cluster:
    launcher = str(Path(__file__).with_name("local_node.py"))
    command = [sys.executable, "-P", launcher, "start", "--block", "--disable-usage-stats", *options]
    command += [
        "--node-ip-address",
        "127.0.0.1",
        "--num-cpus",
        str(cpus),
        "--dashboard-agent-listen-port",
        "0",
    ]
    command += [
        "--object-store-memory",
        str(OBJECT_STORE_BYTES),
        "--temp-dir",
        str(cluster.temp / str(index)),
    ]
    whole = _server_env(cluster, index) | dict(env)
    process = spawn(command, env=whole, log=cluster.folder / f"node-{index}.log", tied=tied)
    return save(replace(cluster, nodes=(*cluster.nodes, Node(index, process, cpus))))


def _server_env(cluster: Cluster, index: int) -> dict[str, str]:
    """Ours without the user's RAY_*; `python` in a job is this interpreter."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{ours.get('PATH', os.defpath)}"
    marks = {MARK: cluster.mark, NODE_MARK: f"{cluster.mark}/{index}"}
    return ours | {"PATH": path} | SERVER_ENV | cluster.auth_env | marks


def _wait_for_nodes(cluster: Cluster) -> None:
    wanted = len(cluster.nodes)
    _wait(cluster, lambda: _alive_nodes(cluster) >= wanted, f"{wanted} Ray node(s) to be alive")
    _wait(cluster, lambda: _ask(cluster, "/api/jobs/") is not None, "Ray Jobs to answer")


def _wait(cluster: Cluster, check: Any, what: str) -> None:
    try:
        wait_until(check, START_TIMEOUT_S, what, every_s=0.2)
    except TimeoutError as error:
        logs = "\n".join(tail(log) for log in sorted(cluster.folder.glob("*.log")))
        raise ClusterError(
            f"cluster '{cluster.name}' did not start: {error}. The logs end:\n{logs}"
        ) from None


def _alive_nodes(cluster: Cluster) -> int:
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
