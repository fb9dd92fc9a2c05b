"""The commands a user types, on a real Ray cluster with token authentication and a real S3 server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters import local
from clusters.object_store import ObjectStore
from tests.runs import make_small, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]
ROOT = Path(__file__).resolve().parents[2]
CLUSTER = "test-runs"


@dataclass
class Desk:
    """A shell of a user: the environment with credentials, a spec, a store."""

    env: dict[str, str]
    spec: str
    store: str

    def start(self, *args: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-m", "orchestrator", *args]
        return subprocess.Popen(
            command,
            env=self.env,
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def mixer(self, *args: str, code: int = 0, timeout: float = 200) -> str:
        process = self.start(*args)
        out, _ = process.communicate(timeout=timeout)
        assert process.returncode == code, (
            f"mixer {' '.join(args)} gave {process.returncode}, not {code}:\n{out}"
        )
        return out

    def status(self, run: str) -> dict[str, Any]:
        return json.loads(self.mixer("status", run, "--store", self.store, "--json"))  # type: ignore[no-any-return]

    def log(self, run: str) -> list[dict[str, Any]]:
        """The run's log, read as it lies in the bucket."""
        from orchestrator.run_log import RunLog
        from orchestrator.run_store import Run

        entries = RunLog(Run(f"{self.store}/runs/{run}").store, "reader").refresh()
        return [{"kind": entry.kind, "n": entry.n, **entry.facts} for entry in entries]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, rclone_store: ObjectStore, digits: str) -> Iterator[Desk]:
    """A cluster of a head with one CPU and two more nodes of one CPU; its machines have the credentials."""
    folder = tmp_path_factory.mktemp("desk")
    before = {key: os.environ.get(key) for key in rclone_store.env}
    os.environ.update(rclone_store.env)
    store = rclone_store.bucket("test-ray")
    make_small(folder, digits)
    try:
        with local.running(nodes=2, cpus=1, name=CLUSTER, env=rclone_store.env):
            env = {**os.environ, **rclone_store.env, **local.env_for(CLUSTER), "XDG_CONFIG_HOME": str(folder)}
            yield Desk(env, str(folder / "small.yaml"), store)
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def test_submit_look_scale_stop_resume_from_any_machine(desk: Desk, rclone_store: ObjectStore) -> None:
    submitted = desk.mixer(
        "submit",
        desk.spec,
        "--store",
        desk.store,
        "--name",
        "sub",
        "--set",
        "train.steps=400",
        "--set",
        "workers.max=1",
        "--json",
    )
    facts = json.loads(submitted[submitted.index("{") :])
    assert facts["run"] == "sub"
    wait_for(lambda: _has_step(desk, "sub", 1), timeout=90, every=0.2)
    refused = desk.mixer("submit", "sub", "--store", desk.store, code=2)
    assert "is led by" in refused
    assert "--take-over" in refused
    desk.mixer("scale", "sub", "2:2", "--store", desk.store)
    wait_for(lambda: _world(desk, "sub") == 2, timeout=120, every=0.2)
    said = desk.mixer("stop", "sub", "--store", desk.store)
    assert re.search(r"stopped at step \d+", said)
    status = desk.status("sub")
    assert status["state"] == "stopped"
    assert 0 < status["step"] < 400
    assert "sub" in desk.mixer("ls", "--store", desk.store)
    assert "not there" not in desk.mixer("logs", "sub", "--store", desk.store)
    desk.mixer("submit", "sub", "--store", desk.store, "--set", "workers.max=2")
    assert desk.status("sub")["state"] in ("submitted", "running")
    desk.mixer("logs", "sub", "-f", "--store", desk.store, timeout=120)
    status = desk.status("sub")
    assert (status["state"], status["step"], status["last_checkpoint"][:21]) == (
        "finished",
        400,
        "checkpoints/000000040",
    )
    assert sum(status["ledger"].values()) == pytest.approx(status["wall_s"], rel=0.02)
    assert [e for e in desk.log("sub") if e["kind"] == "request" and e["asks"] == "scale"]
    _no_secret_in(desk.store, rclone_store)
    job = json.dumps(_job_details(desk, facts["job"]))
    assert rclone_store.secret_key not in job
    assert rclone_store.access_key not in job


