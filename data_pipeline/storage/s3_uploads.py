"""Large objects to S3: uploaded in parts, a few at a time, and visible when the last request completes them.

A part is copied once, out of the caller's chunks; so an upload holds PARTS_IN_FLIGHT + 2 parts in memory whatever its size. What a
killed writer leaves is an upload that was never completed: invisible, but paid for; `unfinished` finds those.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from data_pipeline.errors import NotFound, StoreError
from data_pipeline.storage.s3_client import S3Client, Unsupported
from data_pipeline.storage.types import Bytes, ObjectInfo, check_total

PARTS_IN_FLIGHT = 4


def put(
    client: S3Client, name: str, size: int, parts: Iterator[Bytes], head: Callable[[], ObjectInfo | None]
) -> None:
    """Upload `parts` as the object `name` of `size` bytes; on any error nothing is left of it. `head` looks at the object."""
    upload = client.call("create_multipart_upload", name, lambda r: str(r["UploadId"]), Key=name)
    try:
        tags = _send(client, name, upload, parts)
        _complete(client, name, upload, size, tags, head)
    except BaseException:
        with contextlib.suppress(StoreError):  # the failure itself matters more; sweeping finds leftovers
            abort(client, name, upload)
        raise


def _send(client: S3Client, name: str, upload: str, parts: Iterator[Bytes]) -> Sequence[str]:
    def send(number: int, part: Bytes) -> str:
        where = {"Key": name, "UploadId": upload, "PartNumber": number}
        return client.call("upload_part", name, lambda r: str(r["ETag"]), Body=part, **where)

    tags = []
    flying: deque[Future[str]] = deque()
    with ThreadPoolExecutor(PARTS_IN_FLIGHT) as pool:
        for number, part in enumerate(parts, start=1):
            if len(flying) == PARTS_IN_FLIGHT:
                tags.append(flying.popleft().result())
            flying.append(pool.submit(send, number, part))
        tags.extend(future.result() for future in flying)
    return tags


def _complete(
    client: S3Client,
    name: str,
    upload: str,
    size: int,
    tags: Sequence[str],
    head: Callable[[], ObjectInfo | None],
) -> None:
    listed = {"Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, start=1)]}
    try:
        client.call(
            "complete_multipart_upload", name, _nothing, Key=name, UploadId=upload, MultipartUpload=listed
        )
    except NotFound:  # done by an earlier try whose reply was lost, or gone for good: the size tells
        info = head()
        if info is None or info.size != size:
            raise


def abort(client: S3Client, name: str, upload: str) -> None:
    """Drop an upload and its parts; one that is gone is fine."""
    with contextlib.suppress(NotFound):
        client.call("abort_multipart_upload", name, _nothing, Key=name, UploadId=upload)


def unfinished(client: S3Client, prefix: str) -> Iterator[tuple[str, str, float]]:
    """Name, id and beginning (Unix seconds) of uploads that were never completed. None from a server that cannot list them."""
    marks: dict[str, str] = {}
    while True:
        try:
            page = client.call("list_multipart_uploads", prefix, dict, Prefix=prefix, **marks)
        except Unsupported:
            return
        for upload in page.get("Uploads", []):
            yield upload["Key"], upload["UploadId"], upload["Initiated"].timestamp()
        if not page.get("IsTruncated"):
            return
        marks = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def in_parts(chunks: Iterable[Bytes], part_bytes: int, size: int, what: str) -> Iterator[bytearray]:
    """The chunks joined and cut into parts of `part_bytes`, the last one shorter; checks the total."""
    buffer, seen = bytearray(), 0
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        seen += view.nbytes
        if seen > size:
            break
        while view:
            taken = view[: part_bytes - len(buffer)]
            buffer += taken
            view = view[len(taken) :]
            if len(buffer) == part_bytes:
                yield buffer
                buffer = bytearray()
    check_total(what, size, seen)
    if buffer:
        yield buffer


def _nothing(response: Any) -> None:
    return None
