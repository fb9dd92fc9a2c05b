"""What is written down about a local Ray cluster: <home>/clusters/<name>/cluster.json, token, logs.

<home> is $MIXER_HOME, else ~/.mixer. The file is replaced as a whole at each change, before anybody waits
for anything, so that `down` finds every process even after a crash of `up`. Starting and ending is in
clusters.local.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from clusters.local_node import LOOPBACK
from clusters.processes import Process, marked, without_proxy
from clusters.settings import PATIENCE

MARK, NODE_MARK = "MIXER_LOCAL_CLUSTER", "MIXER_LOCAL_NODE"


class ClusterError(Exception):
    """What a user can do something about; the message says what."""


@dataclass(frozen=True)
class Node:
    """One raylet with its helpers. `process` is its `ray start --block`; index 0 is the head."""

    index: int
    process: Process
    cpus: int


@dataclass(frozen=True)
class Cluster:
    """A cluster as cluster.json tells it. `address` is the GCS (RAY_ADDRESS), `dashboard` an http url;
    `durable`: its head can be restarted.
    """

    name: str
    folder: Path
    temp: Path
    mark: str
    address: str
    dashboard: str
    nodes: tuple[Node, ...]
    durable: bool = False

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    @property
    def auth_env(self) -> dict[str, str]:
        """What every process of the cluster and every client must agree on."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}

    @property
    def client_env(self) -> dict[str, str]:
        """What a driver or a Ray Jobs client needs, set before ray is imported."""
        addresses = {"RAY_ADDRESS": self.address, "RAY_API_SERVER_ADDRESS": self.dashboard}
        return addresses | self.auth_env | self.patience | LOOPBACK | without_proxy()

    @property
    def patience(self) -> dict[str, str]:
        """What lets nodes and drivers wait for a head that will come back."""
        return PATIENCE if self.durable else {}

    def running(self) -> bool:
        """Whether its head is alive."""
        return any(node.index == 0 and node.process.alive() for node in self.nodes)

    def headless(self) -> bool:
        """Whether its head is dead, can be restarted, and a node lives for which that is worth it."""
        alive = {node.index for node in self.nodes if node.process.alive()}
        return self.durable and bool(alive) and 0 not in alive

    def processes(self) -> list[Process]:
        """Every process that belongs to it, drivers of Ray Jobs included."""
        return marked(MARK, self.mark)


def state(name: str = "local") -> Cluster | None:
    """The cluster of this name as it was last written down, None when there is none; ask it `running()`."""
    path = folder_of(name) / "cluster.json"
    if not path.exists():
        return None
    told = json.loads(path.read_text())
    nodes = tuple(Node(n["index"], Process(**n["process"]), n["cpus"]) for n in told["nodes"])
    texts = {key: told[key] for key in ("name", "mark", "address", "dashboard")}
    durable = bool(told.get("durable", False))
    return Cluster(folder=path.parent, temp=Path(told["temp"]), nodes=nodes, durable=durable, **texts)


def names() -> list[str]:
    """Names of the clusters that are written down here."""
    return sorted(path.parent.name for path in _home().glob("clusters/*/cluster.json"))


def _home() -> Path:
    return Path(os.environ.get("MIXER_HOME") or Path.home() / ".mixer")


def folder_of(name: str) -> Path:
    """Where a cluster of this name is written down. Raises ClusterError for what is no name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise ClusterError(f"'{name}' is no cluster name; allowed are 1-63 of letters, digits and . _ -")
    return _home() / "clusters" / name


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def save(cluster: Cluster) -> Cluster:
    """Write cluster.json, whole or not at all: `down` after a crash must find every pid."""
    new = cluster.folder / "cluster.json.new"
    write_private(new, json.dumps(asdict(cluster), default=str, indent=1))
    new.replace(cluster.folder / "cluster.json")
    return cluster
