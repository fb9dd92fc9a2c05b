"""A real local cluster, end to end: up, a job with our code, its logs, a stop that leaves time to save, a
lost node, down.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters import jobs, local
from clusters.local import Cluster, ClusterError
from clusters.local_start import alive_nodes
from clusters.processes import wait_until
from clusters.settings import DRIVER

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

SAVES_SLOWLY = """
import signal, sys, time
def save(*_):
    print("saving", flush=True); time.sleep(5); print("saved", flush=True); sys.exit(3)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes; afterwards nothing of it is left, neither a process nor a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXER_HOME", str(tmp_path_factory.mktemp("home")))
        cluster = local.up(nodes=2, cpus=1)
        try:
            for name, value in local.env_for().items():
                patch.setenv(name, value)
            yield cluster
        finally:
            assert local.down()
        assert cluster.processes() == []
        assert not cluster.temp.exists()
        assert local.state() is None
        assert not local.down()


@pytest.mark.skipif(shutil.which("ss") is None, reason="no ss (iproute2): run `make test-deps`")
def test_it_listens_on_loopback_only_and_hides_its_token(cluster: Cluster) -> None:
    ours = {process.pid for process in cluster.processes()}
    sockets = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    lines = [line for line in sockets.splitlines() if any(f"pid={pid}," in line for pid in ours)]
    assert lines
    assert [line for line in lines if "127.0.0.1" not in line.split()[3]] == []
    assert stat.S_IMODE(cluster.token_file.stat().st_mode) == 0o600
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert cluster.token_file.read_text() not in listing


def test_a_second_of_the_same_name_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="mixer cluster down local"):
        local.up()
    assert local.names() == ["local"]


def test_a_job_brings_its_code(cluster: Cluster, tmp_path: Path) -> None:
    code = jobs.pack_code(tmp_path / "code")
    (code / "say.py").write_text(
        "import clusters, os; print('from', clusters.__file__, os.environ['COLOUR'])"
    )
    job = jobs.submit(
        cluster.dashboard,
        "python say.py",
        working_dir=code,
        env={"COLOUR": "green"},
        submission_id="say-1",
        metadata={"run": "digits-1"},
    )
    said = "".join(jobs.follow(cluster.dashboard, job))
    over = jobs.wait(cluster.dashboard, job, 60)
    assert (over.id, over.state, over.exit_code, over.metadata["run"]) == (
        "say-1",
        "SUCCEEDED",
        0,
        "digits-1",
    )
    assert "green" in said
    assert str(cluster.temp) in said  # imported from the uploaded copy
    assert said == jobs.logs(cluster.dashboard, job)
    with pytest.raises(jobs.AlreadySubmitted):
        jobs.submit(cluster.dashboard, "true", submission_id="say-1")
    assert [one.id for one in jobs.jobs(cluster.dashboard)] == ["say-1"]


def test_a_stopped_job_has_time_to_save(cluster: Cluster) -> None:
    job = jobs.submit(cluster.dashboard, f"python -c '{SAVES_SLOWLY}'", submission_id="slow-1")
    # Whole lines: Ray prints the command itself first. Following ends here, the job does not.
    assert any("ready" in piece.splitlines() for piece in jobs.follow(None, job))
    began = time.monotonic()
    assert jobs.stop(cluster.dashboard, job)
    assert jobs.wait(cluster.dashboard, job, 60).state == "STOPPED"
    assert time.monotonic() - began > 4
    assert "saved" in jobs.logs(cluster.dashboard, job).splitlines()
    assert not jobs.stop(cluster.dashboard, job)


def test_a_failing_job_tells_its_exit_code(cluster: Cluster) -> None:
    job = jobs.submit(None, "exit 7")
    over = jobs.wait(None, job, 60)
    assert (over.state, over.exit_code) == ("FAILED", 7)


