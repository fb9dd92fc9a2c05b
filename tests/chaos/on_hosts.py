"""The arena of real hosts (tests/ray_hosts.py): h0 is the head and can lose its power, h1 has the driver and the store, the rest workers.

What can be lost here and not among raylets of one host: cables, gcs_server, the head itself. h1 is the user's machine; it stays.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from clusters.notices import write_notice
from clusters.processes import Process
from tests.ceph import Gateway
from tests.chaos import memory
from tests.chaos.arena import ROOT, Arena, Driver
from tests.chaos.environment import environment
from tests.chaos.front import fronting
from tests.chaos.procs import Seen, look
from tests.chaos.scene import Scene, furnish, make_bucket, noticing
from tests.hosts import hosts
from tests.ray_hosts import RayHosts
from tests.relay import relay

HOME, FIRST, S3_PORT = 1, 2, 9000  # the user's host, and the first one that may be lost
MARK = "hosts"


class HostArena(Arena):
    """A cluster of hosts that is up. Nodes are named by their host's number."""

    def __init__(self, cluster: RayHosts, notices: Mapping[str, str]) -> None:
        self._cluster, self._notices = cluster, notices

    @property
    def kinds(self) -> frozenset[str]:
        found = {
            "kill rank",
            "kill ranks",
            "pause rank",
            "hang rank",
            "kill shell",
            "kill raylet",
            "kill gcs",
        }
        found |= {
            "kill driver",
            "rival driver",
            "cut power",
            "cut cable",
            "cut head",
            "join",
            "notice",
            "drain",
        }
        return frozenset(found | {"stop", "scale"} | ({"memory"} if memory.can_limit() else set()))

    def ready(self) -> None:
        while self.add_node() is not None:
            pass
        self._cluster.wait_for_nodes(len(self._cluster.group))

    def start(self, *args: str, said: Path) -> Driver:
        command = [sys.executable, "-W", "ignore", "-m", "orchestrator", *args]
        with said.open("ab") as out:
            options: dict[str, Any] = {"stdout": out, "stderr": subprocess.STDOUT, "cwd": ROOT}
            options["start_new_session"] = True
            return self._cluster.group[HOME].run(command, env=self._cluster.env, **options)

    def signal(self, driver: Driver, number: int) -> None:
        """To the program: what we hold is who carried it into the host."""
        for child in Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    def rank(self, worker: Mapping[str, Any]) -> Process | None:
        seen = self._seen(int(re.sub(r"\D", "", str(worker["host"])) or 0))
        return next((one.process for one in seen if _inner_pid(one) == worker["pid"]), None)

    def shells(self, ranks: list[Process]) -> list[Process]:
        everywhere = [one for node in range(HOME, len(self._cluster.group)) for one in self._seen(node)]
        return [one.process for one in everywhere if one.is_worker and one.process not in ranks]

    def nodes(self) -> list[int]:
        hosts = range(FIRST, len(self._cluster.group))
        return [node for node in hosts if any(one.is_raylet for one in self._seen(node))]

    def node_of(self, process: Process) -> int | None:
        hosts = range(len(self._cluster.group))
        return next((n for n in hosts if process in [one.process for one in self._seen(n)]), None)

    def add_node(self) -> int | None:
        off = [n for n in range(FIRST, len(self._cluster.group)) if not self._cluster.group[n].alive]
        for node in off[:1]:
            self._cluster.boot(node)
            return node
        return None

    def cut_power(self, node: int) -> None:
        self._cluster.group[node].power_off()

    def cut_cable(self, node: int) -> None:
        self._cluster.group[node].cut()

    def heal_cable(self, node: int) -> None:
        if self._cluster.group[node].alive:
            self._cluster.group[node].heal()

    def kill_raylet(self, node: int) -> None:
        self._raylet(node).process.signal(signal.SIGKILL)

    def kill_gcs(self) -> None:
        for one in self._seen(0):
            if one.is_gcs:
                one.process.signal(signal.SIGKILL)

    def cut_head(self) -> None:
        self._cluster.group[0].power_off()

    def restart_head(self) -> None:
        """Ray on the head again, whatever of it is left."""
        for one in self._seen(0):
            one.process.signal(signal.SIGKILL)
        self._cluster.boot(0) if not self._cluster.group[0].alive else self._cluster.start_head()

    def notice(self, node: int, seconds: float) -> None:
        with environment(self._notices):
            write_notice(seconds, "chaos: the node goes", self._raylet(node).node_id)

    def drain(self, node: int, seconds: float) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "chaos")
        place = ("--node-id", self._raylet(node).node_id, "--deadline-remaining-seconds", str(int(seconds)))
        command = (ray, "drain-node", "--address", self._cluster.address, *reason, *place)
        self._cluster.group[HOME].ask(*command, env=self._cluster.env)

    def squeeze(self, process: Process) -> None:
        memory.limit(process, MARK)

    def _seen(self, node: int) -> list[Seen]:
        host = self._cluster.group[node]
        return [one for pid in host.processes() if (one := look(pid, node))] if host.alive else []

    def _raylet(self, node: int) -> Seen:
        return next(one for one in self._seen(node) if one.is_raylet)


def _inner_pid(seen: Seen) -> int:
    """The pid as the host itself sees it."""
    try:
        status = Path(f"/proc/{seen.process.pid}/status").read_text()
    except OSError:
        return 0
    return int(re.search(r"^NSpid:.*?(\d+)$", status, re.M)[1])  # type: ignore[index]


@contextmanager
def on_hosts(
    folder: Path, *, steps: int, workers: int = 3, gateway: Gateway | None = None, seed: int = 0
) -> Iterator[Scene]:
    """A scene on `workers` + 2 hosts; the store is RGW behind a proxy, or a folder that all hosts share."""
    with ExitStack() as stack:
        front = stack.enter_context(fronting(gateway.endpoint, folder, seed)) if gateway else None
        own = noticing(folder)
        stack.enter_context(environment({**own, **(gateway.env if gateway else {})}))
        group = stack.enter_context(hosts(workers + 2))
        env = {}
        if gateway and front:
            url = stack.enter_context(relay(group[HOME].listen(S3_PORT), front.endpoint))
            env = {**gateway.env, "AWS_ENDPOINT_URL": url}
        store = make_bucket("hosts") if gateway else str(folder / "store")
        spec = furnish(folder, store, steps)
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mixer-rh-")))
        cluster = RayHosts(group, logs, [0, *[1] * workers], store, env, durable=True)
        stack.callback(cluster.close)
        stack.callback(memory.tidy, MARK)
        cluster.start()
        yield Scene(HostArena(cluster, own), spec, store, folder, front)
