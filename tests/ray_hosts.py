"""A Ray cluster on real hosts (tests/hosts.py): h0 is the head with no CPUs, the others are its nodes.

The chain: `ray_hosts(3)` -> hosts -> `ray start --block` on each, with token authentication and the settings
of clusters.settings -> `RayHosts`: `mixer(...)` starts a command in a host as a user would, `log` and
`history` read the run in the store, a folder that all hosts share. Nodes are kept: what ends is started
again a second later, as systemd or Kubernetes would; a host that boots comes with its node.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from clusters.processes import tail, wait_until
from clusters.settings import DRIVER, PATIENCE, SERVER_ENV, durable_env, token_env
from tests.hosts import Host, Hosts, hosts
from tests.relay import relay

ROOT = Path(__file__).resolve().parents[1]
PORT, S3_PORT = 6379, 9000
START_TIMEOUT_S = 60.0
# Starts again what ended: a raylet that was declared dead ends itself, and only its host can bring it back.
KEEP = 'while :; do "$@"; sleep 1; done'
COUNT = """
import sys, time
from ray._raylet import GcsClient
wanted, deadline = int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
while True:
    nodes = GcsClient(address=sys.argv[1]).get_all_node_info().values()
    alive = sum(node.state == 0 for node in nodes)
    if alive == wanted or time.monotonic() > deadline:
        break
    time.sleep(0.2)
