"""The S3 store when network and server misbehave: a real server behind a front that does faults."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from data_pipeline.storage import AccessDenied, Store, StoreError, Unavailable, open_store, s3_ranges
from data_pipeline.storage.s3 import PART_BYTES
from data_pipeline.storage.s3_client import new_session
from tests.data_pipeline.faulty_front import Fault, Front, serve

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def front(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """The front; the environment's endpoint is now its address."""
    target = urlsplit(s3.endpoint)
    front = Front(str(target.hostname), int(target.port or 0))
    with serve(front) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield front
        server.shutdown()
        thread.join(timeout=10)


@pytest.fixture
def store(s3: Any, front: Front) -> Store:
    return open_store(f"s3://{s3.new_bucket()}/p", patience_s=5)


@pytest.mark.parametrize("what", ["503", "lost", "cut"])
def test_a_read_that_fails_in_passing_is_asked_again(store: Store, front: Front, what: str) -> None:
    store.put("k", b"0123456789" * 100)
    front.faults = [Fault("GET", "/p/k", what), Fault("GET", "/p/k", what)]
    assert store.get("k") == b"0123456789" * 100
    front.faults = [Fault("GET", "/p/k", what)]
    assert store.get_range("k", 5, 20) == b"56789012345678901234"
    assert store.retries == 3


@pytest.mark.parametrize("what", ["503", "lost"])
def test_a_write_that_fails_in_passing_is_sent_again(store: Store, front: Front, what: str) -> None:
    front.faults = [Fault("PUT", "/p/k", what)]
    store.put("k", b"x")
    front.faults = [Fault("HEAD", "/p/k", what), Fault("DELETE", "/p/k", what)]
    assert store.head("k") is not None
    store.delete("k")
    assert store.head("k") is None


def test_a_conditional_put_whose_reply_was_lost_knows_its_own_bytes(store: Store, front: Front) -> None:
    front.faults = [Fault("PUT", "/p/log/7", "lost"), Fault("PUT", "/p/log/7", "412")]
    assert store.put_if_absent("log/7", b"mine")
    assert store.get("log/7") == b"mine"


def test_a_conditional_put_that_lost_to_a_rival_meanwhile_says_so(store: Store, front: Front) -> None:
    rival = Fault("PUT", "/p/log/7", "503", before=lambda: _put_past_faults(front, store))
    front.faults = [rival, Fault("PUT", "/p/log/7", "412")]
    assert not store.put_if_absent("log/7", b"mine")
    assert store.get("log/7") == b"rival"


def _put_past_faults(front: Front, store: Store) -> None:
    waiting, front.faults = front.faults, []
    store.put("log/7", b"rival")
    front.faults = waiting


def test_taken_at_the_first_try_is_taken_whatever_the_bytes(store: Store, front: Front) -> None:
    store.put("log/7", b"mine")
    front.faults = [Fault("PUT", "/p/log/7", "412")]
    assert not store.put_if_absent("log/7", b"mine")


def test_a_server_that_ignores_conditions_is_not_made_to_overwrite(store: Store, front: Front) -> None:
    assert store.put_if_absent("log/7", b"mine")
    front.asked.clear()
    assert not store.put_if_absent("log/7", b"yours")
    assert [method for method, _ in front.asked] == ["HEAD"]


def test_patience_ends_and_the_error_says_how_often(store: Store, front: Front) -> None:
    impatient = open_store(store.url, patience_s=0.3)
    front.faults = [Fault("GET", "/p/k", "503") for _ in range(50)]
    with pytest.raises(Unavailable, match=r"SlowDown \(HTTP 503\); given up after \d tries"):
        impatient.get("k")


def test_parts_that_fail_in_passing_are_sent_again(store: Store, front: Front) -> None:
    size = 3 * PART_BYTES + 17
    front.faults = [
        Fault("POST", "uploads", "503"),
        Fault("PUT", "partNumber=2", "lost"),
        Fault("PUT", "partNumber=4", "503"),
        Fault("POST", "uploadId", "503"),
    ]
    store.put_stream("big", size, (bytes([n]) * PART_BYTES if n < 3 else b"end".ljust(17) for n in range(4)))
    assert not front.faults
    assert store.get_range("big", 2 * PART_BYTES - 1, 2) == b"\x01\x02"
    assert store.get_range("big", size - 17, 17) == b"end".ljust(17)


def test_a_finished_upload_whose_reply_was_lost_is_finished(store: Store, front: Front) -> None:
    front.faults = [Fault("POST", "uploadId", "lost")]
    store.put_stream("big", PART_BYTES + 1, [b"x" * (PART_BYTES + 1)])
    info = store.head("big")
    assert info is not None
    assert info.size == PART_BYTES + 1


