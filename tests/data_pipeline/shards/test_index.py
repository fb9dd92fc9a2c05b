"""The index of other people's shards, and the data set it opens."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.shards import dataset
from data_pipeline.shards.build import Done
from data_pipeline.shards.dataset import Dataset, build_index
from data_pipeline.shards.format import Contents, SampleTable, Shard, Shards, dump_index, index_json
from data_pipeline.shards.labels import LabelRule, Labels
from data_pipeline.storage import open_store
from data_pipeline.storage.local import LocalStore

File = tuple[str, bytes]


def make_tar(files: list[File], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def sample(key: str, label: int = 0, size: int = 700) -> list[File]:
    return [(f"{key}.cls", b"%d" % label), (f"{key}.jpg", key.encode().ljust(size, b"."))]


def three_shards(url: str, counts: tuple[int, ...] = (5, 1, 7)) -> dict[str, bytes]:
    store, shards = open_store(url), {}
    for n, count in enumerate(counts):
        files = [file for i in range(count) for file in sample(f"{n}-{i}", i, 300 + 400 * i)]
        shards[f"s{n}.tar"] = make_tar(files, tarfile.PAX_FORMAT)
        store.put(f"s{n}.tar", shards[f"s{n}.tar"])
    return shards


def test_every_span_is_a_sample_and_its_crc(store_url: str) -> None:
    shards = three_shards(store_url)
    index = build_index(store_url)
    data = Dataset.open(store_url)
    assert (data.samples, data.digest, data.classes) == (13, index["digest"], None)
    assert data.max_label == 6
    assert data.image_exts == ["jpg"]
    seen = []
    for span in data.spans(0, 13):
        for offset, length, crc in zip(span.offsets, span.lengths, span.crcs, strict=True):
            raw = data.store.get_range(span.key, int(offset), int(length))
            assert raw == shards[span.key][offset : offset + length]
            assert google_crc32c.value(raw) == crc
            with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                seen.append([member.name for member in tar])
    assert seen == [
        [f"{n}-{i}.cls", f"{n}-{i}.jpg"] for n, count in enumerate((5, 1, 7)) for i in range(count)
    ]
    assert data.bytes == sum(int(span.lengths.sum()) for span in data.spans(0, 13))


def test_spans_are_cut_at_shard_borders(tmp_path: Path) -> None:
    three_shards(str(tmp_path))
    build_index(str(tmp_path))
    data = Dataset.open(str(tmp_path))
    for first in range(14):
        for count in range(14 - first):
            spans = data.spans(first, count)
            assert [n for s in spans for n in range(s.first, s.first + len(s.offsets))] == list(
                range(first, first + count)
            )
            assert len({s.shard for s in spans}) == len(spans)
    assert [span.lengths.dtype for span in data.spans(0, 1)] == [np.int64]
    for first, count in [(-1, 2), (0, 14), (13, 1), (2, -1)]:
        with pytest.raises(IndexError):
            data.spans(first, count)


def test_the_idx_file_is_sixteen_bytes_a_sample(tmp_path: Path) -> None:
    three_shards(str(tmp_path), (50,))
    build_index(str(tmp_path))
    three_shards(str(tmp_path), (60,))
    small = (tmp_path / "s0.tar.idx").stat().st_size
    build_index(str(tmp_path))
    assert (tmp_path / "s0.tar.idx").stat().st_size - small == 10 * 16


def test_the_digest_is_that_of_the_bytes_not_of_the_copy(tmp_path: Path) -> None:
    for copy in ("one", "two"):
        three_shards(str(tmp_path / copy))
    first, second = build_index(str(tmp_path / "one")), build_index(str(tmp_path / "two"))
    assert first["digest"] == second["digest"]
    assert first["shards"]["etag"] != second["shards"]["etag"]
    three_shards(str(tmp_path / "two"), (5, 1, 6))
    assert build_index(str(tmp_path / "two"))["digest"] != first["digest"]


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    shards = three_shards(str(tmp_path))
    told: list[Done] = []
    build_index(str(tmp_path), told.append)
    size = sum(map(len, shards.values()))
    assert told[-1] == Done(size, size, 3, 3)


def test_what_webdataset_skips_is_skipped_and_counted(tmp_path: Path) -> None:
    files = [
        ("__info__", b"?"),
        *sample("a"),
        ("README", b"?"),
        sample("b")[0],
        ("._b.jpg", b"?"),
        sample("b")[1],
    ]
    (tmp_path / "s.tar").write_bytes(make_tar(files))
    index = build_index(str(tmp_path))
    assert (index["samples"], index["skipped"]) == (2, 3)
    data = Dataset.open(str(tmp_path))
    (span,) = data.spans(1, 1)
    raw = data.store.get_range("s.tar", int(span.offsets[0]), int(span.lengths[0]))
    assert google_crc32c.value(raw) == span.crcs[0]
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.getnames() == ["b.cls", "._b.jpg", "b.jpg"]


REFUSED = {
    "members apart": (
        [*sample("a"), *sample("b"), ("a.png", b"x")],
        "'a' at byte 5120: the members of a sample do not",
    ),
    "members far apart": (
        [("a.jpg", b"x"), ("b.jpg", b"x"), ("a.cls", b"1"), ("b.cls", b"1")],
        "'a' at byte 2048: the members of a sample do not .* sorted by name",
    ),
    "key twice": ([*sample("a"), *sample("b"), *sample("a")], "'a' at byte 5120: the key comes twice"),
    "member twice": ([*sample("a"), ("a.JPG", b"x")], "two members with the extension 'jpg'"),
    "no label": ([*sample("a"), ("b.jpg", b"x")], "'b' at byte 2560: a sample without label"),
    "no image": ([("a.cls", b"1"), ("a.txt", b"x")], "'a' at byte 0: a sample without image"),
    "two images": ([*sample("a"), ("a.png", b"x")], "a sample with 2 images"),
    "numbers and names": (
        [*sample("z"), ("a.cls", b"cat"), ("a.jpg", b"x")],
        r"numbers .* and names .*'cat'",
    ),
    "negative label": ([("a.cls", b"-1"), ("a.jpg", b"x")], r"the label is '-1'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_lose_samples_is_refused_by_shard_key_and_byte(tmp_path: Path, case: str) -> None:
    files, message = REFUSED[case]
    (tmp_path / "s.tar").write_bytes(make_tar(files))
    with pytest.raises(BadDataset, match=message) as caught:
        build_index(str(tmp_path))
    assert "s.tar" in str(caught.value)
    assert not (tmp_path / "index.json").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
    (tmp_path / "s.tar").write_bytes(out.getvalue())
    with pytest.raises(BadDataset, match="a hard link"):
        build_index(str(tmp_path))


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "s.tar.zst"])
def test_compressed_shards_are_refused_by_name(tmp_path: Path, name: str) -> None:
    three_shards(str(tmp_path))
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadDataset, match="compressed"):
        build_index(str(tmp_path))


def test_a_place_without_shards_says_where_there_are_some(tmp_path: Path) -> None:
    three_shards(str(tmp_path / "train"))
    with pytest.raises(BadDataset, match="under train"):
        build_index(str(tmp_path))
    with pytest.raises(BadDataset, match="correct the url"):
        build_index(str(tmp_path / "nowhere"))
    with pytest.raises(BadDataset, match="mixer index"):
        Dataset.open(str(tmp_path))


def test_too_few_class_names_are_refused(tmp_path: Path) -> None:
    three_shards(str(tmp_path))
    with pytest.raises(BadDataset, match="'0-3' at byte 7680: the label 3 is none of the 3 classes"):
        build_index(str(tmp_path), classes=["a", "b", "c"])


def test_an_index_that_was_touched_is_refused(tmp_path: Path) -> None:
    three_shards(str(tmp_path))
    index = build_index(str(tmp_path))
    changes: list[dict[str, object]] = [{"samples": 12}, {"version": 3}, {"digest": "0"}, {"shards": {}}]
    for change in changes:
        (tmp_path / "index.json").write_bytes(dump_index(index | change))
        with pytest.raises(BadDataset, match=r"index\.json"):
            Dataset.open(str(tmp_path))
        (tmp_path / "index.json").write_text(json.dumps(index | change))
        with pytest.raises(BadDataset, match=r"index\.json"):
            Dataset.open(str(tmp_path))
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(BadDataset, match=r"index\.json is no index"):
        Dataset.open(str(tmp_path))


def test_no_bit_of_an_index_can_turn_unseen(tmp_path: Path) -> None:
    """Neither of what the digest covers nor of the rest: sizes, ETags, extensions, classes."""
    three_shards(str(tmp_path))
    build_index(str(tmp_path))
    whole = (tmp_path / "index.json").read_bytes()
    for at in range(len(whole)):
        (tmp_path / "index.json").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(BadDataset, match=r"index\.json"):
            Dataset.open(str(tmp_path))


def test_metadata_that_arrives_wrong_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_shards(str(tmp_path))
    build_index(str(tmp_path))
    whole, wrong = LocalStore.get, [0]

    def get(store: LocalStore, key: str) -> bytes:
        data, wrong[0] = whole(store, key), wrong[0] + 1
        return data if wrong[0] % 2 == 0 else data[:40] + bytes([data[40] ^ 1]) + data[41:]

    monkeypatch.setattr(LocalStore, "get", get)
    data = Dataset.open(str(tmp_path))
    assert len(data.spans(0, 13)) == 3
    assert wrong == [8]


def test_an_idx_file_that_was_touched_or_lost_is_refused(tmp_path: Path) -> None:
    three_shards(str(tmp_path))
    build_index(str(tmp_path))
    idx = tmp_path / "s1.tar.idx"
    idx.write_bytes(idx.read_bytes()[:-1] + b"\xff")
    data = Dataset.open(str(tmp_path))
    assert len(data.spans(0, 5)) == 1
    with pytest.raises(BadDataset, match=r"s1\.tar\.idx"):
        data.spans(4, 3)
    idx.unlink()
    with pytest.raises(BadDataset, match=r"s1\.tar\.idx is missing"):
        data.spans(5, 1)


def test_tables_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_shards(str(tmp_path), (10,) * 12)
    build_index(str(tmp_path))
    monkeypatch.setattr(dataset, "TABLE_CACHE_BYTES", 3 * 10 * 16)
    data = Dataset.open(str(tmp_path))
    fetched: list[int] = []
    fetch = data._fetch_table
    monkeypatch.setattr(data, "_fetch_table", lambda shard: fetched.append(1) or fetch(shard))
    for shard in (*range(12), *range(11, 8, -1)):
        assert len(data.table(shard)) == 10
        assert sum(table.nbytes for table in data._tables.values()) <= 3 * 10 * 16
    assert len(fetched) == 12  # the last three were still there


def test_a_thousand_million_samples_are_looked_up_in_bounded_memory(tmp_path: Path) -> None:
    n, count = 1000, 1_000_000
    offsets = np.arange(count, dtype=np.int64) * 2048
    table = SampleTable(offsets, np.full(count, 2048, np.uint32), np.arange(count, dtype=np.uint32))
    idx = table.to_bytes({})
    sha256 = hashlib.sha256(idx).hexdigest()
    shards = Shards.of(Shard(f"{i:04d}.tar", 2048 * count, count, "", 0, sha256) for i in range(n))
    contents = Contents({"jpg"}, max_label=3, labels_per_sample=1)
    index = index_json(shards, contents, Labels(LabelRule()), span_bytes=1, given=False, where={})
    (tmp_path / "index.json").write_bytes(dump_index(index))
    (tmp_path / "table").write_bytes(idx)
    for i in range(n):
        (tmp_path / f"{i:04d}.tar.idx").symlink_to("table")
    data = Dataset.open(str(tmp_path))
    assert data.samples == 10**9
    for sample in (0, 10**9 - 1, *np.random.default_rng(0).integers(10**9, size=30).tolist()):
        (span,) = data.spans(sample, 1)
        assert (span.key, span.crcs[0]) == (f"{sample // count:04d}.tar", sample % count)
        assert sum(table.nbytes for table in data._tables.values()) <= dataset.TABLE_CACHE_BYTES


def test_half_a_pack_is_not_taken_for_a_data_set(tmp_path: Path) -> None:
    three_shards(str(tmp_path))
    (tmp_path / "pack.json").write_text('{"format": 1, "sets": {}}')
    with pytest.raises(BadDataset, match=r"a pack was begun at .*: run the same `mixer pack` again"):
        Dataset.open(str(tmp_path))
    with pytest.raises(BadDataset, match=r"a pack was begun at .* remove pack"):
        build_index(str(tmp_path))
    (tmp_path / "pack.json").write_text('{"format": 1, "sets": {}, "finished": true}')
    assert build_index(str(tmp_path))["samples"] == 13
