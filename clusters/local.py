"""A Ray cluster on this machine, for `mixer cluster up local`: a head, and more raylets if asked for.

The chain: `up` makes <home>/clusters/<name>/ (token file of mode 600, cluster.json, logs) -> starts each
node (local_start) as `ray start --block` in its own session, marked through its environment -> waits until the dashboard
counts all of them -> `Cluster`. `env_for` is what a client needs; `state` reads cluster.json back
(local_state); `down` ends what carries the mark, drivers of its jobs included, and nothing else (never `ray
stop`, which ends every Ray on the machine). <home> is $MIXER_HOME, else ~/.mixer. Everything listens on
127.0.0.1 and wants the token.

Several nodes on one machine share its CPUs, disk and memory: they are for trying out what happens when a
node is lost (`cut_power`) or comes (`add_node`), not for speed. A durable cluster has a head of its own, with
no CPUs, that keeps its state on disk: when it dies, `restart_head` (or `up` again) brings it back, and what
runs on the nodes never notices. The code here does not import ray.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusters.local_start import start_head, start_node, wait_for_nodes
from clusters.local_state import (
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
from clusters.processes import end, kill, marked

__all__ = [
    "Cluster",
    "ClusterError",
    "Node",
    "add_node",
    "cut_power",
    "down",
    "env_for",
    "names",
    "restart_head",
    "running",
    "state",
    "up",
]


def up(
    nodes: int = 1,
    cpus: int | None = None,
    *,
    name: str = "local",
    env: Mapping[str, str] | None = None,
    tied: bool = False,
    durable: bool = False,
) -> Cluster:
    """Start a cluster and wait until all its nodes are alive (about 8 s).

    cpus: per node; by default the machine's, divided among the nodes. env: added to that of every node, and
    so of every worker. tied: it ends with this process. durable: the head is one node more, with no CPUs,
    and keeps its state; where such a cluster has lost its head but no other node, only the head is started.
    Raises ClusterError when `name` is up already or does not start.
    """
    _check(nodes, cpus)
    folder = folder_of(name)
    if (old := state(name)) is not None:
        if old.running():
            raise ClusterError(
                f"cluster '{name}' is up already at {old.address}; end it first: mixer cluster down {name}"
            )
        if old.headless():
            return restart_head(name, env, tied=tied)
        down(name)
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    write_private(folder / "token", secrets.token_hex(32))
    temp = Path(
        tempfile.mkdtemp(prefix="mixer-ray-", dir="/tmp")
    )  # short: unix socket paths end at 107 characters
    cluster = Cluster(name, folder, temp, secrets.token_hex(8), "", "", (), durable)
    share = cpus or max(1, (os.cpu_count() or 1) // nodes)
    try:
        cluster = start_head(cluster, 0 if durable else share, env or {}, tied)
        for _ in range(nodes if durable else nodes - 1):
            cluster = start_node(cluster, share, env or {}, tied)
        wait_for_nodes(cluster)
    except BaseException:
        down(name)
        raise
    return cluster


def restart_head(name: str = "local", env: Mapping[str, str] | None = None, *, tied: bool = False) -> Cluster:
    """Start the head of a durable cluster again, at its old address and with what it knew; its nodes have
    waited for it, 10 minutes at most. Raises ClusterError when there is nothing to restart.
    """
    cluster = state(name)
    if cluster is None or not cluster.headless():
        raise ClusterError(
            f"cluster '{name}' has no head to restart: that wants a cluster of `up --durable` whose head is dead and a node alive"
        )
    kill(marked(NODE_MARK, f"{cluster.mark}/0"))  # what the dead head left behind holds its ports
    nodes = tuple(node for node in cluster.nodes if node.index and node.process.alive())
    cluster = start_head(save(replace(cluster, nodes=nodes)), 0, env or {}, tied)
    wait_for_nodes(cluster)
    return cluster


def down(name: str = "local", grace_s: float = 10.0) -> bool:
    """End a cluster and remove its files. False when there is none.

    Drivers of jobs that still run get SIGTERM with the rest and `grace_s` seconds: to let them save, stop
    the jobs first.
    """
    cluster = state(name)
    if cluster is None:
        return False
    # Each `ray start --block` takes its own children with it. Nodes first: a raylet whose head has gone does not
    # hear SIGTERM while it looks for it.
    end([node.process for node in cluster.nodes if node.index], grace_s)
    end([node.process for node in cluster.nodes], grace_s)
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
    cluster = start_node(cluster, cpus, env or {}, tied=False)
    wait_for_nodes(cluster)
    return cluster.nodes[-1]


def cut_power(name: str, index: int) -> None:
    """SIGKILL everything on one node at once, as a power cut would. Index 0, the head, takes the cluster
    with it, unless that is durable.
    """
    cluster = state(name)
    if cluster is None or index not in [node.index for node in cluster.nodes]:
        raise ClusterError(f"cluster '{name}' has no node {index}")
    kill(marked(NODE_MARK, f"{cluster.mark}/{index}"))
    if index or not cluster.durable:  # the disk of a durable head outlives it
        shutil.rmtree(cluster.temp / str(index), ignore_errors=True)
    save(replace(cluster, nodes=tuple(node for node in cluster.nodes if node.index != index)))


def _check(nodes: int, cpus: int | None) -> None:
    if nodes < 1:
        raise ClusterError(f"nodes is {nodes}; a cluster has at least 1")
    if cpus is not None and cpus < 1:
        raise ClusterError(f"cpus is {cpus}; a node has at least 1")
