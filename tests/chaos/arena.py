"""Where a schedule plays: machines that can be hurt, and the command a user types.

`Arena` is what the faults need of machines. `LocalArena` is a Ray cluster of several raylets on this machine (clusters.local): no
cables, no head to lose, one kernel. Others: hosts of network namespaces (on_hosts), gangs without Ray (gangs).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clusters import local
from clusters.local_state import Cluster
from clusters.notices import write_notice
from clusters.processes import Process
from tests.chaos import memory
from tests.chaos.environment import environment
from tests.chaos.procs import Seen, scan

Driver = subprocess.Popen[Any]
ROOT = Path(__file__).parents[2]
STORE_KINDS = frozenset(
    f"store {deed}" for deed in ("503", "reset", "cut", "lost", "truncate", "flip", "latency", "freeze")
)


class Cannot(NotImplementedError):
    """This arena has no such thing; it is not among its kinds."""


class Arena:
    """What every arena has: kinds of faults, commands, ranks; and machines, where it has any. Nodes go by number; 0 is the head."""

    @property
    def kinds(self) -> frozenset[str]:
        """The faults it can do, those of the store left out."""
        raise Cannot

    def ready(self) -> None:
        """Before a run: as many machines as at first."""

    def start(self, *args: str, said: Path) -> Driver:
        """`mixer args` where drivers live, its output appended to `said`."""
        raise Cannot

    def signal(self, driver: Driver, number: int) -> None:
        """Send a signal to what `start` started."""
        driver.send_signal(number)

    def rank(self, worker: Mapping[str, Any]) -> Process | None:
        """The living process of a rank, by its "worker" event. None when it is gone or not of this arena."""
        raise Cannot

    def shells(self, ranks: list[Process]) -> list[Process]:
        """Processes of Ray that work for the run: not its ranks, not Ray's servants."""
        raise Cannot

    def nodes(self) -> list[int]:
        """Nodes that are up and may go."""
        raise Cannot

    def node_of(self, process: Process) -> int | None:
        """Where a process runs."""
        raise Cannot

    def add_node(self) -> int | None:
        """One more node, up; None when there is none to come."""
        raise Cannot

    def cut_power(self, node: int) -> None:
        """Everything on it ends at once; fine when it has."""
        raise Cannot

    def cut_cable(self, node: int) -> None:
        raise Cannot

    def heal_cable(self, node: int) -> None:
        raise Cannot

    def kill_raylet(self, node: int) -> None:
        raise Cannot

    def kill_gcs(self) -> None:
        raise Cannot

    def cut_head(self) -> None:
        """Power loss of the head."""
        raise Cannot

    def restart_head(self) -> None:
        """The head is back, with what it knew."""
        raise Cannot

    def notice(self, node: int, seconds: float) -> None:
        """Tell the node that it goes in so many seconds, as a cloud does. It does not go by itself."""
        raise Cannot

    def drain(self, node: int, seconds: float) -> None:
        """Drain the node in Ray."""
        raise Cannot

    def squeeze(self, process: Process) -> None:
        """Take so much memory from a process that the kernel kills it."""
        raise Cannot


class LocalArena(Arena):
    """A cluster of clusters.local that is up already. `env` is what its machines and drivers have besides: the store."""

    def __init__(self, name: str, env: Mapping[str, str], cpus: int = 1) -> None:
        self._name, self._env, self._cpus = name, dict(env), cpus
        self._at_first = len(self.nodes())

    @property
    def kinds(self) -> frozenset[str]:
        found = {"kill rank", "kill ranks", "pause rank", "hang rank", "kill shell", "kill raylet"}
        found |= {"kill driver", "rival driver", "cut power", "join", "drain", "stop", "scale"}
        found |= {"memory"} if memory.can_limit() else set()
        found |= {"notice"} if "MIXER_NOTICE_DIR" in self._env else set()
        return frozenset(found)

    def ready(self) -> None:
        while len(self.nodes()) < self._at_first:
            self.add_node()

    def start(self, *args: str, said: Path) -> Driver:
        env = {**os.environ, **local.env_for(self._name), **self._env, "XDG_CONFIG_HOME": str(said.parent)}
        command = [sys.executable, "-W", "ignore", "-m", "orchestrator", *args]
        with said.open("ab") as out:
            return subprocess.Popen(
                command, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def rank(self, worker: Mapping[str, Any]) -> Process | None:
        ours = [seen.process for seen in self._scan()]
        return next((process for process in ours if process.pid == worker["pid"]), None)

    def shells(self, ranks: list[Process]) -> list[Process]:
        pids = {process.pid for process in ranks}
        seen = [one for one in self._scan() if one.is_worker and one.process.pid not in pids]
        return [one.process for one in sorted(seen, key=lambda one: one.process.pid)]

    def nodes(self) -> list[int]:
        return sorted(seen.node for seen in self._scan() if seen.is_raylet and seen.node > 0)

    def node_of(self, process: Process) -> int | None:
        return next((seen.node for seen in self._scan() if seen.process == process), None)

    def add_node(self) -> int | None:
        self._bury()
        return local.add_node(self._name, cpus=self._cpus, env=self._env).index

    def cut_power(self, node: int) -> None:
        if any(known.index == node for known in self._cluster().nodes):
            local.cut_power(self._name, node)

    def kill_raylet(self, node: int) -> None:
        self._raylet(node).process.signal(signal.SIGKILL)

    def notice(self, node: int, seconds: float) -> None:
        with environment({"MIXER_NOTICE_DIR": self._env["MIXER_NOTICE_DIR"]}):
            write_notice(seconds, "chaos: the node goes", self._raylet(node).node_id)

    def drain(self, node: int, seconds: float) -> None:
        reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "chaos")
        place = ("--node-id", self._raylet(node).node_id, "--deadline-remaining-seconds", str(int(seconds)))
        env = {**os.environ, **local.env_for(self._name)}
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "drain-node", "--address", env["RAY_ADDRESS"], *reason, *place]
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=30)

    def squeeze(self, process: Process) -> None:
        memory.limit(process, self._cluster().mark)

    def _cluster(self) -> Cluster:
        cluster = local.state(self._name)
        assert cluster is not None, f"cluster {self._name} is gone"
        return cluster

    def _scan(self) -> list[Seen]:
        return scan(self._cluster().mark)

    def _raylet(self, node: int) -> Seen:
        return next(seen for seen in self._scan() if seen.is_raylet and seen.node == node)

    def _bury(self) -> None:
        """Forget nodes whose raylet is gone: the next one to join is counted against those that are written down."""
        alive = self.nodes()
        for node in self._cluster().nodes:
            if node.index and node.index not in alive:
                local.cut_power(self._name, node.index)
