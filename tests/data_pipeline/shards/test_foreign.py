"""Tars nobody here wrote: what stock webdataset makes of them is what we make of them, or they are refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from PIL import Image

from data_pipeline.errors import BadDataset
from data_pipeline.loading.blocks import BlockFetcher
from data_pipeline.packing.pack import pack
from data_pipeline.shards.dataset import Dataset, build_index
from data_pipeline.shards.verify import verify
from tests.data_pipeline.shards.test_tars import make_tar
from tests.data_pipeline.shards.writers import IMAGES, WRITERS, File, gnu_tar, random_set

needs_gnu_tar = pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar command")


def stock(path: Path) -> list[dict[str, Any]]:
    """What webdataset yields, undecoded."""
    with path.open("rb") as stream:
        files = webdataset.tariterators.tar_file_expander(iter([{"url": "", "stream": stream}]))
        return [
            {k: v for k, v in sample.items() if k not in ("__url__", "__local_path__")}
            for sample in webdataset.tariterators.group_by_keys(files)
        ]


def ours(folder: Path) -> list[dict[str, Any]]:
    """Every span of the index, on its own, expanded by webdataset."""
    data, found = Dataset.open(str(folder)), []
    for span in data.spans(0, data.samples):
        for offset, length in zip(span.offsets.tolist(), span.lengths.tolist(), strict=True):
            raw = io.BytesIO(data.store.get_range(span.key, offset, length))
            files = (f | {"__url__": ""} for f in webdataset.tariterators.tar_file_iterator(raw))
            (sample,) = webdataset.tariterators.group_by_keys(files)
            found.append({k: v for k, v in sample.items() if k != "__url__"})
    return found


@needs_gnu_tar
@pytest.mark.parametrize("name", WRITERS)
def test_our_samples_are_those_of_stock_webdataset(tmp_path: Path, name: str) -> None:
    write, longest = WRITERS[name]
    draw = random.Random(name)
    for n in range(3):
        shards, scratch = tmp_path / f"set{n}", tmp_path / f"scratch{n}"
        shards.mkdir()
        scratch.mkdir()
        files = random_set(draw, 25, longest=longest)
        write(shards / "a.tar", files, scratch)
        index = build_index(str(shards))
        expected = stock(shards / "a.tar")
        assert len(expected) == index["samples"] == 25
        assert ours(shards) == expected
        assert sum(len(sample) - 1 for sample in expected) == len(files)
        delivered = BlockFetcher(Dataset.open(str(shards))).fetch(0, 25)
        images = {ext.lower() for ext in IMAGES}
        assert [s.image for s in delivered] == [
            next(v for k, v in e.items() if k in images) for e in expected
        ]
        assert [s.labels for s in delivered] == [(int(e["cls"]),) for e in expected]
        assert verify(str(shards), decode=False).ok


def test_stock_webdataset_reads_what_pack_wrote(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        for n in range(7):
            path = tmp_path / "in" / label / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (n, 100, 200)).save(path)
    pack(tmp_path / "in", str(tmp_path / "out"), shard_bytes=8000)
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert len(shards) > 1
    expected = [sample for shard in shards for sample in stock(shard)]
    assert ours(tmp_path / "out") == expected
    originals = {path.read_bytes() for path in (tmp_path / "in").rglob("*.png")}
    assert {sample["png"] for sample in expected} == originals


def patched(data: bytes, start: int, field: slice, value: bytes) -> bytes:
    """A tar with a field of the header at `start` replaced, and the checksum made good."""
    header = bytearray(data[start : start + 512])
    header[field] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + 512 :]


SIZE, UID, MTIME, KIND = slice(124, 136), slice(108, 116), slice(136, 148), slice(156, 157)


def base_256(number: int, length: int) -> bytes:
    return b"\x80" + number.to_bytes(length - 1, "big")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (SIZE, base_256(700, 12)),
        (SIZE, b"       1274 "),
        (SIZE, b"000000001274"),
        (UID, base_256(2**40, 8)),
        (UID, b"\xff" * 8),
        (MTIME, b"\xff" * 12),
        (MTIME, b"\0" * 12),
        (KIND, b"\0"),
        (KIND, b"7"),
    ],
)
def test_numbers_in_headers_may_be_written_in_every_way(tmp_path: Path, field: slice, value: bytes) -> None:
    data = make_tar([("a.jpg", b"x" * 700), ("a.cls", b"1"), ("b.jpg", b"y" * 700), ("b.cls", b"2")])
    (tmp_path / "s.tar").write_bytes(patched(data, 2560, field, value))
    assert build_index(str(tmp_path))["samples"] == 2
    assert ours(tmp_path) == stock(tmp_path / "s.tar")


def test_checksums_of_signed_bytes_are_taken(tmp_path: Path) -> None:
    data = bytearray(make_tar([("ä.jpg", b"x"), ("ä.cls", b"1")]))
    high = sum(byte > 127 for byte in data[:512])
    assert high == 2
    data[148:156] = b"%06o\0 " % (int(data[148:154], 8) - 256 * high)
    (tmp_path / "s.tar").write_bytes(data)
    build_index(str(tmp_path))
    assert ours(tmp_path) == stock(tmp_path / "s.tar")


def test_the_size_in_a_pax_header_counts(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (("a.jpg", b"x" * 700), ("a.cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = {"size": str(len(content))}
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "s.tar").write_bytes(patched(out.getvalue(), 1024, SIZE, b"00000000000\0"))
    build_index(str(tmp_path))
    assert ours(tmp_path) == stock(tmp_path / "s.tar")
    assert ours(tmp_path)[0]["jpg"] == b"x" * 700


def test_a_global_header_in_the_middle_of_a_sample_does_not_shift_spans(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.jpg", "a.cls", "b.jpg", "b.cls"):
            info = tarfile.TarInfo(name)
            info.size = 1
            if name.endswith("cls"):
                out.write(tarfile.TarInfo.create_pax_global_header({"comment": "here"}))
                tar.offset = out.tell()
            tar.addfile(info, io.BytesIO(b"1"))
    (tmp_path / "s.tar").write_bytes(out.getvalue())
    assert build_index(str(tmp_path))["samples"] == 2
    assert ours(tmp_path) == stock(tmp_path / "s.tar")


PLAIN = [("a.jpg", b"x" * 700), ("a.cls", b"1"), ("b.jpg", b"y" * 700), ("b.cls", b"2")]


def bad_number(data: bytes) -> bytes:
    return patched(data, 2560, UID, b"nobody\0\0")


def of_kind(kind: bytes) -> Any:
    return lambda data: patched(data, 2560, KIND, kind)


REFUSED: dict[str, tuple[Any, str]] = {
    "gzip": (gzip.compress, "at byte 0: this is gzip"),
    "bzip2": (bz2.compress, "at byte 0: this is bzip2"),
    "xz": (lzma.compress, "at byte 0: this is xz"),
    "lzma": (lambda data: lzma.compress(data, lzma.FORMAT_ALONE), "at byte 0: this is lzma"),
    "zstd": (lambda data: b"\x28\xb5\x2f\xfd" + data, "at byte 0: this is zstd"),
    "hard link": (of_kind(b"1"), "'b' at byte 2560: 'b.jpg' is a hard link"),
    "symbolic link": (of_kind(b"2"), "'b' at byte 2560: 'b.jpg' is a symbolic link"),
    "sparse": (of_kind(b"S"), "'b' at byte 2560: 'b.jpg' is a sparse file"),
    "pipe": (of_kind(b"6"), "'b' at byte 2560: 'b.jpg' is a pipe"),
    "continued": (of_kind(b"M"), "'b' at byte 2560: 'b.jpg' is the rest of a file from another volume"),
    "unknown kind": (of_kind(b"Q"), "'b' at byte 2560: 'b.jpg' is of the kind 'Q'"),
    "cut in data": (lambda data: data[:3100], "at byte 2560: the member 'b.jpg' of 700 bytes goes past"),
    "cut in a header": (lambda data: data[:2600], "at byte 2560: the archive ends inside a header"),
    "no end marker": (lambda data: data[:5120], "at byte 5120: the archive ends without the end-of-archive"),
    "bad checksum": (lambda data: data[:2561] + b"!" + data[2562:], "at byte 2560: no valid tar header"),
    "not a number": (bad_number, "at byte 2560: no valid tar header"),
    "negative size": (
        lambda data: patched(data, 2560, SIZE, b"\xff" * 12),
        "at byte 2560: no valid tar header",
    ),
    "joined by cat": (lambda data: data + data, "joined by cat"),
    "not a tar": (lambda data: b"hello " * 2000, "at byte 0: no valid tar header"),
    "empty file": (lambda data: b"", "at byte 0: the archive ends without"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_by_shard_key_and_byte(tmp_path: Path, case: str) -> None:
    damage, message = REFUSED[case]
    (tmp_path / "good.tar").write_bytes(make_tar(PLAIN))
    (tmp_path / "s.tar").write_bytes(damage(make_tar(PLAIN)))
    with pytest.raises(BadDataset, match=re.escape(message)) as caught:
        build_index(str(tmp_path))
    assert "/s.tar" in str(caught.value)
    assert not (tmp_path / "index.json").exists()


@needs_gnu_tar
@pytest.mark.parametrize("tar_format", ["gnu", "pax"])
def test_sparse_files_of_gnu_tar_are_refused(tmp_path: Path, tar_format: str) -> None:
    (tmp_path / "a.cls").write_bytes(b"1")
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    gnu_tar(tmp_path / "s.tar", tmp_path, ["a.cls", "a.jpg"], f"--format={tar_format}", "--sparse")
    with pytest.raises(BadDataset, match=r"s\.tar.*sparse"):
        build_index(str(tmp_path))


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ([*PLAIN, ("c.jpg", b"x")], [("c.cls", b"1"), *PLAIN], "b.tar holds members of 'c' too"),
        (
            [*PLAIN, ("c.jpg", b"x"), ("c.cls", b"1")],
            [("c.json", b"{}"), *PLAIN],
            "a.tar holds members of 'c' too",
        ),
    ],
)
def test_a_sample_split_over_two_shards_is_named_as_such(
    tmp_path: Path, first: list[File], second: list[File], named: str
) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar(first))
    (tmp_path / "b.tar").write_bytes(make_tar(second))
    with pytest.raises(BadDataset, match=f"The sample is split: {named}"):
        build_index(str(tmp_path))


def test_an_incomplete_last_sample_is_not_called_split_without_reason(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar([*PLAIN, ("c.jpg", b"x")]))
    (tmp_path / "b.tar").write_bytes(make_tar(PLAIN))
    with pytest.raises(
        BadDataset, match=r"a\.tar, sample 'c' at byte 5120: a sample without label"
    ) as caught:
        build_index(str(tmp_path))
    assert "split" not in str(caught.value)


def test_all_bad_shards_are_named_together_and_the_good_ones_stay_scanned(tmp_path: Path) -> None:
    for n in range(6):
        data = make_tar(PLAIN)
        (tmp_path / f"{n}.tar").write_bytes(data[:3100] if n % 2 else data)
    with pytest.raises(BadDataset, match="3 shards cannot be used") as caught:
        build_index(str(tmp_path))
    assert [
        line.count(f"/{n}.tar") for n, line in zip((1, 3, 5), str(caught.value).split("\n")[1:], strict=True)
    ]
    assert len(list(tmp_path.glob("*.idx"))) == 3
