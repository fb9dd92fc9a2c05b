"""Real object stores, and the digits packed once, for every test that wants them: made once a session, and ended with it.

`rclone_store` is the demo's server (ignores conditional PUTs); `rgw` is Ceph (honours them), skipped where
it is not installed. Each comes with a maker of fresh buckets that also sets AWS_* for the test:
`rclone_bucket()`, `rgw_bucket()` -> "s3://...".
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusters import object_store
from clusters.object_store import ObjectStore
from tests import ceph
from tests.ceph import Gateway

if TYPE_CHECKING:
    from tests.runs import Small

os.environ.setdefault("MIXER_NOTICES", "file")  # no test asks the metadata server of the machine it runs on
BucketMaker = Callable[[], str]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """scikit-learn's digits, packed into a folder: <digits>/train, <digits>/val."""
    from data_pipeline.packing.pack import pack

    folder = tmp_path_factory.mktemp("digits")
    pack("sklearn:digits", str(folder))
    return str(folder)


@pytest.fixture
def small(tmp_path: Path, digits: str) -> Small:
    """A small run on the digits, in a folder of its own."""
    from tests.runs import make_small

    return make_small(tmp_path, digits)


@pytest.fixture(scope="session")
def rclone_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """One `rclone serve s3` for the session: .endpoint .access_key .secret_key .env .folder .bucket(name)."""
    with object_store.serve(tmp_path_factory.mktemp("rclone")) as store:
        yield store


@pytest.fixture(scope="session")
def rgw() -> Iterator[Gateway]:
    """One Ceph RGW for the session: .endpoint .access_key .secret_key .env .daemons."""
    if reason := ceph.missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="ceph-"))  # short: unix socket paths end at 107 characters
    try:
        with ceph.running(folder) as gateway:
            yield gateway
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder below the temporary one itself."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def rclone_bucket(rclone_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> BucketMaker:
    """Call it for the url of a fresh bucket on rclone; the AWS_* variables are set for this test."""
    _set(monkeypatch, rclone_store.env)
    return lambda: rclone_store.bucket(f"test-{next(_numbers)}")


@pytest.fixture
def rgw_bucket(rgw: Gateway, monkeypatch: pytest.MonkeyPatch) -> BucketMaker:
    """Call it for the url of a fresh bucket on Ceph RGW; the AWS_* variables are set for this test."""
    _set(monkeypatch, rgw.env)
    return lambda: _make_bucket(f"test-{next(_numbers)}")


def _make_bucket(name: str) -> str:
    from data_pipeline.storage.s3_client import new_session

    new_session().client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def _set(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