def test_sweeping_aborts_the_open_uploads_of_dead_writers_only(store: Store) -> None:
    client = store._client._client  # type: ignore[attr-defined]
    bucket = store._client.bucket  # type: ignore[attr-defined]
    for folder in ("saves/1-1", "saves/2-2", "elsewhere/1-1"):
        client.create_multipart_upload(Bucket=bucket, Key=f"p/{folder}/rank-0")

    def dead(folder: str) -> bool:
        return folder.endswith("-1")

    def still() -> list[str]:
        found = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return sorted(upload["Key"] for upload in found)

    assert store.sweep("saves", 3600.0, dead) == 0
    assert len(still()) == 3
    assert store.sweep("saves", 0.0, dead) == 1
    assert still() == ["p/elsewhere/1-1/rank-0", "p/saves/2-2/rank-0"]
    assert store.sweep("saves", 0.0, dead) == 0


def test_a_range_into_buffers_that_breaks_off_is_asked_again(store: Store, front: Front) -> None:
    store.put("k", b"0123456789" * 100)
    front.faults = [Fault("GET", "/p/k", what) for what in ("503", "lost", "cut")]
    buffers = [bytearray(20), bytearray(500)]
    store.read_into("k", 5, [memoryview(buffer) for buffer in buffers])
    assert b"".join(buffers) == (b"0123456789" * 100)[5:525]
    assert store.retries == 3


def test_a_denied_request_is_not_repeated_and_echoes_nothing(store: Store, front: Front, s3: Any) -> None:
    front.faults = [Fault("GET", "/p/k", "403")]
    with pytest.raises(AccessDenied, match="check the credentials") as caught:
        store.get("k")
    assert store.retries == 0
    _check_silent(caught.value, s3)
    assert "echoed-id" not in _everything(caught.value)


def test_wrong_keys_are_one_line_that_names_no_key(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.new_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(AccessDenied) as caught:
        open_store(f"s3://{bucket}").put("k", b"x")
    _check_silent(caught.value, s3)
    assert "not-the-secret" not in _everything(caught.value)


def test_no_keys_at_all_are_one_line_that_says_what_to_set(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDenied, match="set AWS_ACCESS_KEY_ID") as caught:
        open_store("s3://bucket/x")
    _check_silent(caught.value, s3)


def test_a_profile_that_is_not_there_is_one_line(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match="ProfileNotFound"):
        open_store("s3://bucket/x")


def test_a_missing_bucket_is_named(s3: Any) -> None:
    store = open_store("s3://no-such-bucket/x", patience_s=1)
    for act in (lambda: store.get("k"), lambda: store.put("k", b""), lambda: list(store.list())):
        with pytest.raises(
            StoreError, match=r"no bucket 'no-such-bucket' at http://127.*create it"
        ) as caught:
            act()
        _check_silent(caught.value, s3)


def test_nobody_at_the_endpoint_is_unavailable_without_its_password(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9; given up after") as caught:
        open_store("s3://bucket/x", patience_s=0.2).get("k")
    assert "hunter2" not in _everything(caught.value)


def test_a_prefix_may_be_long_and_pages_are_joined(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"many/{n:04d}" for n in range(30)]
    for key in keys:
        store.put(key, b"")
    client = store._client._client  # type: ignore[attr-defined]
    whole = client.list_objects_v2
    monkeypatch.setattr(client, "list_objects_v2", lambda **given: whole(MaxKeys=7, **given))
    assert [info.key for info in store.list("many/")] == keys


def _everything(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _check_silent(error: BaseException, s3: Any) -> None:
    assert "\n" not in str(error)
    for secret in (s3.key_id, s3.secret):
        assert secret not in _everything(error)


def test_kept_connections_that_died_do_not_use_up_the_patience(
    store: Store, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A way that forgot them drops all of them; the next try has a new one."""
    monkeypatch.setattr(s3_ranges, "READ_TIMEOUT_S", 0.5)
    store.put("k", b"0123456789")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.get_range("k", n, 1), range(8)))
    idle = store._client.ranges._idle  # type: ignore[attr-defined]
    silent = [socket.socketpair() for _ in range(8)]
    for n, (since, connection) in enumerate(list(idle)):
        connection.close()
        connection.sock = silent[n][0]
        connection.sock.settimeout(0.5)
        idle[n] = since, connection
    began = time.monotonic()
    assert store.get_range("k", 2, 3) == b"234"
    assert store.retries == 1
    assert time.monotonic() - began < 5
    for pair in silent:
        for end in pair:
            end.close()


def test_a_range_past_the_end_says_so(store: Store) -> None:
    store.put("k", b"0123456789")
    for start, length in ((8, 5), (20, 5)):
        with pytest.raises(StoreError, match="shorter"):
            store.get_range("k", start, length)


def test_sessions_share_what_is_known_of_services_and_no_keys(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    first = new_session()
    assert first.get_credentials().access_key == "one"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    second = new_session()
    assert second.get_credentials().access_key == "another"
    assert len({id(each._session.get_component("data_loader")) for each in (first, second)}) == 1


def test_the_reader_that_sessions_share_does_not_grow_with_them() -> None:
    first = new_session()._session.get_component("data_loader")
    before = list(first.search_paths)
    new_session().client("s3", region_name="us-east-1")
    again = new_session()._session.get_component("data_loader")
    assert again is first
    assert again.search_paths == before
