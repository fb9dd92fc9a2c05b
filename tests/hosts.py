"""Real hosts on one machine: namespaces of their own for network, mounts, processes, names and shared memory.

The chain: `hosts(3)` sweeps what dead test runs left -> a bridge in a network namespace of its own, with no
link to the outside -> each `Host` boots: a namespace and a cable to the bridge, then an init (host_init.py)
with its own /tmp/ray, /dev/shm, /proc and /etc/hosts -> `run` starts programs in it -> `power_off` kills
everything in it at once, and silently: the cable goes first, so that no peer hears a goodbye -> `boot`
brings it back with the same address and disk. Leaving the block removes everything; a crash leaves only
names that carry the pid of the dead, for the next `sweep`.

The file system is shared. There is a default route that leads nowhere, as programs ask for one to learn
their own address. Wants root and iproute2: `reason_missing` says what is not there.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clusters.processes import Process, wait_until
from tests import host_init

MOST = 12  # hosts in a group
BOOT_TIMEOUT_S = 20.0
NETNS = Path("/run/netns")
PREFIX = "mixerhosts"
_numbers = itertools.count(1)


def reason_missing() -> str | None:
    """Why there can be no hosts here, None when there can."""
    if sys.platform != "linux":
        return "hosts want Linux namespaces"
    if shutil.which("ip", path=_path()) is None:
        return "hosts want iproute2 (`ip`): run `make test-deps`"
    if os.geteuid() != 0:
        return "hosts want root, for namespaces"
    probe = f"{PREFIX}-{_owner()}-probe"
    made = _ip("netns", "add", probe, check=False)
    _ip("netns", "del", probe, check=False)
    return f"no network namespaces here: {made.stderr.strip()}" if made.returncode else None


class Host:
    """One host: `name` (also its host name), `ip`, and `folder` with its disk (/tmp/ray)."""

    def __init__(self, index: int, group: Hosts) -> None:
        self.index, self.name, self.ip = index, f"h{index}", f"10.77.0.{10 + index}"
        self.folder = group.folder / self.name
        self.namespace = f"{group.prefix}-{self.name}"
        self._switch = group.switch
        self._keeper: subprocess.Popen[bytes] | None = None
        self._init = Process(0, -1)
        (self.folder / "ray").mkdir(parents=True)

    @property
    def alive(self) -> bool:
        """Whether it has power."""
        return self._init.alive()

    def boot(self) -> None:
        """Power on, plugged in; returns when programs can run in it. Fine when it is on already."""
        if self.alive:
            return
        self._wire()
        (self.folder / "ready").unlink(missing_ok=True)
        keeper = [sys.executable, "-I", "-S", host_init.__file__, "boot", self.namespace, self.name]
        # Its end of the pipe is all that keeps the host on: it goes with this process, however that ends.
        self._keeper = subprocess.Popen([*keeper, str(self.folder)], stdin=subprocess.PIPE, cwd="/")
        told = wait_until(self._told, BOOT_TIMEOUT_S, f"host {self.name} to boot", every_s=0.01)
        self._init = Process.of(int(told))

    def power_off(self) -> None:
        """Everything in it ends at once, and no peer is told. Fine when it is off already."""
        self._unplug()
        if self._keeper is not None and self._keeper.stdin is not None:
            self._init.signal(signal.SIGKILL)
            self._keeper.stdin.close()
            self._keeper.wait(BOOT_TIMEOUT_S)  # it waits for the last process of the host
        self._keeper, self._init = None, Process(0, -1)
        _ip("netns", "del", self.namespace, check=False)

    def cut(self) -> None:
        """Unplug the cable: it runs on, and hears and says nothing."""
        _ip("-n", self._switch, "link", "set", self.name, "down")

    def heal(self) -> None:
        """Plug the cable in again."""
        _ip("-n", self._switch, "link", "set", self.name, "up")

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a program in it, as Popen (text) with `options`. Signals to the handle reach the program; its
        end by a signal reads as 128 + number. env: the whole environment, else ours.
        """
        if not self.alive:
            raise RuntimeError(f"host {self.name} is off; boot() it first")
        enter = [sys.executable, "-I", "-S", host_init.__file__, "enter", str(self._init.pid), *argv]
        return subprocess.Popen(enter, env=None if env is None else dict(env), text=True, **options)

    def ask(self, *argv: str, env: Mapping[str, str] | None = None, timeout_s: float = 30.0) -> str:
        """Run a program to its end; what it wrote. AssertionError when it fails."""
        with self.run(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                out, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0, f"{argv} on {self.name} gave {process.returncode}:\n{out}"
        return out

    def processes(self) -> list[int]:
        """Pids, as seen from outside, of what runs in it; its init is not among them."""
        own = _pid_namespace(self._init.pid)
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if own and pid != self._init.pid and _pid_namespace(pid) == own]

    def listen(self, port: int) -> socket.socket:
        """A TCP socket of this process that listens at the host's address: how a server outside is reached."""
        made: list[socket.socket] = []

        def make() -> None:  # a namespace is entered by a thread, not by a process
            host_init.enter(str(NETNS / self.namespace), host_init.NEWNET)
            made.append(socket.create_server((self.ip, port)))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def _told(self) -> str:
        ready = self.folder / "ready"
        return ready.read_text() if ready.exists() else ""

    def _wire(self) -> None:
        self._unplug()
        _ip("netns", "del", self.namespace, check=False)
        _ip("netns", "add", self.namespace)
        mac = f"02:00:00:00:00:{10 + self.index:02x}"
        peer = ("type", "veth", "peer", "name", self.name, "netns", self._switch)
        _ip("link", "add", "eth0", "address", mac, "netns", self.namespace, *peer)
        _ip("-n", self._switch, "link", "set", self.name, "master", "br0", "up")
        lines = ("link set lo up", f"addr add {self.ip}/24 dev eth0", "link set eth0 up")
        for line in (*lines, "route add default via 10.77.0.1"):
            _ip("-n", self.namespace, *line.split())

    def _unplug(self) -> None:
        _ip("-n", self._switch, "link", "del", self.name, check=False)


