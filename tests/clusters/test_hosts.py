"""The hosts of the tests: they reach one another and nobody else, lose power whole, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters.processes import wait_until
from tests import hosts as hosts_module
from tests.hosts import NETNS, Host, Hosts, hosts, reason_missing, sweep

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(reason_missing() is not None, reason=reason_missing() or "they can be"),
]

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as server:
    print("ready", flush=True)
    while True:
        peer, _ = server.accept()
        with peer: peer.sendall(b"hello")
"""
TRY = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1.5) as peer: print(peer.recv(9).decode())
except OSError as error:
    print("unreachable")
"""
# A child of a child that outlives its parent, in a session of its own, deaf to SIGTERM.
DAEMON = "trap '' TERM; python3 -c 'import signal; signal.signal(15, signal.SIG_IGN); signal.pause()' >/dev/null 2>&1 & exit 0"


@pytest.fixture
def group() -> Iterator[Hosts]:
    with hosts(2) as made:
        yield made


def serve(host: Host) -> subprocess.Popen[str]:
    process = host.run([sys.executable, "-c", SERVE, host.ip], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


def reach(host: Host, ip: str, port: int = 7000) -> str:
    return host.ask(sys.executable, "-c", TRY, ip, str(port)).strip()


def test_a_host_has_things_of_its_own(group: Hosts) -> None:
    assert group[1].ask("hostname").strip() == "h1"
    group[0].ask("sh", "-c", "echo 0 > /tmp/ray/x; echo 0 > /dev/shm/x")
    assert group[1].ask("sh", "-c", "ls /tmp/ray /dev/shm | grep -c x || true").strip() == "0"
    assert not Path("/dev/shm/x").exists()
    assert len(group[1].ask("sh", "-c", "echo /proc/[0-9]*").split()) == 2  # init and sh
    assert group[1].ask("sh", "-c", "getent hosts h0 | cut -d' ' -f1").strip() == group[0].ip
    assert group[1].ask("sh", "-c", "echo $A", env={"A": "b", "PATH": os.defpath}).strip() == "b"


def test_hosts_reach_one_another_and_nobody_else(group: Hosts) -> None:
    with socket.create_server(("0.0.0.0", 0)) as outside, serve(group[0]) as server:
        port = outside.getsockname()[1]
        assert reach(group[1], group[0].ip) == "hello"
        for own in ("127.0.0.1", *_addresses()):
            assert reach(group[1], own, port) == "unreachable"
        server.terminate()
        assert server.wait(10) == 128 + signal.SIGTERM


def test_a_server_outside_is_reached_where_it_asks_to_be(group: Hosts) -> None:
    with (
        group[0].listen(7000) as server,
        group[1].run([sys.executable, "-c", TRY, group[0].ip, "7000"], stdout=subprocess.PIPE) as process,
    ):
        peer, _ = server.accept()
        peer.sendall(b"let in")
        peer.close()
        out, _ = process.communicate(timeout=20)
    assert out == "let in\n"


def test_a_cut_cable_hides_a_host_that_runs_on(group: Hosts) -> None:
    with serve(group[0]) as server:
        group[0].cut()
        assert reach(group[1], group[0].ip) == "unreachable"
        assert server.poll() is None
        group[0].heal()
        assert reach(group[1], group[0].ip) == "hello"
        server.kill()


def test_power_off_ends_everything_and_boot_brings_the_disk_back(group: Hosts) -> None:
    group[0].ask("sh", "-c", "echo kept > /tmp/ray/disk; echo lost > /dev/shm/memory")
    group[0].ask("setsid", "sh", "-c", DAEMON)
    with serve(group[0]) as server:
        wait_until(lambda: len(group[0].processes()) == 2, 10, "the daemon and the server to run")
        inside = group[0].processes()
        group[0].power_off()
        assert server.wait(10) == 128 + signal.SIGKILL
    assert [pid for pid in inside if Path(f"/proc/{pid}").exists()] == []
    assert reach(group[1], group[0].ip) == "unreachable"
    with pytest.raises(RuntimeError, match=r"boot\(\) it first"):
        group[0].run(["true"])
    group[0].boot()
    assert group[0].ask("sh", "-c", "cat /tmp/ray/disk; ls /dev/shm").strip() == "kept"
    with serve(group[0]) as server:
        assert reach(group[1], group[0].ip) == "hello"
        server.kill()


def test_nothing_is_left_afterwards() -> None:
    with hosts(2) as group:
        prefix, folder = group.prefix, group.folder
        group[0].ask("setsid", "sh", "-c", DAEMON)
        inside = group[0].processes()
        assert inside
    assert not folder.exists()
    assert list(NETNS.glob(f"{prefix}*")) == []
    assert [pid for pid in inside if Path(f"/proc/{pid}").exists()] == []


def test_a_crash_leaves_only_what_sweep_removes(group: Hosts) -> None:
    code = (
        "import os; from tests.hosts import Hosts; g = Hosts(2); g.boot(); print(g.prefix, flush=True);"
        "g[0].run(['sleep', '1000']); print(*g[0].processes()); os._exit(9)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=50, check=False)
    prefix, *_ = done.stdout.split()
    processes = f"{prefix}-h"

    def running() -> list[str]:
        lines = [_command(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [line for line in lines if processes in line]

    wait_until(lambda: not running(), 20, "the hosts to follow their owner")
    left = sweep()
    assert prefix in left
    assert f"{prefix}-sw" in left
    assert list(NETNS.glob(f"{prefix}*")) == []
    assert group[0].ask("hostname").strip() == "h0"  # what lives is not swept


def test_the_count_is_bounded() -> None:
    with pytest.raises(ValueError, match="allowed are 1 to 12"):
        Hosts(hosts_module.MOST + 1)


def _command(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text()
    except OSError:
        return ""


def _addresses() -> list[str]:
    told = subprocess.run(["hostname", "-I"], capture_output=True, text=True, timeout=10, check=False)
    return [word for word in told.stdout.split() if ":" not in word]
