"""The proven bytes of a sample -> its members, as views of those bytes.

The CRC32C that proved them covers headers too, so nothing is checked again: plain headers are walked, extended
ones of which only times are of interest are stepped over, and all else goes to the strict reader of `tars`. What
is a member of a sample, and under which extension, is `scan`'s rule.
"""

from __future__ import annotations

from data_pipeline.shards.headers import BLOCK, REGULAR
from data_pipeline.shards.scan import META, NAME
from data_pipeline.shards.tars import SpanSource, members

_PAX = ord("x")
_RENAMES = (b" path=", b" size=", b"GNU.sparse")  # pax records that change what a member is
_NAME, _SIZE, _KIND, _PREFIX = slice(0, 100), slice(124, 136), 156, 345


def expand(data: memoryview, begin: int, end: int) -> dict[str, memoryview]:
    """The members of the sample at data[begin:end] by extension, in order."""
    fields: dict[str, memoryview] = {}
    at = begin
    while at < end:
        header = bytes(data[at : at + BLOCK])
        kind = header[_KIND]
        if header[_PREFIX] or header[_SIZE.start] & 0x80:
            return _expand_strictly(data[begin:end])
        size, start = int(header[_SIZE].strip(b" \0") or b"0", 8), at + BLOCK
        at = start + (size + BLOCK - 1) // BLOCK * BLOCK
        if kind == _PAX:
            records = bytes(data[start : start + size])
            if any(each in records for each in _RENAMES):
                return _expand_strictly(data[begin:end])
        elif kind not in REGULAR:
            return _expand_strictly(data[begin:end])
        elif ext := _ext(header[_NAME].partition(b"\0")[0].decode("utf-8", "surrogateescape")):
            fields[ext] = data[start : start + size]
    return fields


def _expand_strictly(data: memoryview) -> dict[str, memoryview]:
    found = members(SpanSource(bytes(data), "sample"), whole=False)
    named = [(_ext(member.name), member) for member in found if member.kind in REGULAR]
    return {ext: memoryview(member.data) for ext, member in named if ext}


def _ext(name: str) -> str:
    """The extension of a sample's member; empty for what is none."""
    match = None if META.match(name) else NAME.match(name)
    return match[2].lower() if match and not name.endswith("/") else ""
