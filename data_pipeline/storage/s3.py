"""A store in an S3 bucket (Amazon's, Ceph RGW, MinIO, rclone serve s3, ...).

Small objects are single PUTs; large ones go up in parts, a few at a time, and appear when the last request
completes them. A conditional put is a plain PUT with If-None-Match, never the completing of an upload in
parts, where some servers ignore conditions. A reply can be lost after the server did the work: a put is then
simply repeated, and a conditional one that is told "taken" reads back what lies there, because only bytes
equal to its own can be its own.

What a server honours differs much; `probe` tries it out, and the caller says so to its user.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, TypeVar

from data_pipeline.errors import NotFound, StoreError, Unavailable
from data_pipeline.storage import s3_uploads as uploads
from data_pipeline.storage.s3_client import S3Client, Taken, Unsupported
from data_pipeline.storage.types import (
    Bytes,
    Honours,
    ObjectInfo,
    check_key,
    check_range,
    join_prefix,
)

T = TypeVar("T")

PART_BYTES = 16 << 20
MAX_PARTS = 10_000
RACERS = 4


class S3Store:
    """Objects under `prefix` of the client's bucket."""

    def __init__(self, client: S3Client, prefix: str) -> None:
        self._client = client
        self._prefix = f"{prefix}/" if prefix else ""

    @property
    def url(self) -> str:
        return f"s3://{self._client.bucket}/{self._prefix}".rstrip("/")

    @property
    def remote(self) -> bool:
        return True

    @property
    def retries(self) -> int:
        return self._client.retries

    @property
    def patience_s(self) -> float:
        return self._client.patience_s

    @patience_s.setter
    def patience_s(self, seconds: float) -> None:
        self._client.patience_s = seconds

    def get(self, key: str) -> bytes:
        name = self._name(key)
        return self._client.call("get_object", name, _whole_body, Key=name)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        what = f"{self.url}/{key}"
        check_range(what, start, length)
        if length == 0:
            return b""
        name, ranges = self._name(key), self._client.ranges

        def attempt() -> bytes:
            data = ranges.get(name, start, length) if ranges else None
            return data if data is not None else self._by_boto(name, what, start, length)

        return self._client.again("get_object", name, attempt)

    def _by_boto(self, name: str, what: str, start: int, length: int) -> bytes:
        asked = f"bytes={start}-{start + length - 1}"
        return self._client.once(
            "get_object",
            lambda response: _exact_range(response, what, start, length),
            Key=name,
            Range=asked,
        )

    def read_into(self, key: str, start: int, buffers: Sequence[memoryview]) -> None:
        what, length = f"{self.url}/{key}", sum(buffer.nbytes for buffer in buffers)
        check_range(what, start, length)
        if length:
            self._range(key, start, length, lambda response: _fill(response, what, start, buffers))

    def _range(self, key: str, start: int, length: int, finish: Callable[[Any], T]) -> T:
        name, asked = self._name(key), f"bytes={start}-{start + length - 1}"
        return self._client.call("get_object", name, finish, Key=name, Range=asked)

    def put(self, key: str, data: Bytes) -> None:
        view = memoryview(data).cast("B")
        if view.nbytes > PART_BYTES:
            return self.put_stream(key, view.nbytes, [view])
        return self._put(self._name(key), bytes(view))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        name = self._name(key)
        if self.head(key) is not None:  # a server that ignores the condition would overwrite
            return False
        before = self._client.retries
        try:
            self._put(name, data, IfNoneMatch="*")
        except Taken:
            return self._client.retries != before and self._is_mine(key, data)
        except Unsupported:
            self._put(name, data)
        return True

    def put_stream(self, key: str, size: int, chunks: Iterable[Bytes]) -> None:
        name, what = self._name(key), f"{self.url}/{key}"
        parts = uploads.in_parts(chunks, max(PART_BYTES, -(-size // MAX_PARTS)), size, what)
        if size > PART_BYTES:
            return uploads.put(self._client, name, size, parts, head=lambda: self.head(key))
        return self._put(name, b"".join(parts))

    def head(self, key: str) -> ObjectInfo | None:
        name = self._name(key)

        def finish(response: Any) -> ObjectInfo:
            return _info(key, response["ContentLength"], response)

        try:
            return self._client.call("head_object", name, finish, Key=name)
        except NotFound:
            return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        found = [
            _info(item["Key"].removeprefix(self._prefix), item["Size"], item)
            for page in self._pages(self._prefix + prefix)
            for item in page.get("Contents", [])
        ]
        yield from sorted(found, key=lambda info: info.key)

    def folders(self) -> Iterator[str]:
        pages = self._pages(self._prefix, Delimiter="/")
        names = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
        yield from sorted(name.removeprefix(self._prefix).rstrip("/") for name in names)

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._client.call("list_objects_v2", prefix, dict, Prefix=prefix, **options, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        name = self._name(key)
        with contextlib.suppress(NotFound):
            self._client.call("delete_object", name, _nothing, Key=name)

    def sweep(self, prefix: str, older_than_s: float, dead: Callable[[str], bool]) -> int:
        gone, before = 0, time.time() - older_than_s if older_than_s else float("inf")
        for name, upload, begun in uploads.unfinished(
            self._client, self._prefix + (f"{prefix}/" if prefix else "")
        ):
            if dead(name.removeprefix(self._prefix).rpartition("/")[0]) and begun <= before:
                uploads.abort(self._client, name, upload)
                gone += 1
        return gone

    def sub(self, prefix: str) -> S3Store:
        return S3Store(self._client, join_prefix(self._prefix.rstrip("/"), prefix))

    def probe(self) -> Honours:
        key = f"probe-{uuid.uuid4().hex}"
        name = self._name(key)
        try:
            self._put(name, b"0123456789")
            first = self.head(key)
            ranges = self._honours_ranges(name)
            conditional = self._honours_condition(name)
            self._put(name, b"another")
            second, again = self.head(key), self.head(key)
            tags = [info.etag if info else "" for info in (first, second, again)]
            etags = all(tags) and tags[0] != tags[1] == tags[2]
        finally:
            self.delete(key)
        return Honours(conditional and self._one_of_many_wins(), ranges, etags)

    def _honours_condition(self, name: str) -> bool:
        """Whether a conditional PUT on what is there is refused."""
        try:
            self._put(name, b"conditional", IfNoneMatch="*")
        except Taken:
            return True
        except Unsupported:
            return False
        return False

    def _one_of_many_wins(self) -> bool:
        """Whether of a few conditional PUTs at the same moment exactly one creates the object."""
        key = f"probe-{uuid.uuid4().hex}"
        try:
            with ThreadPoolExecutor(RACERS) as pool:
                won = list(pool.map(lambda n: self.put_if_absent(key, b"racer %d" % n), range(RACERS)))
            return won.count(True) == 1 and self.get(key) == b"racer %d" % won.index(True)
        finally:
            self.delete(key)

    def _honours_ranges(self, name: str) -> bool:
        def finish(response: Any) -> bool:
            return bool(response.get("ContentRange")) and _whole_body(response) == b"234"

        return self._client.call("get_object", name, finish, Key=name, Range="bytes=2-4")

    def _is_mine(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key) == data
        except NotFound:
            return False

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _put(self, name: str, data: bytes, **condition: str) -> None:
        self._client.call("put_object", name, _nothing, Key=name, Body=data, **condition)


def _whole_body(response: Any) -> bytes:
    data: bytes = response["Body"].read()
    if len(data) != response["ContentLength"]:
        raise Unavailable(f"a body of {response['ContentLength']} bytes broke off after {len(data)}")
    return data


def _exact_range(response: Any, what: str, start: int, length: int) -> bytes:
    """The bytes asked for, also from a server that ignores ranges and sends everything."""
    data = b""
    if not response.get("ContentRange"):  # the status is no guide: rclone sends ranges as 200
        data = _whole_body(response)[start : start + length]
    elif response["ContentLength"] == length and response["ContentRange"].startswith(f"bytes {start}-"):
        data = _whole_body(response)
    else:
        response["Body"].close()
        if response["ContentRange"].startswith(f"bytes {start}-{start + length - 1}/"):
            raise Unavailable(
                f"{what}: a body of {response['ContentLength']} bytes came as {response['ContentRange']}"
            )
    if len(data) != length:
        raise StoreError(f"{what}: bytes {start}+{length} were asked for, the object is shorter")
    return data


def _fill(response: Any, what: str, start: int, buffers: Sequence[memoryview]) -> None:
    """The bytes asked for, straight into `buffers`; also from a server that sends everything."""
    length = sum(buffer.nbytes for buffer in buffers)
    direct = response["ContentLength"] == length and str(response.get("ContentRange")).startswith(
        f"bytes {start}-"
    )
    body = response["Body"] if direct else BytesIO(_exact_range(response, what, start, length))
    for buffer in buffers:
        view = buffer.cast("B")
        while view:
            got = body.readinto(view)
            if not got:
                raise Unavailable(f"{what}: a body of {length} bytes broke off")
            view = view[got:]


def _info(key: str, size: int, facts: Any) -> ObjectInfo:
    return ObjectInfo(
        key, int(size), str(facts.get("ETag", "")).strip('"'), facts["LastModified"].timestamp()
    )


def _nothing(response: Any) -> None:
    return None
