"""The headers of tar archives: V7, ustar, GNU and pax, in every way of writing long names and large sizes.

A header is proven by its checksum, and held to what Python's tarfile takes, because tarfile expands the samples
later: what it cannot read would be missing in training.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.errors import BadDataset

BLOCK = 512
REGULAR = b"0\x007"
LINKS = b"12"
SPARSE = b"S"
FOLDER = b"5"
GLOBAL = b"g"
PAX = b"xX"  # X: Solaris
LONG_NAME, LONG_LINK = b"L", b"K"
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x5d\x00\x00": "lzma",
    b"LZIP": "lzip",
    b"\x1f\x9d": "compress",
}
_PLAIN_NUMBERS = re.compile(rb"(?: *[0-7]+[ \0]+){5}")  # mode, uid, gid, size, mtime
_LOW = bytes(range(128))
_NUMBERS = slice(100, 148)


@dataclass
class Extension:
    """What extension headers say about the member that follows them."""

    name: str | None = None
    size: int | None = None

    def add(self, kind: bytes, data: bytes, where: str) -> None:
        if kind == LONG_NAME:
            self.name = _text(data)
        elif kind in PAX:
            for keyword, value in _pax_records(data, where):
                if keyword == "path":
                    self.name = _text(value)
                elif keyword == "size":
                    self.size = _pax_size(value, where)
                elif keyword.startswith("GNU.sparse"):
                    raise BadDataset(f"{where}: a sparse member; write the shard again without --sparse")


def check_global(data: bytes, between: bool, where: str) -> None:
    """Refuses a global pax header that changes members: a range that begins after it would not see it."""
    if between:
        raise BadDataset(f"{where}: a global pax header between an extension header and its member")
    for keyword, _ in _pax_records(data, where):
        if keyword in ("path", "size", "hdrcharset") or keyword.startswith("GNU.sparse"):
            raise BadDataset(
                f"{where}: a global pax header that sets {keyword!r} for all members; write the shard again without it"
            )


def _pax_size(value: bytes, where: str) -> int:
    if not value.isdigit():
        raise BadDataset(f"{where}: a pax header whose size is {value!r}")
    return int(value)


def _pax_records(data: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) + 3 <= int(length) <= len(data):
            raise BadDataset(f"{where}: a damaged pax header")
        keyword, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        yield keyword.decode("utf-8", "replace"), value
        data = data[int(length) :]


def check_header(header: bytes, where: str, begin: int) -> tuple[bytes, int]:
    """Kind and size of the member, from a header proven by its checksum."""
    if begin == 0:
        for magic, name in COMPRESSED.items():
            if header.startswith(magic):
                raise BadDataset(
                    f"{where} at byte 0: this is {name}, not tar; unpack it: ranges need plain tar"
                )
    if len(header) < BLOCK:
        ends = "inside a header" if header else "without the end-of-archive marker"
        raise BadDataset(f"{where} at byte {begin}: the archive ends {ends}; it was cut off: write it again")
    stated = _number(header[148:156])
    if stated not in _checksums(header):
        raise BadDataset(f"{where} at byte {begin}: no valid tar header (its checksum is wrong)")
    size = _number(header[124:136])
    if size is None or not _readable(header):
        raise BadDataset(
            f"{where} at byte {begin}: no valid tar header (a field that must be a number is none)"
        )
    kind = header[156:157]
    return kind, 0 if kind in LINKS + b"3456" else size


def _checksums(header: bytes) -> tuple[int, int]:
    """What the checksum field may say: the sum of the bytes, and the sum of old writers that took them as signed."""
    unsigned = sum(header) - sum(header[148:156]) + 8 * 32
    return unsigned, unsigned - 256 * len((header[:148] + header[156:]).translate(None, _LOW))


def _readable(header: bytes) -> bool:
    """Whether Python's tarfile takes the header."""
    if _PLAIN_NUMBERS.fullmatch(header[_NUMBERS]) and not header[329:345].strip(b"0\0 "):
        return True
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _number(text: bytes) -> int | None:
    """A tar number: octal digits, or GNU's base 256. None for what is none, and for negative ones."""
    if text[0] & 0x80:
        return int.from_bytes(text[1:], "big") if text[0] == 0x80 else None
    digits = text.strip(b" \0")
    return int(digits or b"0", 8) if all(d in b"01234567" for d in digits) else None


def name_in(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix else name


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
