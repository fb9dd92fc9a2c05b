"""Damage done to a packed set, and what verify says about it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_pipeline.errors import BadDataset
from data_pipeline.packing.pack import pack
from data_pipeline.shards.build import Done
from data_pipeline.shards.dataset import Dataset, build_index
from data_pipeline.shards.verify import Problem, verify


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    for label in ("ant", "bee"):
        for n in range(6):
            path = tmp_path / "in" / label / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (n, 100, 200)).save(path)
    pack(tmp_path / "in", str(tmp_path / "out"), shard_bytes=8000)
    return tmp_path / "out"


def test_a_whole_set_has_no_problems_and_every_byte_was_read(packed: Path) -> None:
    told: list[Done] = []
    report = verify(str(packed), told.append)
    assert report.ok
    assert report.samples == 12
    size = sum(path.stat().st_size for path in packed.glob("*.tar"))
    assert report.bytes == size
    assert told[-1][:2] == (size, size)
    assert report.to_json()["ok"] is True


def test_a_flipped_byte_is_named_by_shard_sample_and_byte(packed: Path) -> None:
    data = Dataset.open(str(packed))
    (span,) = data.spans(5, 1)
    shard = packed / span.key
    raw = bytearray(shard.read_bytes())
    raw[int(span.offsets[0]) + 1600] ^= 1
    shard.write_bytes(raw)
    sample, whole = verify(str(packed)).problems
    assert (sample.shard, sample.sample, sample.offset) == (span.key, 5, int(span.offsets[0]))
    assert sample.key is not None
    assert "CRC32C" in sample.what
    assert (whole.shard, whole.sample) == (span.key, None)
    assert f"sample 5 ({sample.key}) at byte {sample.offset}" in str(sample)


def test_a_flipped_byte_outside_samples_is_seen_too(packed: Path) -> None:
    shard = packed / "data-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    (problem,) = verify(str(packed)).problems
    assert (problem.shard, problem.sample) == (shard.name, None)


def _cut(packed: Path) -> None:
    shard = packed / "data-000001.tar"
    shard.write_bytes(shard.read_bytes()[:3000])


def _remove(packed: Path) -> None:
    (packed / "data-000001.tar").unlink()


def _lose_idx(packed: Path) -> None:
    (packed / "data-000001.tar.idx").unlink()


def _add(packed: Path) -> None:
    shutil.copy(packed / "data-000001.tar", packed / "more.tar")


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (_cut, ["has 3000 bytes", "samples are lost"]),
        (_remove, ["is missing, and with it"]),
        (_lose_idx, ["idx is missing"]),
        (_add, ["the index does not name it"]),
    ],
)
def test_damage_of_whole_files(packed: Path, damage: Callable[[Path], None], messages: list[str]) -> None:
    damage(packed)
    problems = verify(str(packed)).problems
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert message in str(problem)


def test_bytes_that_match_but_do_not_decode_are_listed_if_asked(packed: Path) -> None:
    shard = packed / "data-000000.tar"
    raw = bytearray(shard.read_bytes())
    place = raw.index(b"IDAT")
    raw[place + 4 : place + 12] = b"\xff" * 8
    shard.write_bytes(raw)
    build_index(str(packed), classes=["ant", "bee"])
    assert verify(str(packed), decode=False).ok
    (problem,) = verify(str(packed)).problems
    assert problem.sample == 0
    assert isinstance(problem, Problem)


def test_a_place_without_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="mixer index"):
        verify(str(tmp_path))
