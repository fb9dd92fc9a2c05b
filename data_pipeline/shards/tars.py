"""Tar archives read in order, header by header, with the place of every member.

The chain: `ShardReader` pulls an object through a window of ranged GETs and keeps the CRC32C of all it gave
out; `members` walks the headers and yields each member with its raw bytes (extension headers, header, data,
padding).

Is strict where tar readers shrug, because what they shrug at is lost data: a header whose checksum is wrong,
and an archive that ends without its end marker, are errors that name the byte. Does not unpack, and does not
read compressed archives: nothing inside those can be reached by a range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import google_crc32c

from data_pipeline.errors import BadDataset
from data_pipeline.shards.headers import (
    BLOCK,
    GLOBAL,
    LONG_LINK,
    LONG_NAME,
    PAX,
    Extension,
    check_global,
    check_header,
    name_in,
)
from data_pipeline.storage.types import Store

WINDOW_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One entry: `start` is the byte of its first header, `raw` all its bytes, `data` what is inside."""

    name: str
    kind: bytes
    start: int
    raw: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A member whose data was passed over: `size` bytes from byte `offset`."""

    name: str
    kind: bytes
    offset: int
    size: int


class Source(Protocol):
    """Bytes in order. `where` names them in errors."""

    where: str
    position: int

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end."""


@dataclass
class SpanSource:
    """Bytes that are in memory."""

    data: bytes
    where: str
    position: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, count: int) -> bytes:
        start, self.position = self.position, min(self.size, self.position + count)
        return self.data[start : self.position]


@dataclass
class ShardReader:
    """An object read once, front to back; `crc` is the CRC32C of the bytes given out so far."""

    store: Store
    key: str
    size: int
    on_bytes: Callable[[int], None] = lambda count: None
    position: int = 0
    crc: int = 0
    window: int = WINDOW_BYTES  # bytes of a GET
    _window: bytes = b""
    _window_start: int = 0
    where: str = field(init=False)

    def __post_init__(self) -> None:
        self.where = f"{self.store.url}/{self.key}"

    def read(self, count: int) -> bytes:
        data = self._take(min(count, self.size - self.position))
        self.crc = google_crc32c.extend(self.crc, data)
        return data

    def _take(self, count: int) -> bytes:
        begin = self.position - self._window_start
        have = self._window[begin : begin + count]
        if len(have) < count:
            start = self.position + len(have)
            self._window = self.store.get_range(
                self.key, start, min(max(self.window, count - len(have)), self.size - start)
            )
            self._window_start = start
            self.on_bytes(len(self._window))
            have += self._window[: count - len(have)]
        self.position += count
        return have


def members(source: Source, *, whole: bool = True) -> Iterator[Member]:
    """Every entry that is not an extension header of the next one, in order; a global header is an entry without name.

    `whole`: an end marker must follow, and nothing but zeros after it; without, the members end where the
    bytes do. Raises BadDataset naming the byte.
    """
    extensions, start, extra = b"", source.position, Extension()
    while True:
        begin = source.position
        if begin == source.size and not whole and not extensions:
            return
        header = source.read(BLOCK)
        if not header.strip(b"\0") and len(header) == BLOCK and not extensions:
            return _check_end(source) if whole else None
        kind, size = check_header(header, source.where, begin)
        size = size if extra.size is None else extra.size
        data, raw = _read_body(source, header, size, begin)
        if kind in PAX + LONG_NAME + LONG_LINK:
            extra.add(kind, data, f"{source.where} at byte {begin}")
            extensions += raw
            continue
        if kind == GLOBAL:
            check_global(data, bool(extensions), f"{source.where} at byte {begin}")
        name = "" if kind == GLOBAL else extra.name or name_in(header)
        yield Member(name, kind, start, extensions + raw if extensions else raw, data)
        extensions, start, extra = b"", source.position, Extension()


def entries(source: Source) -> Iterator[Entry]:
    """The members of a whole archive, in order, by their headers alone: data is passed over. Raises BadDataset naming the byte."""
    extra, extended = Extension(), False
    while True:
        begin = source.position
        header = source.read(BLOCK)
        if len(header) == BLOCK and not header.strip(b"\0") and not extended:
            return _check_end(source)
        kind, size = check_header(header, source.where, begin)
        if kind in PAX + LONG_NAME + LONG_LINK:
            extra.add(kind, _read_body(source, header, size, begin)[0], f"{source.where} at byte {begin}")
            extended = True
            continue
        offset, size = source.position, size if extra.size is None else extra.size
        if kind == GLOBAL:
            data, _ = _read_body(source, header, size, begin)
            check_global(data, extended, f"{source.where} at byte {begin}")
        else:
            _pass_over(source, header, size, begin)
            yield Entry(extra.name or name_in(header), kind, offset, size)
        extra, extended = Extension(), False


def _read_body(source: Source, header: bytes, size: int, begin: int) -> tuple[bytes, bytes]:
    """Data, and header with data and padding."""
    body = source.read(_padded(source, header, size, begin))
    return body[:size], header + body


def _pass_over(source: Source, header: bytes, size: int, begin: int) -> None:
    source.position += _padded(source, header, size, begin)


def _padded(source: Source, header: bytes, size: int, begin: int) -> int:
    """Bytes of a member's data with padding, which must be there."""
    padded = -(-size // BLOCK) * BLOCK
    if source.position + padded > source.size:
        raise BadDataset(
            f"{source.where} at byte {begin}: the member {name_in(header)!r} of {size} bytes goes past the end "
            f"at {source.size}; the archive was cut off: write it again"
        )
    return padded


def _check_end(source: Source) -> None:
    while source.position < source.size:
        begin = source.position
        if source.read(WINDOW_BYTES).strip(b"\0"):
            raise BadDataset(
                f"{source.where} after byte {begin}: bytes other than zero follow the end-of-archive marker; "
                "archives joined by cat are not one archive: write it again"
            )
