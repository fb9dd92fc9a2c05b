"""Ceph RGW in our tests is what we take it for: signatures checked, plain conditional PUTs atomic."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from data_pipeline.storage import open_store
from tests.ceph import Gateway

pytestmark = [pytest.mark.rgw, pytest.mark.timeout(180)]


def won(s3: Any, bucket: str, key: str, body: bytes) -> bool:
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
            raise
        return False
    return True


def test_one_of_many_writers_wins(rgw_bucket: Callable[[], str]) -> None:
    bucket = rgw_bucket().removeprefix("s3://")
    s3 = boto3.client("s3")
    for key in ("a", "b", "c", "d", "e"):
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda n, key=key: won(s3, bucket, key, b"%d" % n), range(8)))
        assert sum(results) == 1
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"%d" % results.index(True)


def test_a_wrong_secret_is_refused(rgw: Gateway, rgw_bucket: Callable[[], str]) -> None:
    bucket = rgw_bucket().removeprefix("s3://")
    stranger = boto3.client("s3", aws_access_key_id=rgw.access_key, aws_secret_access_key="wrong")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.put_object(Bucket=bucket, Key="k", Body=b"x")


def test_its_daemons_are_ours_and_alive(rgw: Gateway) -> None:
    assert {name for name, daemon in rgw.daemons.items() if daemon.alive()} == {"mon", "osd", "rgw"}


def test_our_store_finds_conditions_honoured_and_one_winner(rgw_bucket: Callable[[], str]) -> None:
    url = rgw_bucket() + "/runs"
    assert open_store(url).probe().conditional_put
    stores = [open_store(url) for _ in range(8)]
    for key in ("log/1", "log/2", "log/3"):
        with ThreadPoolExecutor(8) as pool:
            bodies = [f"{key} of writer {number}".encode() for number in range(8)]
            results = list(
                pool.map(lambda store, body, key=key: store.put_if_absent(key, body), stores, bodies)
            )
        assert sum(results) == 1
        assert stores[0].get(key) == bodies[results.index(True)]


def test_our_store_says_that_rclone_ignores_them(rclone_bucket: Callable[[], str]) -> None:
    assert not open_store(rclone_bucket()).probe().conditional_put


def test_our_store_streams_an_object_of_many_parts(rgw_bucket: Callable[[], str]) -> None:
    store = open_store(rgw_bucket())
    pieces = [bytes([number]) * 2**20 for number in range(20)]
    store.put_stream("large", 20 * 2**20, iter(pieces))
    assert store.get_range("large", 19 * 2**20 - 1, 3) == b"\x12\x13\x13"
    found = store.head("large")
    assert found is not None
    assert found.size == 20 * 2**20
