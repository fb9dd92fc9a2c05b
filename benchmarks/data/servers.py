"""A real S3 server on loopback that holds the pictures' shards, kept off the core that is measured on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.data.runs import other_cores
from tests import ceph
from tests.chaos.environment import environment


@contextmanager
def bucket_with(folder: Path) -> Iterator[str]:
    """The url of a bucket of Ceph RGW with the files of `folder`, AWS_* pointing at it; empty, and said, without Ceph."""
    if reason := ceph.missing():
        print("left out:", reason)
        yield ""
        return
    cores = os.sched_getaffinity(0)
    other_cores()
    os.environ.pop("AWS_PROFILE", None)
    with (
        tempfile.TemporaryDirectory(prefix="bd-") as name,
        ceph.running(Path(name)) as gateway,
        environment(gateway.env),
    ):
        os.sched_setaffinity(0, cores)
        yield _filled(folder)


def _filled(folder: Path) -> str:
    import boto3

    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="pictures")
    for path in sorted(folder.iterdir()):
        client.upload_file(str(path), "pictures", path.name)
    return "s3://pictures"
