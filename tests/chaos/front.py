"""The proxy as the driver of a schedule sees it: a process of its own, told over its socket what to do to requests."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clusters.processes import free_port, kill, spawn, wait_until
from tests.chaos.proxy import Rule

ROOT = Path(__file__).parents[2]


class Front:
    """A running proxy. `endpoint` is what a run is given as AWS_ENDPOINT_URL."""

    def __init__(self, endpoint: str, control: Path) -> None:
        self.endpoint = endpoint
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(control))
        self._lines = self._socket.makefile("rw", encoding="utf-8")

    def add(self, rule: Rule) -> None:
        """From now on."""
        self._tell({"add": {key: value for key, value in asdict(rule).items() if value != float("inf")}})

    def end(self, number: int) -> int:
        """No rule of fault `number` from now on; how many requests it met."""
        return int(self._tell({"end": number})["done"].get(str(number), 0))

    def met(self, number: int) -> int:
        """How many requests fault `number` has met so far."""
        return int(self._tell({})["done"].get(str(number), 0))

    def asked(self, what: str) -> int:
        """Requests so far, by method and folder: `PUT checkpoints`."""
        return int(self._tell({})["asked"].get(what, 0))

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _tell(self, order: dict[str, Any]) -> dict[str, Any]:
        self._lines.write(json.dumps(order) + "\n")
        self._lines.flush()
        told: dict[str, Any] = json.loads(self._lines.readline())
        return told


@contextmanager
def fronting(upstream: str, folder: Path, seed: int = 0) -> Iterator[Front]:
    """A proxy before the store at `upstream` (http://host:port), its socket and log in `folder` (a short path)."""
    port, control = free_port(), folder / "proxy.sock"
    place = urlsplit(upstream)
    command = [sys.executable, "-m", "tests.chaos.proxy", f"{place.hostname}:{place.port}"]
    command += [str(port), str(control), str(seed)]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    process = spawn(command, env=env, log=folder / "proxy.log", tied=True)
    try:
        wait_until(lambda: control.exists() and _listens(port), 20, "the proxy to listen")
        front = Front(f"http://127.0.0.1:{port}", control)
        try:
            yield front
        finally:
            front.close()
    finally:
        kill([process])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