class Hosts:
    """`count` hosts, h0 and up, on one switch. A sequence of Host."""

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MOST:
            raise ValueError(f"hosts got {count}; allowed are 1 to {MOST}")
        self.prefix = f"{PREFIX}-{_owner()}-{next(_numbers)}"
        self.switch = f"{self.prefix}-sw"
        self.folder = Path(tempfile.gettempdir()) / self.prefix
        self.folder.mkdir(mode=0o700)
        self._hosts = [Host(index, self) for index in range(count)]
        names = "".join(f"{host.ip} {host.name}\n" for host in self._hosts)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")

    def __getitem__(self, index: int) -> Host:
        return self._hosts[index]

    def __len__(self) -> int:
        return len(self._hosts)

    def boot(self) -> None:
        """Switch on, then every host."""
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "br0", "up")
        for host in self._hosts:
            host.boot()

    def close(self) -> None:
        """Remove every host and all that is theirs."""
        for host in self._hosts:
            host.power_off()
        _ip("netns", "del", self.switch, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """`count` hosts (1 to 12) that are on and plugged in, for the length of the block. Wants `reason_missing` None."""
    sweep()
    group = Hosts(count)
    try:
        group.boot()
        yield group
    finally:
        group.close()


def sweep() -> list[str]:
    """Remove what test runs left that did not come to their end; the names of it."""
    folders = [*NETNS.glob(f"{PREFIX}-*"), *Path(tempfile.gettempdir()).glob(f"{PREFIX}-*")]
    dead = [path for path in folders if not _owner_lives(path.name)]
    for path in dead:
        if path.parent == NETNS:
            _ip("netns", "del", path.name, check=False)
        else:
            shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in dead)


def _owner() -> str:
    """This process by pid and start time, since pids come again."""
    process = Process.of(os.getpid())
    return f"{process.pid}x{process.started}"


def _owner_lives(name: str) -> bool:
    pid, _, started = name.split("-")[1].partition("x")
    return Process(int(pid), int(started)).alive()


def _pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    env = {"PATH": _path(), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["ip", *arguments], env=env, capture_output=True, text=True, timeout=20)
    if check and done.returncode:
        raise RuntimeError(f"`ip {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"
