"""A sample's bytes give the members that webdataset finds in them, whoever wrote the tar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from webdataset.tariterators import group_by_keys, tar_file_iterator

from data_pipeline.loading.expand import expand
from data_pipeline.shards.dataset import Dataset, build_index

LONG = "folder/" * 20 + "n" * 120
KEYS = ["a", "dir.with.dots/b", "ünïcode", LONG, "deep/" * 15 + "c", "d" * 95]


def shard(tar_format: int, mtime: float) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for n, key in enumerate(KEYS):
            for ext, data in (("cls", b"%d" % n), ("JPG", b"j" * (500 + n)), ("seg.png.txt", b"")):
                info = tarfile.TarInfo(f"{key}.{ext}")
                info.size, info.mtime = len(data), mtime
                tar.addfile(info, io.BytesIO(data))
            tar.addfile(tarfile.TarInfo(f"__meta-{n}__"))
    return out.getvalue()


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("mtime", [0, 1234567.25, 2**40])
def test_members_are_those_webdataset_finds(tmp_path: Path, tar_format: int, mtime: float) -> None:
    data = shard(tar_format, mtime if tar_format == tarfile.PAX_FORMAT else int(mtime))
    (tmp_path / "s.tar").write_bytes(data)
    build_index(str(tmp_path))
    table = Dataset.open(str(tmp_path)).table(0)
    expected = [
        {ext: value for ext, value in sample.items() if not ext.startswith("__")}
        for sample in group_by_keys(file | {"__url__": ""} for file in tar_file_iterator(io.BytesIO(data)))
    ]
    bounds = zip(table.offsets.tolist(), (table.offsets + table.lengths).tolist(), strict=True)
    found = [expand(memoryview(data), *bound) for bound in bounds]
    assert [{ext: bytes(view) for ext, view in fields.items()} for fields in found] == expected
    assert len(found) == len(KEYS)


def test_members_are_views_of_the_block() -> None:
    data = bytearray(_plain())
    fields = expand(memoryview(data), 0, 3 * 512)
    data[512] = ord("7")
    assert bytes(fields["cls"]) == b"7"


def _plain() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (("k.cls", b"3"), ("k.jpg", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
