"""An index brought into line with its shards, from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_pipeline.errors import BadDataset
from data_pipeline.shards.build import build_index, index_shards
from data_pipeline.shards.dataset import Dataset
from data_pipeline.shards.repair import fix_index
from data_pipeline.shards.verify import verify
from orchestrator.cli import app
from tests.data_pipeline.shards.test_reindex import put, shard

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """Four shards of three samples each, by numbers; b is the one with the largest label."""
    folder = tmp_path / "set"
    put(str(folder), *NAMES)
    put(str(folder), "b", label=9)
    build_index(str(folder))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kinds(folder: Path) -> dict[str, str]:
    return {problem.shard: problem.kind for problem in verify(str(folder), decode=False).problems}


def test_only_shards_that_differ_are_read_again(indexed: Path) -> None:
    before = contents(indexed)
    old = Dataset.open(str(indexed))
    (indexed / "b.tar").write_bytes(shard("b", count=5, fill=b"!"))
    (indexed / "c.tar.idx").unlink()
    report = verify(str(indexed), decode=False)
    assert report.shards_that("differs") == {"b.tar", "c.tar"}
    fixed = fix_index(str(indexed), report.shards_that("differs"))
    assert (fixed.read_again, fixed.dropped, fixed.samples) == (["b.tar", "c.tar"], [], (12, 14))
    now = Dataset.open(str(indexed))
    assert fixed.digests == (old.digest, now.digest)
    assert (now.samples, now.max_label) == (14, 0)
    assert kinds(indexed) == {}
    after = contents(indexed)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"b.tar", "b.tar.idx", "index.json"}


def test_a_repaired_index_is_the_one_of_a_first_reading(indexed: Path, tmp_path: Path) -> None:
    (indexed / "b.tar").write_bytes(shard("b", count=5, fill=b"!"))
    fix_index(str(indexed), {"b.tar"})
    for name in NAMES:
        (tmp_path / f"{name}.tar").write_bytes((indexed / f"{name}.tar").read_bytes())
    assert build_index(str(tmp_path))["digest"] == Dataset.open(str(indexed)).digest


def test_missing_shards_are_dropped_only_when_that_is_said(indexed: Path) -> None:
    (indexed / "b.tar").unlink()
    before = contents(indexed)
    assert kinds(indexed) == {"b.tar": "missing"}
    with pytest.raises(BadDataset, match="--drop-missing"):
        fix_index(str(indexed), {"b.tar"})
    assert contents(indexed) == before
    fixed = fix_index(str(indexed), (), {"b.tar"})
    assert (fixed.dropped, fixed.samples) == (["b.tar"], (12, 9))
    assert kinds(indexed) == {"b.tar.idx": "orphan"}


def test_one_shard_that_cannot_be_used_leaves_the_index_as_it_was(indexed: Path) -> None:
    (indexed / "a.tar").write_bytes(shard("a", count=6))
    (indexed / "d.tar").write_bytes(shard("d")[:3000])
    before = contents(indexed)
    with pytest.raises(BadDataset, match=r"d\.tar.*cut off"):
        fix_index(str(indexed), {"a.tar", "d.tar"})
    assert contents(indexed) == before


def test_verify_reports_what_is_in_no_index_by_the_patterns_it_was_made_with(tmp_path: Path) -> None:
    put(str(tmp_path), "train-0", "train-1", "val-0")
    index_shards([f"{tmp_path}/train-*.tar"])
    put(str(tmp_path), "train-2")
    (tmp_path / "train-7.tar.idx").write_bytes((tmp_path / "train-1.tar.idx").read_bytes())
    assert kinds(tmp_path) == {"train-2.tar": "extra", "train-7.tar.idx": "orphan"}


def test_an_index_elsewhere_is_repaired_there(tmp_path: Path) -> None:
    put(str(tmp_path / "shards"), *NAMES)
    out = str(tmp_path / "index")
    index_shards([str(tmp_path / "shards")], out=out)
    put(str(tmp_path / "shards"), "b", count=8)
    fixed = fix_index(out, verify(out, decode=False).shards_that("differs"))
    assert fixed.samples == (12, 17)
    assert verify(out, decode=False).ok
    assert Dataset.open(out).url == Dataset.open(out).store.url != out
    assert not list((tmp_path / "shards").glob("*.idx"))


def test_classes_that_were_given_stay(tmp_path: Path) -> None:
    put(str(tmp_path), "a", "b", label=1)
    build_index(str(tmp_path), classes=["ant", "bee", "cow"])
    put(str(tmp_path), "b", count=5, label=2)
    fix_index(str(tmp_path), {"b.tar"})
    assert Dataset.open(str(tmp_path)).classes == ["ant", "bee", "cow"]
    put(str(tmp_path), "b", label=3)
    with pytest.raises(BadDataset, match="label 3 is none of the 3 classes"):
        fix_index(str(tmp_path), {"b.tar"})


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.output


@pytest.fixture
def pictures(digits: str, tmp_path: Path) -> Path:
    """A shard with images that decode, without index."""
    path = min(Path(digits, "val").glob("*.tar"))
    (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_the_commands_index_verify_and_fix(pictures: Path) -> None:
    (pictures / "names").write_text("".join(f"digit {n}\n" for n in range(10)))
    code, said = run("index", f"{pictures}/*.tar", "--classes", str(pictures / "names"))
    assert code == 0
    assert "the labels stand in cls (as the first sample shows)" in said
    assert "0 kept, 1 read, 0 dropped" in said
    assert run("verify", str(pictures))[0] == 0
    code, said = run("index", f"{pictures}/*.tar", "--json")
    facts = json.loads(said)
    assert (facts["kept"], facts["read"], facts["shards"], facts["classes"][3]) == (1, 0, 1, "digit 3")
    (idx,) = pictures.glob("*.idx")
    idx.write_bytes(b"")
    code, said = run("verify", str(pictures))
    assert (code, said.count("not those the index names")) == (1, 1)
    code, said = run("verify", str(pictures), "--fix-index")
    assert code == 0
    assert "read again: " in said
    assert "The digest is still" in said
    assert run("verify", str(pictures))[0] == 0


def test_the_classes_of_another_set_name_those_of_shards(pictures: Path, digits: str) -> None:
    code, said = run("index", str(pictures), "--classes", f"{digits}/train/index.json", "--json")
    assert code == 0, said
    assert json.loads(said)["classes"] == [str(n) for n in range(10)]


def test_fixing_says_what_it_means_for_runs(pictures: Path) -> None:
    run("index", str(pictures))
    (path,) = pictures.glob("*.tar")
    (pictures / "second.tar").write_bytes(path.read_bytes())
    path.unlink()
    code, said = run("verify", str(pictures), "--fix-index")
    assert code == 1
    assert "the index was left as it was: 1 shards are missing" in said
    run("index", str(pictures))
    path.write_bytes((pictures / "second.tar").read_bytes())
    run("index", str(pictures))
    path.unlink()
    code, said = run("verify", str(pictures), "--fix-index", "--drop-missing")
    assert code == 0, said
    assert "runs that were started on the old one will refuse this data set" in said


def test_flags_that_do_nothing_are_refused(pictures: Path) -> None:
    assert run("verify", str(pictures), "--drop-missing")[0] != 0
    (pictures / "empty").write_text("a\n\nb\n")
    assert run("index", str(pictures), "--classes", str(pictures / "empty"))[0] != 0
    assert run("index", str(pictures), "--classes", str(pictures / "none"))[0] != 0
    assert not (pictures / "index.json").exists()
