"""The tar walk against Python's own tar reader, and against damage that tar readers let pass."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.shards.tars import SpanSource, members


def make_tar(files: list[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_members_are_those_of_tarfile(tar_format: int) -> None:
    draw = random.Random(tar_format)
    long = "" if tar_format == tarfile.USTAR_FORMAT else "d" * 90 + "/" + "n" * 160 + "ä/"
    files = [
        (f"{long if n % 3 else 'x/'}{n:03d}.jpg", draw.randbytes(draw.choice([0, 1, 511, 512, 5000])))
        for n in range(40)
    ]
    data = make_tar(files, tar_format)
    found = list(members(SpanSource(data, "shard")))
    assert [(member.name, member.data) for member in found] == files
    for member in found:
        assert data[member.start : member.start + len(member.raw)] == member.raw
    assert found[0].start == 0
    ends = [member.start + len(member.raw) for member in found]
    assert [member.start for member in found[1:]] == ends[:-1]


def test_a_span_of_members_stands_alone() -> None:
    data = make_tar([("a.jpg", b"1" * 700), ("a.cls", b"3")])
    found = list(members(SpanSource(data[: 512 + 1024 + 1024], "span"), whole=False))
    assert [member.name for member in found] == ["a.jpg", "a.cls"]


def test_a_cut_is_seen_wherever_it_is() -> None:
    data = make_tar([(f"{n}.jpg", b"x" * 600) for n in range(3)])
    used = 3 * (512 + 1024)
    for cut in range(0, used + 1, 256):
        with pytest.raises(BadDataset, match="cut off"):
            list(members(SpanSource(data[:cut], "shard")))


def test_a_flipped_byte_in_any_header_is_seen() -> None:
    data = make_tar([("a.jpg", b"x" * 600), ("b.jpg", b"y" * 600)])
    for place in range(0, 512, 7):
        bad = bytearray(data)
        bad[1536 + place] ^= 0x04
        with pytest.raises(BadDataset, match="at byte 1536"):
            list(members(SpanSource(bytes(bad), "shard")))


def test_archives_joined_by_cat_are_refused() -> None:
    data = make_tar([("a.jpg", b"x")])
    with pytest.raises(BadDataset, match="joined by cat"):
        list(members(SpanSource(data + data, "shard")))


def test_a_compressed_archive_is_named_as_such() -> None:
    import gzip

    with pytest.raises(BadDataset, match="gzip"):
        list(
            members(
                SpanSource(gzip.compress(make_tar([("a.jpg", random.Random(0).randbytes(2000))])), "shard")
            )
        )
