"""A node under clusters.node: a signal becomes a notice, the child goes on for its grace, and its exit code is the node's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from clusters.local_node import LOOPBACK
from clusters.notices import Notice, Watcher
from clusters.processes import Process, end, marked, without_proxy
from tests.runs import wait_for

ROOT = Path(__file__).parents[2]
CHILD = """
import os, signal, sys, time
def leave(number, frame):
    print("asked", flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
print("up", os.getpid(), signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN, flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
print("own end", flush=True)
sys.exit(5)
"""
ORPHAN = """
import os
if not os.fork():
    if not os.fork():
        print("orphan", os.getpid(), flush=True)
    os._exit(0)
os.wait()
"""
DEAF = CHILD.replace('    print("asked", flush=True)\n    sys.exit(7)', '    print("asked", flush=True)')


class Node:
    """clusters.node with a child that ends with 7 when asked, with 5 when the file `end` is there."""

    def __init__(self, folder: Path, *options: str, child: str = CHILD, wrap: str = "") -> None:
        self.folder, self.end = folder, folder / "end"
        command = [*options, "--", sys.executable, "-c", child, str(self.end)]
        start = ["-c", wrap] if wrap else ["-m", "clusters.node"]
        with (folder / "out").open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *start, *command], env={**os.environ}, stdout=out, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return (self.folder / "out").read_text()

    def up(self) -> Process:
        wait_for(lambda: "up" in self.said and self.said.count("\n"), timeout=30)
        return Process.of(int(self.said.split()[1]))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(timeout=60)


Maker = Callable[..., Node]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    monkeypatch.setenv("MIXER_NOTICE_DIR", str(tmp_path / "notices"))
    monkeypatch.setenv("MIXER_NOTICES", "file")
    monkeypatch.setenv("MIXER_NODE", "here")
    made: list[Node] = []

    def make(*options: str, **more: str) -> Node:
        made.append(Node(tmp_path, *options, **more))
        return made[-1]

    yield make
    for each in made:
        each.end.touch()
        each.process.kill()
        each.wait()


def heard(watcher: Watcher) -> Notice:
    told: list[Notice] = []

    def listen() -> bool:
        told.extend(watcher.take())
        return bool(told)

    wait_for(listen, timeout=30)
    assert len(told) == 1
    return told[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_told_and_the_child_goes_on_until_it_is_done(
    node: Maker, number: signal.Signals, tmp_path: Path
) -> None:
    made = node("--grace", "100")
    child = made.up()
    assert "True" in made.said  # SIGUSR1 to all of a step must not end the raylet
    with closing(Watcher("n1")) as watcher:
        before = time.time()
        made.signal(number)
        notice = heard(watcher)
    assert notice.cause == f"{number.name} of the node"
    assert notice.deadline is not None
    assert before + 100 <= notice.deadline <= time.time() + 100
    assert child.alive()
    made.end.touch()
    assert made.wait() == 5
    assert "asked" not in made.said
    assert not list((tmp_path / "notices").rglob("*.json"))  # no news for the next node of this name


def test_when_the_grace_is_over_the_child_is_asked(node: Maker) -> None:
    made = node("--grace", "0.5")
    child = made.up()
    made.signal(signal.SIGTERM)
    assert made.wait() == 7
    assert "asked" in made.said
    assert not child.alive()


def test_the_second_signal_ends_the_grace_and_a_doubled_first_does_not(node: Maker) -> None:
    made = node("--grace", "100")
    child = made.up()
    made.signal(signal.SIGUSR1)
    made.signal(signal.SIGTERM)  # at the same moment: one warning told twice
    time.sleep(1.5)
    assert child.alive()
    made.signal(signal.SIGTERM)
    assert made.wait() == 7


def test_sigint_ends_it_at_once(node: Maker) -> None:
    made = node()
    made.up()
    made.signal(signal.SIGINT)
    assert made.wait() == 7


def test_a_deaf_child_is_killed(node: Maker) -> None:
    wrap = "import sys; from clusters import node; node.END_S = 0.5; sys.exit(node.main())"
    made = node(child=DEAF, wrap=wrap)
    child = made.up()
    made.signal(signal.SIGINT)
    assert made.wait() == 128 + signal.SIGKILL
    assert not child.alive()


def test_the_code_is_the_childs(node: Maker) -> None:
    made = node()
    made.end.touch()
    assert made.wait() == 5
    killed = node()
    killed.end.unlink()
    child = killed.up()
    child.signal(signal.SIGKILL)
    assert killed.wait() == 128 + signal.SIGKILL


def test_the_child_does_not_outlive_a_killed_node(node: Maker) -> None:
    made = node()
    child = made.up()
    made.process.kill()
    wait_for(lambda: not child.alive(), timeout=30)
    assert "asked" in made.said


def test_orphans_are_reaped(node: Maker) -> None:
    """As for process 1 of a container: what loses its parent becomes ours."""
    wrap = (
        "import ctypes, sys; ctypes.CDLL(None).prctl(36, 1); from clusters import node; sys.exit(node.main())"
    )
    made = node(child=ORPHAN + CHILD, wrap=wrap)
    wait_for(lambda: "orphan" in made.said and "up" in made.said, timeout=30)
    number = int(made.said.split("orphan ")[1].split()[0])
    wait_for(lambda: not Path(f"/proc/{number}").exists(), timeout=30)
    made.end.touch()
    assert made.wait() == 5


def test_without_a_place_for_notices_the_child_still_gets_its_grace(
    node: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notices").write_text("in the way")
    made = node("--grace", "100")
    child = made.up()
    made.signal(signal.SIGTERM)
    wait_for(lambda: "could not tell" in made.said, timeout=30)
    assert child.alive()
    made.end.touch()
    assert made.wait() == 5


DRIVER = """
import json, ray, sys, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=0)
class Agent:
    def __init__(self):
        from clusters.notices import Watcher
        self.watcher = Watcher(ray.get_runtime_context().get_node_id())
    def take(self):
        return [vars(notice) for notice in self.watcher.take()]
agent = Agent.remote()
ray.get(agent.take.remote())
print("watching", flush=True)
while not (told := ray.get(agent.take.remote())):
    time.sleep(0.1)
print(json.dumps({"told": told, "nodes": [node["NodeID"] for node in ray.nodes() if node["Alive"]]}), flush=True)
"""


@pytest.mark.ray
def test_a_raylet_is_warned_and_ends_in_order(tmp_path: Path) -> None:
    """An actor on the node hears of its SIGTERM while Ray goes on; after the second one nothing of Ray is left."""
    temp = Path(tempfile.mkdtemp(prefix="mixer-ray-", dir="/tmp"))
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MIXER_"))}
    places = {
        "MIXER_NOTICE_DIR": str(tmp_path / "notices"),
        "MIXER_NOTICES": "file",
        "TEST_NODE_MARK": str(tmp_path),
    }
    env = ours | without_proxy() | LOOPBACK | places | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    ray_start = [sys.executable, "-P", str(ROOT / "clusters" / "local_node.py"), "start", "--head", "--block"]
    ray_start += ["--disable-usage-stats", "--port", "0", "--include-dashboard", "false", "--num-cpus", "1"]
    ray_start += [
        "--node-ip-address",
        "127.0.0.1",
        "--object-store-memory",
        "100000000",
        "--temp-dir",
        str(temp),
    ]
    node = [sys.executable, "-m", "clusters.node", "--grace", "100", "--", *ray_start]
    try:
        with (tmp_path / "out").open("wb") as out:
            head = subprocess.Popen(node, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
        written = temp / "ray_current_cluster"
        wait_for(lambda: written.exists() or head.poll() is not None, timeout=60)
        address = {"RAY_ADDRESS": written.read_text().strip()}
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DRIVER],
            cwd=ROOT, env=env | address, stdout=subprocess.PIPE, text=True,
        ) as driver:  # fmt: skip
            assert driver.stdout is not None
            assert driver.stdout.readline() == "watching\n"
            head.send_signal(signal.SIGTERM)
            heard = json.loads(driver.stdout.readline())
            assert driver.wait(timeout=60) == 0
        (notice,) = heard["told"]
        assert heard["nodes"] == [notice["node"]]
        assert (notice["cause"], notice["source"]) == ("SIGTERM of the node", "file")
        assert head.poll() is None
        time.sleep(1)
        head.send_signal(signal.SIGTERM)
        assert head.wait(timeout=60) == 1  # what `ray start` ends with after SIGTERM
        wait_for(lambda: not marked("TEST_NODE_MARK", str(tmp_path)), timeout=30)
    finally:
        end(marked("TEST_NODE_MARK", str(tmp_path)), grace_s=5)
        shutil.rmtree(temp, ignore_errors=True)
