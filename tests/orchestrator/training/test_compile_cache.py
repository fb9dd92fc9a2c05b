"""The key holds all that matters; a packed cache comes back as it was, and nothing in it can leave its folder."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.frozen import DataFacts, differences, identity, resources
from orchestrator.spec import Spec
from orchestrator.spec_text import parse_spec
from orchestrator.training import compile_cache
from orchestrator.training.compile_cache import BadCache, pack, unpack


# -- packing ----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with two kernels, a link out of it and a lock."""
    folder = tmp_path / "cache"
    (folder / "ab").mkdir(parents=True)
    (folder / "ab" / "kernel.so").write_bytes(b"code")
    (folder / "empty.py").write_bytes(b"")
    (folder / "passwd").symlink_to("/etc/passwd")
    (folder / "some.lock").write_bytes(b"")
    return folder


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_files_come_back_as_they_were_and_links_and_locks_do_not(folder: Path, tmp_path: Path) -> None:
    data = pack(folder)
    assert unpack(data, sha(data), tmp_path / "other") == 2
    found = {
        path.relative_to(tmp_path / "other").as_posix(): path.read_bytes()
        for path in (tmp_path / "other").rglob("*")
        if path.is_file()
    }
    assert found == {"ab/kernel.so": b"code", "empty.py": b""}
    assert pack(tmp_path / "other") == data
    assert str(tmp_path).encode() not in data


def odd(change: Callable[[tarfile.TarInfo], object]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("fine")
        info.size = 4
        change(info)
        tar.addfile(info, io.BytesIO(b"evil") if info.isreg() else None)
    return buffer.getvalue()


def link(kind: bytes, target: str) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, target, 0

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda info: setattr(info, "name", "../escaped"),
        lambda info: setattr(info, "name", "a/../../escaped"),
        lambda info: setattr(info, "name", "/tmp/escaped"),
        lambda info: setattr(info, "name", "a\\..\\escaped"),
        link(tarfile.SYMTYPE, "/etc"),
        link(tarfile.LNKTYPE, "fine"),
        link(tarfile.CHRTYPE, ""),
    ],
    ids=["parent", "parent inside", "absolute", "backslash", "symlink", "hard link", "device"],
)
def test_nothing_leaves_the_folder(change: Callable[[tarfile.TarInfo], object], tmp_path: Path) -> None:
    data = odd(change)
    with pytest.raises(BadCache, match="no file with a plain relative name"):
        unpack(data, sha(data), tmp_path / "room" / "cache")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "room").iterdir()) == []


def test_other_bytes_than_the_logs_and_no_tar_at_all_are_refused(folder: Path, tmp_path: Path) -> None:
    data = pack(folder)
    with pytest.raises(BadCache, match="SHA-256"):
        unpack(data[:-1] + b"x", sha(data), tmp_path / "other")
    with pytest.raises(BadCache, match="no tar"):
        unpack(b"x" * 2000, sha(b"x" * 2000), tmp_path / "other")
    assert not (tmp_path / "other").exists()


# -- the key ----------------------------------------------------------------------------------------------------------------
SPEC = """
name: t
model: {patch: 4, dim: 16, depth: 3, token_dim: 8, channel_dim: 32, classes: 7, image_size: 16}
data: {train: /nowhere}
train: {global_batch: 12, micro_batch: 2, steps: 10, precision: fp32, zero: 2}
workers: {max: 3}
"""


def key(spec: Spec, device: str = "cpu", threads: int = 1) -> str:
    return compile_cache.key(compile_cache.facts(spec, device, threads))


@pytest.mark.parametrize(
    "change",
    ["train.micro_batch=4", "train.precision=bf16", "train.zero=3", "model.dim=32",
     "train.recompute=block", "train.recompute=gelu"],
)  # fmt: skip
def test_what_changes_the_kernels_changes_the_key(change: str) -> None:
    assert key(parse_spec(SPEC)) != key(parse_spec(SPEC, [change]))


def test_the_machine_is_in_the_key_and_what_compiles_nothing_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    first = key(parse_spec(SPEC))
    for change in ("train.steps=20", "train.seed=3", "workers.max=2", "train.optimizer.lr=1e-2"):
        assert key(parse_spec(SPEC, [change])) == first
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/some/where")
    assert key(parse_spec(SPEC)) == first
    assert key(parse_spec(SPEC), device="another GPU") != first
    assert key(parse_spec(SPEC), threads=2) != first
    monkeypatch.setattr(compile_cache, "_version", lambda name: "9.9")
    assert key(parse_spec(SPEC)) != first


@pytest.mark.parametrize(
    "changed",
    [
        "mixer_model/layers.py",
        "mixer_model/mixer.py",
        "mixer_model/token_mixers/gmlp.py",
        "orchestrator/training/blocks.py",
    ],
)
def test_a_change_of_the_code_that_is_compiled_changes_the_key(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = key(parse_spec(SPEC))
    for package in ("mixer_model", "orchestrator"):
        shutil.copytree(compile_cache.PACKAGES / package, tmp_path / package)
    monkeypatch.setattr(compile_cache, "PACKAGES", tmp_path)
    assert key(parse_spec(SPEC)) == first
    with open(tmp_path / changed, "a") as file:
        file.write("# another\n")
    assert key(parse_spec(SPEC)) != first


def test_the_switch_is_a_resource_and_no_part_of_a_runs_identity() -> None:
    on, off = parse_spec(SPEC), parse_spec(SPEC, ["train.compile_cache=off"])
    data = DataFacts(100, 1000.0, "digest")
    assert "train.compile_cache" not in identity(on, data, None)
    assert identity(on, data, None) == identity(off, data, None)
    assert differences(resources(on), resources(off)) == ["train.compile_cache: True -> False"]