def test_errors_say_which(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(jobs.NoSuchJob):
        jobs.status(cluster.dashboard, "nobody")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(jobs.NotAllowed, match="RAY_AUTH_TOKEN_PATH"):
        jobs.jobs(cluster.dashboard)
    with pytest.raises(jobs.Unreachable, match="is the cluster up"):
        jobs.jobs("http://127.0.0.1:9")


def test_a_driver_uses_both_nodes_and_sees_one_go(cluster: Cluster) -> None:
    code = (
        "import ray, json; from clusters import local; ray.init(log_to_driver=False, logging_level='ERROR')\n"
        "f = ray.remote(num_cpus=1, scheduling_strategy='SPREAD')(lambda: __import__('time').sleep(2)\n"
        "    or ray.get_runtime_context().get_node_id())\n"
        "print(len(set(ray.get([f.remote(), f.remote()]))), int(ray.cluster_resources()['CPU']))"
    )
    env = os.environ | {"PYTHONPATH": str(Path(local.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["2", "2"], done.stderr
    local.cut_power("local", 1)
    began = time.monotonic()
    wait_until(lambda: alive_nodes(cluster) == 1, 30, "the lost node to be noticed", every_s=0.2)
    assert time.monotonic() - began < 20
    assert local.add_node(cpus=2).index == 1
    told = local.state()
    assert told is not None
    assert alive_nodes(told) == 2


def test_the_address_of_ray_init_will_do(cluster: Cluster) -> None:
    code = "import sys; from clusters import jobs; print(len(jobs.jobs(sys.argv[1])))"
    env = os.environ | {"PYTHONPATH": str(Path(local.__file__).parents[1])}
    command = [sys.executable, "-c", code, cluster.address]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(len(jobs.jobs(cluster.dashboard))), done.stderr


def test_cluster_json_has_no_secret(cluster: Cluster) -> None:
    text = (cluster.folder / "cluster.json").read_text()
    assert cluster.token_file.read_text() not in text
    assert json.loads(text)["dashboard"] == cluster.dashboard


def test_a_tied_cluster_dies_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXER_HOME", str(tmp_path))
    code = "import os; from clusters import local; local.up(tied=True); os.kill(os.getpid(), 9)"
    env = os.environ | {"PYTHONPATH": str(Path(local.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=env, timeout=100, check=False)
    orphan = local.state()
    assert orphan is not None
    wait_until(lambda: not orphan.processes(), 30, "the cluster to follow its parent", every_s=0.2)
    assert local.up().running()  # the files of the dead one are in nobody's way
    assert local.down()
    assert not orphan.temp.exists()


TICKS = """
import os, sys, time
with open(sys.argv[1], "a") as file:
    for tick in range(30):
        print(os.getpid(), tick, file=file, flush=True); time.sleep(1)
"""


def test_a_durable_head_that_died_comes_back_to_its_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job with its driver off the head runs through: the same process, counting on."""
    monkeypatch.setenv("MIXER_HOME", str(tmp_path))
    with local.running(nodes=1, cpus=1, durable=True) as cluster:
        assert [node.cpus for node in cluster.nodes] == [0, 1]
        env = local.env_for()
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ClusterError, match="no head to restart"):
            local.restart_head()
        ticks, command = tmp_path / "ticks", f"python -c '{TICKS}' {tmp_path / 'ticks'}"
        job = jobs.submit(None, command, submission_id="t-1", entrypoint_resources={DRIVER: 1})
        wait_until(lambda: ticks.exists() and ticks.read_text(), 60, "the job to run", every_s=0.5)
        local.cut_power("local", 0)
        assert not cluster.running()
        time.sleep(5)
        again = local.up(nodes=1, cpus=1, durable=True)  # the same command: the head only
        assert (again.address, again.dashboard) == (cluster.address, cluster.dashboard)
        assert again.nodes[1] == cluster.nodes[1]
        assert jobs.wait(None, job, 90).state == "SUCCEEDED"
        told = [line.split() for line in ticks.read_text().splitlines()]
        assert told == [[told[0][0], str(tick)] for tick in range(30)]


def test_what_does_not_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXER_HOME", str(tmp_path))
    with pytest.raises(ClusterError, match="the Ray head ended at once"):
        local.up(env={"RAY_AUTH_TOKEN_PATH": "/nowhere"})
    assert local.names() == []


@pytest.mark.parametrize(("name", "said"), [("../x", "no cluster name"), ("gone", "mixer cluster up local")])
def test_names_that_will_not_do(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXER_HOME", str(tmp_path))
    with pytest.raises(ClusterError, match=said):
        local.env_for(name)


def test_importing_clusters_imports_no_ray() -> None:
    heavy = "{'ray', 'boto3', 'torch'}"
    code = f"import sys; from clusters import jobs, local, object_store; print({heavy} & {{*sys.modules}})"
    env = os.environ | {"PYTHONPATH": str(Path(local.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "set()", done.stderr