print("ALIVE", alive)
"""


class RayHosts:
    """A cluster: `group` its hosts, `folder` a place that all share, `env` what a client needs."""

    def __init__(
        self,
        group: Hosts,
        folder: Path,
        cpus: Sequence[int],
        store: str,
        env: Mapping[str, str],
        durable: bool,
    ) -> None:
        self.group, self.folder, self.store, self._cpus, self._durable = group, folder, store, cpus, durable
        self.address = f"{group[0].ip}:{PORT}"
        self._auth = token_env(secrets.token_hex(16))
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
        self._base = (
            ours | {"PYTHONWARNINGS": "ignore", "XDG_CONFIG_HOME": str(folder)} | self._auth | dict(env)
        )
        self.env = self._base | {"RAY_ADDRESS": self.address} | (PATIENCE if durable else {})
        self._drivers: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """Start the head, then the nodes, and wait until all are alive."""
        self.start_head()
        for index in range(1, len(self.group)):
            self.start_node(index)
        self.wait_for_nodes(len(self.group))

    def start_head(self) -> None:
        """Start Ray on h0, and again whenever it ends: no CPUs, no dashboard. With `durable` it goes on with what it knew."""
        options = ["--head", "--port", str(PORT), "--num-cpus", "0", "--include-dashboard", "false"]
        more = durable_env(self.folder / "gcs") if self._durable else {}
        self._ray(self.group[0], options, more)

    def start_node(self, index: int) -> None:
        """Start Ray on h<index>, and again whenever it ends."""
        options = ["--address", self.address, "--num-cpus", str(self._cpus[index - 1])]
        options += ["--resources", json.dumps({DRIVER: 1})]
        self._ray(self.group[index], options, PATIENCE if self._durable else {})

    def boot(self, index: int) -> None:
        """Power on a host, with its Ray; fine when it is on already."""
        if self.group[index].alive:
            return
        self.group[index].boot()
        self.start_head() if index == 0 else self.start_node(index)

    def wait_for_nodes(self, count: int, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until exactly `count` nodes are alive, the head among them."""
        command = [sys.executable, "-c", COUNT, self.address, str(count), str(timeout_s)]
        told = self.group[0].ask(*command, env=self.env, timeout_s=timeout_s + 20)
        if f"ALIVE {count}" not in told:
            logs = "\n".join(tail(log) for log in sorted(self.folder.glob("h*.log")))
            raise TimeoutError(f"waited {timeout_s:g} s for {count} Ray nodes: {told}\n{logs}")

    def mixer(self, *arguments: str, on: int = 1) -> subprocess.Popen[str]:
        """Start `mixer ...` on h<on>; its output goes to <folder>/mixer-<k>.log."""
        log = self.folder / f"mixer-{len(self._drivers)}.log"
        with log.open("w") as file:
            command = [sys.executable, "-W", "ignore", "-m", "orchestrator", *arguments]
            options: dict[str, Any] = {"stdout": file, "stderr": subprocess.STDOUT, "cwd": ROOT}
            process = self.group[on].run(command, env=self.env, start_new_session=True, **options)
        self._drivers.append(process)
        return process

    def said(self) -> str:
        """What all commands so far wrote: for the message of an assertion."""
        return "\n".join(tail(log, 40) for log in sorted(self.folder.glob("mixer-*.log")))

    def log(self, run: str) -> list[dict[str, Any]]:
        """The run's log as it lies in the store, `kind`, `n` and `time` among the facts; [] before there is one."""
        from orchestrator.run_log import RunLog
        from orchestrator.run_store import Run

        found = Run(f"{self.store}/runs/{run}")
        entries = RunLog(found.store, "reader").refresh()
        return [{**entry.facts, "kind": entry.kind, "n": entry.n, "time": entry.time} for entry in entries]

    def step(self, run: str) -> int:
        """The step that the run's newest attempt has come to."""
        from orchestrator.run_store import Run
        from orchestrator.watch import newest_progress

        return int(newest_progress(Run(f"{self.store}/runs/{run}")).get("step", 0))

    def attempts(self, run: str) -> list[dict[str, Any]]:
        """The run's attempts so far, oldest first: their "attempt started" entries."""
        return [entry for entry in self.log(run) if entry["kind"] == "attempt started"]

    def wait_for_step(self, run: str, beyond: int, timeout_s: float = 60.0) -> int:
        """Until the run's newest attempt has completed a step beyond `beyond`; the step. AssertionError with
        what the commands said.
        """
        return self._wait(lambda: self._beyond(run, beyond), timeout_s, f"a step beyond {beyond} of {run}")

    def wait_for_attempt(self, run: str, count: int, timeout_s: float = 60.0) -> int:
        """Until attempt number `count` (1 is the first) has completed a step; the step."""
        self._wait(lambda: len(self.attempts(run)) >= count, timeout_s, f"attempt {count} of {run}")
        return self.wait_for_step(run, self.attempts(run)[-1]["step"], timeout_s)

    def wait_for_save(self, run: str, timeout_s: float = 60.0) -> None:
        """Until a checkpoint more is in the log; what its attempt noted up to then can be read with it."""
        before = self.saves(run)
        self._wait(lambda: self.saves(run) > before, timeout_s, f"checkpoint {before + 1} of {run}")

    def saves(self, run: str) -> int:
        """Checkpoints committed so far."""
        return sum(entry["kind"] == "checkpoint committed" for entry in self.log(run))

    def _beyond(self, run: str, step: int) -> int:
        seen = self.step(run)
        return seen if seen > step else 0

    def _wait(self, check: Any, timeout_s: float, what: str) -> int:
        try:
            return int(wait_until(check, timeout_s, what, every_s=0.1))
        except TimeoutError as error:
            raise AssertionError(f"{error}; the commands said:\n{self.said()}") from None

    def timeline(self, run: str, since: float, until: float = math.inf) -> list[str]:
        """What happened to the run, in seconds after `since`: its log, and each attempt's first and last step."""
        from orchestrator.run_store import Run
        from orchestrator.training.events import read_events

        found: list[tuple[float, str]] = []
        for entry in self.log(run):
            facts = {key: entry[key] for key in ("step", "world", "outcome", "cause", "why") if key in entry}
            found.append((entry["time"], f"{entry['kind']} {facts}"))
        steps: dict[int, list[tuple[float, int]]] = {}
        for event in read_events(Run(f"{self.store}/runs/{run}").store):
            if event["kind"] == "step" and event["rank"] == 0:
                steps.setdefault(event["attempt"], []).append((event["t"], event["step"]))
        for attempt, noted in steps.items():
            for which, (at, step) in (("first", min(noted)), ("last", max(noted))):
                found.append((at, f"attempt {attempt}: its {which} step, {step}"))
        return [f"{at - since:8.2f} s  {text}" for at, text in sorted(found) if since - 1 <= at <= until]

    def close(self) -> None:
        """End the hosts, and reap what ran in them."""
        self.group.close()
        for process in self._drivers:
            process.kill()
            process.wait(20)

    def _ray(self, host: Host, options: list[str], more: dict[str, str]) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        common = ["--block", "--disable-usage-stats", "--node-ip-address", host.ip]
        common += ["--object-store-memory", str(128 * 2**20), "--include-log-monitor", "false"]
        start = [ray, "start", *options, *common]
        env = self._base | SERVER_ENV | more
        with (self.folder / f"{host.name}.log").open("a") as log:
            command = ["sh", "-c", KEEP, "keep", *start]
            output: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT}
            process = host.run(command, env=env, start_new_session=True, cwd=ROOT, **output)
        self._drivers.append(process)


@contextmanager
def ray_hosts(
    nodes: int,
    cpus: int | Sequence[int] = 1,
    *,
    durable: bool = False,
    store: str | None = None,
    s3: Mapping[str, str] | None = None,
) -> Iterator[RayHosts]:
    """A head and `nodes` nodes with `cpus` CPUs each, for the length of the block.

    store: where runs lie, else a folder that all hosts share. s3: the AWS_* variables by which this process
    reaches a server of this machine; the hosts reach it at h0, and a cut cable cuts it off.
    """
    each, env = [cpus] * nodes if isinstance(cpus, int) else list(cpus), dict(s3 or {})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mixer-rh-")))
        group = stack.enter_context(hosts(nodes + 1))
        if s3:
            url = stack.enter_context(relay(group[0].listen(S3_PORT), s3["AWS_ENDPOINT_URL"]))
            env["AWS_ENDPOINT_URL"] = url
        cluster = RayHosts(group, folder, each, store or str(folder / "store"), env, durable)
        stack.callback(cluster.close)
        cluster.start()
        yield cluster
