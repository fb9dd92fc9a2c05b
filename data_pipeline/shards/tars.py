"""Tar archives read in order, header by header, with the place of every member.

The chain: `ShardReader` pulls an object through a window of ranged GETs and keeps the CRC32C of all it gave
out; `members` walks the headers and yields each member with its raw bytes (extension headers, header, data,
padding).

Knows ustar, GNU long names and pax. Is strict where tar readers shrug, because what they shrug at is lost
data: a header whose checksum is wrong, and an archive that ends without its end marker, are errors that name
the byte. Does not unpack, and does not read compressed archives: nothing inside those can be reached by a
range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import google_crc32c

from data_pipeline.errors import BadDataset
from data_pipeline.storage.types import Store

BLOCK = 512
WINDOW_BYTES = 8 << 20
REGULAR = b"0\x007"
LINKS = b"12"
SPARSE = b"S"
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x04\x22\x4d": "lz4",
}


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
                self.key, start, min(max(WINDOW_BYTES, count - len(have)), self.size - start)
            )
            self._window_start = start
            self.on_bytes(len(self._window))
            have += self._window[: count - len(have)]
        self.position += count
        return have


def members(source: Source, *, whole: bool = True) -> Iterator[Member]:
    """Every entry that is not an extension header, in order.

    `whole`: an end marker must follow, and nothing but zeros after it; without, the members end where the
    bytes do. Raises BadDataset naming the byte.
    """
    extensions, start, extra = b"", source.position, _Extension()
    while True:
        begin = source.position
        if begin == source.size and not whole and not extensions:
            return
        header = source.read(BLOCK)
        if not header.strip(b"\0") and len(header) == BLOCK and not extensions:
            return _check_end(source) if whole else None
        kind, size = _check_header(header, source.where, begin)
        size = size if extra.size is None else extra.size
        data, raw = _read_body(source, header, size, begin)
        if kind in b"xLK":
            extra.add(kind, data, f"{source.where} at byte {begin}")
            extensions += raw
            continue
        if kind != b"g":  # a global header belongs to no member
            yield Member(extra.name or _name(header), kind, start, extensions + raw, data)
        extensions, start, extra = b"", source.position, _Extension()


def entries(source: Source) -> Iterator[Entry]:
    """The members of a whole archive, in order, by their headers alone: data is passed over. Raises BadDataset naming the byte."""
    extra, extended = _Extension(), False
    while True:
        begin = source.position
        header = source.read(BLOCK)
        if len(header) == BLOCK and not header.strip(b"\0") and not extended:
            return _check_end(source)
        kind, size = _check_header(header, source.where, begin)
        if kind in b"xLK":
            extra.add(kind, _read_body(source, header, size, begin)[0], f"{source.where} at byte {begin}")
            extended = True
            continue
        offset, size = source.position, size if extra.size is None else extra.size
        _pass_over(source, header, size, begin)
        if kind != b"g":
            yield Entry(extra.name or _name(header), kind, offset, size)
        extra, extended = _Extension(), False


@dataclass
class _Extension:
    """What extension headers say about the member that follows them."""

    name: str | None = None
    size: int | None = None

    def add(self, kind: bytes, data: bytes, where: str) -> None:
        if kind == b"L":
            self.name = _text(data)
        elif kind == b"x":
            for keyword, value in _pax_records(data, where):
                if keyword == "path":
                    self.name = _text(value)
                elif keyword == "size":
                    self.size = int(value)
                elif keyword.startswith("GNU.sparse"):
                    raise BadDataset(f"{where}: a sparse member; write the shard again without --sparse")


def _pax_records(data: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) + 3 <= int(length) <= len(data):
            raise BadDataset(f"{where}: a damaged pax header")
        keyword, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        yield keyword.decode("utf-8", "replace"), value
        data = data[int(length) :]


def _check_header(header: bytes, where: str, begin: int) -> tuple[bytes, int]:
    """Kind and size of the member, from a header proven by its checksum."""
    if len(header) < BLOCK:
        ends = "inside a header" if header else "without the end-of-archive marker"
        raise BadDataset(f"{where} at byte {begin}: the archive ends {ends}; it was cut off: write it again")
    if begin == 0:
        for magic, name in COMPRESSED.items():
            if header.startswith(magic):
                raise BadDataset(
                    f"{where} at byte 0: this is {name}, not tar; unpack it: ranges need plain tar"
                )
    stated = _number(header[148:156])
    if stated != sum(header[:148]) + 8 * 32 + sum(header[156:]):
        raise BadDataset(f"{where} at byte {begin}: no valid tar header (its checksum is wrong)")
    size = _number(header[124:136])
    if size is None or size < 0:
        raise BadDataset(f"{where} at byte {begin}: no valid size in the tar header")
    kind = header[156:157]
    return kind, 0 if kind in LINKS + b"3456" else size


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
            f"{source.where} at byte {begin}: the member {_name(header)!r} of {size} bytes goes past the end "
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


def _number(text: bytes) -> int | None:
    """A tar number: octal digits, or GNU's base 256."""
    if text[0] & 0x80:
        return int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
    digits = text.strip(b" \0")
    return int(digits or b"0", 8) if all(d in b"01234567" for d in digits) else None


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix else name


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
