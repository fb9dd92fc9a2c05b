"""What every object store offers here: the plain types that `storage` and its kinds share.

Keys are relative, `/`-separated, without empty, `.` or `..` parts; the same rule holds for every kind of
store, so a run that works on a folder works on a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from data_pipeline.errors import StoreError

Bytes = bytes | bytearray | memoryview

# Before bytes that fail their checksum are fetched again. What flips bits on the way may do so for seconds; a disk does for ever.
FETCH_AGAIN_S = (0.0, 0.2, 1.0, 3.0)

NOT_HONOURED = {
    "conditional_put": "conditional writes are not honoured: nothing can stop a second writer, "
    "so only one driver may be alive on a run",
    "ranges": "byte ranges are not honoured: every read of a part moves the whole object",
    "etags": "ETags are missing or unstable: a replaced object is noticed by its checksums only",
}


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: key relative to its store, bytes, ETag without quotes, last change in Unix seconds."""

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Honours:
    """What a store was seen to honour when probed."""

    conditional_put: bool
    ranges: bool
    etags: bool

    def describe(self) -> list[str]:
        """One sentence per thing not honoured, saying what that means for a run."""
        return [why for name, why in NOT_HONOURED.items() if not getattr(self, name)]


class Store(Protocol):
    """Objects under one url. Safe to use from several threads; may be pickled (credentials do not travel)."""

    @property
    def url(self) -> str:
        """What `open_store` takes to open this store again."""

    patience_s: float  # how long a request that fails for a passing reason is sent again; may be changed

    @property
    def remote(self) -> bool:
        """Whether bytes come over a network, where one request may take a hundred times as long as the next."""

    @property
    def retries(self) -> int:
        """How often a request was sent again, since this store was opened."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises NotFound."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start`; StoreError where the object is shorter."""

    def read_into(self, key: str, start: int, buffers: Sequence[memoryview]) -> None:
        """Fills writable byte `buffers`, one after the other, from byte `start`. Otherwise like get_range."""

    def put(self, key: str, data: Bytes) -> None:
        """Writes the object, whole or not at all, replacing what was there."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """True: this call created the object. False: something is already there, and was left alone."""

    def put_stream(self, key: str, size: int, chunks: Iterable[Bytes]) -> None:
        """Writes `size` bytes in bounded memory; another total: StoreError, and nothing is visible."""

    def head(self, key: str) -> ObjectInfo | None:
        """The object's facts, or None where there is none."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, sorted by key."""

    def folders(self) -> Iterator[str]:
        """Names of the folders right below, sorted, without looking into them."""

    def delete(self, key: str) -> None:
        """Removes the object; a missing one is fine."""

    def sweep(self, prefix: str, older_than_s: float, dead: Callable[[str], bool]) -> int:
        """Removes what killed writers left below folder `prefix`: writes begun more than `older_than_s` ago, not completed.

        `dead(folder)` says of a key's folder whether its writers are gone; only those are touched. How many went.
        """

    def sub(self, prefix: str) -> Store:
        """The same store, with `prefix/` in front of every key."""

    def probe(self) -> Honours:
        """Tries, with a few small objects that it removes again, what this store honours."""


def check_key(key: str) -> str:
    """The key itself; StoreError where it could name something outside the store or differ between stores."""
    parts = key.split("/")
    if not all(parts) or "." in parts or ".." in parts or "\0" in key or "\\" in key:
        raise StoreError(
            f"key {key!r} is not valid: use parts joined by single '/', without '.' or '..', '\\' or NUL"
        )
    return key


def join_prefix(prefix: str, part: str) -> str:
    """Two key prefixes joined; either may be empty."""
    clean = part.strip("/")
    return "/".join(p for p in (prefix, check_key(clean) if clean else "") if p)


def check_range(what: str, start: int, length: int) -> None:
    """StoreError unless `length` bytes from `start` can be a range."""
    if start < 0 or length < 0:
        raise StoreError(f"{what}: bytes {start}+{length} are no valid range")


def check_total(what: str, size: int, seen: int) -> None:
    """StoreError unless the chunks of a stream came to the announced size."""
    if seen != size:
        raise StoreError(
            f"{what}: {size} bytes were announced and {'more' if seen > size else seen} came; "
            "nothing was written: announce the exact size"
        )
