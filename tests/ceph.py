"""A real Ceph RGW for the tests: one mon, one osd (memstore), one radosgw, all on 127.0.0.1. About 13 s to
start.

The chain: `missing()` says why it cannot run here -> `running(folder)` writes ceph.conf and a keyring,
makes the monitor's and the osd's stores, starts the three in the foreground as our own children -> waits
for the gateway, makes one user -> `Gateway`. They are ended by pid, and follow this process when it dies.

Known of RGW 16: plain PUT honours If-None-Match atomically, CompleteMultipartUpload ignores it; If-Match
wants the ETag unquoted.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clusters.processes import Process, end, free_port, kill, spawn, tail, wait_until

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
PACKAGES = "ceph-mon ceph-osd radosgw ceph-common"
START_TIMEOUT_S = 90.0

# tcp_nodelay: without it every GET takes 46 ms. cephx: radosgw hangs without. No mgr: it only warns.
CONF = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
public network = 127.0.0.0/8
ms bind ipv6 = false
ms bind msgr1 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
auth allow insecure global id reclaim = true
mon warn on insecure global id reclaim allowed = false
run dir = {folder}/run
crash dir = {folder}/run
admin socket = {folder}/run/$name.$pid.asok
log file = {folder}/log/$name.log
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 1000
mon data avail crit = 1
[mon]
mon data = {folder}/mon
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{rgw_port} tcp_nodelay=1
rgw thread pool size = 64
rgw enable ops log = false
rgw enable usage log = false
rgw run sync thread = false
"""

CAPS = {
    "mon.": ("--cap", "mon", "allow *"),
    "client.admin": ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"),
    "client.rgw": ("--cap", "mon", "allow rw", "--cap", "osd", "allow rwx"),
    "osd.0": (
        "--cap",
        "mon",
        "allow profile osd",
        "--cap",
        "mgr",
        "allow profile osd",
        "--cap",
        "osd",
        "allow *",
    ),
}


@dataclass(frozen=True)
class Gateway:
    """A running RGW and its one user."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    daemons: dict[str, Process]

    @property
    def env(self) -> dict[str, str]:
        """The AWS_* variables of a client."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_SESSION_TOKEN": "",
        }


def missing() -> str:
    """Why Ceph cannot run here, empty when it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"Ceph RGW is not installed (no {', '.join(absent)}): run `make test-deps`" if absent else ""


@contextmanager
def running(folder: Path) -> Iterator[Gateway]:
    """A gateway with its data under `folder`, for the length of the block. `folder` must be short (unix
    sockets).
    """
    daemons: dict[str, Process] = {}
    try:
        yield _up(folder, daemons)
    finally:
        end([daemons[name] for name in ("rgw",) if name in daemons], grace_s=5)
        kill(daemons.values())  # the data is thrown away: no need to wait for an orderly end


def _up(folder: Path, daemons: dict[str, Process]) -> Gateway:
    rgw_port = free_port()
    _write_configuration(folder, rgw_port)
    daemons["mon"] = _start(folder, "ceph-mon", "-i", "a")
    _make_osd(folder)
    daemons["osd"] = _start(folder, "ceph-osd", "-i", "0")
    daemons["rgw"] = _start(folder, "radosgw", "-n", "client.rgw")
    endpoint = f"http://127.0.0.1:{rgw_port}"
    try:
        wait_until(lambda: _answers(endpoint), START_TIMEOUT_S, "RGW to answer", every_s=0.2)
    except TimeoutError as error:
        logs = "\n".join(tail(log) for log in sorted(folder.glob("*.out")))
        raise RuntimeError(f"Ceph RGW did not start: {error}\n{logs}") from None
    access, secret = secrets.token_hex(10).upper(), secrets.token_hex(20)
    user = ("--uid=test", "--display-name=test", f"--access-key={access}", f"--secret={secret}")
    _call(folder, "radosgw-admin", "-n", "client.rgw", "user", "create", *user)
    return Gateway(endpoint, access, secret, daemons)


def _write_configuration(folder: Path, rgw_port: int) -> None:
    for name in ("mon", "osd", "rgw", "run", "log"):
        (folder / name).mkdir(parents=True)
    fsid, mon_port = str(uuid.uuid4()), free_port()
    conf = CONF.format(fsid=fsid, folder=folder, mon_port=mon_port, rgw_port=rgw_port)
    (folder / "ceph.conf").write_text(conf)
    keyring, monmap = str(folder / "keyring"), str(folder / "monmap")
    for position, (name, caps) in enumerate(CAPS.items()):
        create = ["--create-keyring"] if position == 0 else []
        _call(folder, "ceph-authtool", *create, keyring, "--gen-key", "-n", name, *caps)
    _call(
        folder, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap
    )
    _call(folder, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)


def _make_osd(folder: Path) -> None:
    osd = str(uuid.uuid4())
    secret = _call(folder, "ceph-authtool", str(folder / "keyring"), "-n", "osd.0", "-p").strip()
    _call(folder, "ceph", "osd", "new", osd, "-i", "-", stdin=json.dumps({"cephx_secret": secret}))
    _call(folder, "ceph", "auth", "import", "-i", str(folder / "keyring"))
    _call(folder, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)


def _start(folder: Path, program: str, *arguments: str) -> Process:
    command = [_which(program), "-f", "-c", str(folder / "ceph.conf"), *arguments]
    return spawn(command, env=_environment(folder), log=folder / f"{program}.out", tied=True)


def _call(folder: Path, program: str, *arguments: str, stdin: str = "") -> str:
    """Run one of Ceph's tools to its end; its standard output."""
    done = subprocess.run(
        [_which(program), *arguments],
        env=_environment(folder),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _which(program: str) -> str:
    return shutil.which(program, path=_path()) or program


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": _path(), "CEPH_CONF": str(folder / "ceph.conf"), "HOME": str(folder), "LC_ALL": "C.UTF-8"}


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(endpoint, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True