def _job_details(desk: Desk, job: str) -> Any:
    probe = (
        "import json, sys; from ray.job_submission import JobSubmissionClient as C; import os\n"
        "t = open(os.environ['RAY_AUTH_TOKEN_PATH']).read().strip()\n"
        "c = C(os.environ['RAY_API_SERVER_ADDRESS'], headers={'Authorization': 'Bearer ' + t})\n"
        "print(json.dumps([str(c.get_job_info(sys.argv[1])), c.get_job_logs(sys.argv[1])]))"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", probe, job],
        env=desk.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(out.stdout.splitlines()[-1])


def _no_secret_in(store: str, server: ObjectStore) -> None:
    from data_pipeline.storage import open_store

    bucket = open_store(store)
    for info in bucket.list():
        if info.key.endswith((".json", ".jsonl", ".yaml")):
            text = bucket.get(info.key).decode()
            assert server.secret_key not in text, info.key
            assert server.access_key not in text, info.key


def test_a_node_that_loses_power_costs_a_worker_not_the_run(desk: Desk) -> None:
    """Two workers on three nodes; one worker's node dies; the run goes on with what is left."""
    process = desk.start(
        "train",
        desk.spec,
        "--store",
        desk.store,
        "--name",
        "power",
        "--set",
        "train.steps=1000000",
        "--set",
        "checkpoint.every=8 s",
        "--set",
        "workers.max=2",
    )
    try:
        saved = "checkpoint committed"
        wait_for(lambda: [e for e in desk.log("power") if e["kind"] == saved], timeout=90, every=0.2)
        time.sleep(1)  # long before the next save, and time enough for the copy
        local.cut_power(CLUSTER, 1)
        wait_for(lambda: _starts(desk, "power") >= 2, timeout=90, every=0.5)
        wait_for(lambda: _steps_of_its_own(desk, "power") >= 5, timeout=90, every=0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        _end(process)
    local.add_node(CLUSTER, cpus=1, env={key: desk.env[key] for key in desk.env if key.startswith("AWS_")})
    assert process.returncode == 3, out
    ended = [entry for entry in desk.log("power") if entry["kind"] == "attempt ended"]
    assert ended[0]["outcome"] == "lost", ended
    started = [entry for entry in desk.log("power") if entry["kind"] == "attempt started"]
    assert [entry["world"] for entry in started] == [2, 1]
    assert started[1]["step"] > 0
    assert desk.status("power")["state"] == "stopped"
    loaded = [event for event in _events(desk, "power") if event["kind"] == "loaded"]
    assert {"here", "far"} >= loaded[0].keys() - {"t", "kind", "attempt", "rank"}, (
        loaded
    )  # none from the bucket


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_and_leave_with_3(desk: Desk, number: signal.Signals) -> None:
    name = f"sig{number.value}"
    process = desk.start(
        "train", desk.spec, "--store", desk.store, "--name", name, "--set", "train.steps=1000000"
    )
    try:
        wait_for(lambda: _has_step(desk, name, 5), timeout=90, every=0.3)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    finally:
        _end(process)
    assert process.returncode == 3, out
    status = desk.status(name)
    assert status["state"] == "stopped"
    assert status["last_checkpoint"].startswith(f"checkpoints/{status['step']:010d}-")


def test_a_driver_that_is_killed_leaves_a_run_that_resumes_at_once(desk: Desk) -> None:
    process = desk.start(
        "train", desk.spec, "--store", desk.store, "--name", "gone", "--set", "train.steps=400"
    )
    try:
        wait_for(
            lambda: [e for e in desk.log("gone") if e["kind"] == "checkpoint committed"],
            timeout=90,
            every=0.3,
        )
    finally:
        _end(process)
    assert desk.status("gone")["state"] == "abandoned"
    began = time.time()
    desk.mixer("train", "gone", "--store", desk.store)
    status = desk.status("gone")
    assert status["state"] == "finished"
    assert status["ledger"]["nobody"] > 0
    assert sum(status["ledger"].values()) == pytest.approx(status["wall_s"], rel=0.02)
    assert status["wall_s"] > time.time() - began - 30


LEFTOVER = """
import ray
from clusters import capacity
capacity.connect()
group = ray.util.placement_group([{"CPU": 1.0}])
assert group.wait(30)
print("FREED", capacity.free_leftovers(), capacity.free_leftovers())
"""


def test_room_that_a_dead_attempt_still_holds_is_given_back(desk: Desk) -> None:
    out = _in_cluster(desk, LEFTOVER)
    assert "FREED 1 0" in out


TOO_MANY = """
import time
from orchestrator.on_ray.machines import RayMachines
from orchestrator.spec import Workers
workers = Workers(max=9)
machines = RayMachines(workers)
attempt = machines.attempt("x", 9, workers, {"attempt": 1})
attempt.start()
began = time.monotonic()
while (outcome := attempt.poll()) is None and time.monotonic() < began + 40:
    attempt.wait(0.5)
print("ENDED", outcome, time.monotonic() - began < 20)
machines.release()
"""


def test_workers_for_which_a_node_is_gone_are_not_waited_for(desk: Desk) -> None:
    """Ray would wait a minute for their room; a node may go between the count and the placing."""
    out = _in_cluster(desk, TOO_MANY)
    assert "kind='lost', cause='9 workers to place, room for " in out
    assert out.rstrip().endswith("True")


COPIED = """
import os, time
import ray
from clusters import capacity
from orchestrator.near.client import Near
from orchestrator.on_ray.agents import Agents
from orchestrator.on_ray.desk import Line
from orchestrator.training.warm_files import near_socket_of

class Nothing:
    def read_into(self, key, start, buffers):
        raise LookupError("the bucket was asked")

def wait_for(true):
    until = time.monotonic() + 40
    while not true():
        assert time.monotonic() < until, true
        time.sleep(0.1)

def took(near):
    source, got = near.over(Nothing(), PATH, [FILE]), bytearray(len(data))
    for start in range(0, len(data), 5 << 20):
        piece = memoryview(got)[start : start + (5 << 20)]
        source.read_into(f"{PATH}/{FILE}", start, [piece])
    assert got == data
    return "+".join(source.took)

PATH, FILE, data = "checkpoints/0000000005-1", "rank-00000.safetensors", os.urandom(40 << 20)
capacity.connect()
token, line = "test", Line()
agents = Agents(line.desk, token, ["cpu"])
nodes = sorted(capacity.living_nodes())[:3]
agents.tend(set(nodes))
wait_for(lambda: all(os.path.exists(near_socket_of(node, token)) for node in nodes))
first, second, third = (Near(near_socket_of(node, token)) for node in nodes)
ray.get([agents._actors[node].meet.remote(agents._actors) for node in nodes])
first.begin(FILE, len(data)), first.write(data)
assert first.hold(PATH)
wait_for(lambda: ray.get(agents._actors[nodes[1]].near_files.remote(PATH)))
said = [took(first), took(second), took(third)]
ray.kill(agents._actors[nodes[0]])
said.append(took(third))
agents.tend(set(nodes[1:]))
ray.get([agents._actors[node].meet.remote(agents._actors) for node in nodes[1:]])
print("TOOK", *said, took(third), flush=True)
agents.close()
"""


def test_what_a_node_holds_is_on_the_next_one_too_and_a_third_one_can_read_it(desk: Desk) -> None:
    """Also when the first one has gone, and when all have been told that it has."""
    missing = 3 - _living(desk)
    for _ in range(missing):
        local.add_node(
            CLUSTER, cpus=1, env={key: desk.env[key] for key in desk.env if key.startswith("AWS_")}
        )
    assert "TOOK here here far far far" in _in_cluster(desk, COPIED)


def _living(desk: Desk) -> int:
    program = "from clusters import capacity as c; c.connect(); print('LIVING', len(c.living_nodes()))"
    return int(_in_cluster(desk, program).rpartition("LIVING")[2])


def _in_cluster(desk: Desk, program: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program]
    out = subprocess.run(
        command, env=desk.env, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


def _events(desk: Desk, run: str) -> list[dict[str, Any]]:
    from orchestrator.run_store import Run
    from orchestrator.training.events import read_events

    return list(read_events(Run(f"{desk.store}/runs/{run}").store))


def _has_step(desk: Desk, run: str, step: int) -> bool:
    from orchestrator.run_store import Run
    from orchestrator.watch import newest_progress

    return bool(newest_progress(Run(f"{desk.store}/runs/{run}")).get("step", 0) >= step)


def _world(desk: Desk, run: str) -> int:
    from orchestrator.run_store import Run
    from orchestrator.watch import newest_progress

    return int(newest_progress(Run(f"{desk.store}/runs/{run}")).get("world_size", 0))


def _steps_of_its_own(desk: Desk, run: str) -> int:
    """That the newest attempt has done."""
    from orchestrator.run_store import Run

    began = [entry for entry in desk.log(run) if entry["kind"] == "attempt started"][-1]
    told = Run(f"{desk.store}/runs/{run}").read_json(f"progress/{began['n']}.json") or {}
    return int(told.get("step", 0)) - int(began["step"])


def _starts(desk: Desk, run: str) -> int:
    return sum(entry["kind"] == "attempt started" for entry in desk.log(run))


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(timeout=20)
    if process.stdout:
        process.stdout.close()
