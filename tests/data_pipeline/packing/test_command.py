"""`mixer pack` as it is typed: what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from data_pipeline.shards.dataset import Dataset

ROOT = Path(__file__).parents[3]


def mixer(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", "pack", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_it_says_what_was_packed_and_where_the_sheet_is(tmp_path: Path, class_folders: Path) -> None:
    (class_folders / "n01/notes.txt").write_text("x")
    (tmp_path / "classes.txt").write_text("n03\nn02\nn01\n")
    done = mixer(
        class_folders, tmp_path / "out", "--classes", tmp_path / "classes.txt", "--encode", "jpeg:80"
    )
    assert done.returncode == 0, done.stderr
    for wanted in (
        "60 in 1 shard",
        "3, 20 images each",
        "JPEG RGB (60)",
        "60 encoded anew",
        "left out n01/notes.txt",
    ):
        assert wanted in done.stdout
    assert (tmp_path / "out/contact-sheet.png").as_uri() in done.stdout
    assert Dataset.open(str(tmp_path / "out")).classes == ["n03", "n02", "n01"]


def test_broken_images_are_all_named_and_it_ends_with_2(tmp_path: Path, class_folders: Path) -> None:
    for image in (class_folders / "n02").iterdir():
        image.write_bytes(b"broken")
    failed = mixer(class_folders, tmp_path / "out", "--json")
    assert (failed.returncode, failed.stdout) == (2, "")
    *lines, last = failed.stderr.splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == sorted(f"n02/n02_{n}.JPEG" for n in range(20))
    assert "20 of 60 images cannot be used" in last
    facts = json.loads(mixer(class_folders, tmp_path / "out", "--json", "--skip-broken").stdout)
    assert (facts["sets"][0]["samples"], len(facts["skipped"])) == (40, 20)


def test_a_list_of_classes_that_is_none_is_refused(tmp_path: Path, class_folders: Path) -> None:
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    failed = mixer(class_folders, tmp_path / "out", "--classes", tmp_path / "twice.txt")
    assert failed.returncode == 2
    assert "'a' is named twice" in failed.stderr
    assert not (tmp_path / "out").exists()


def test_the_classes_of_one_set_are_taken_for_another(tmp_path: Path, class_folders: Path) -> None:
    assert mixer(class_folders, tmp_path / "train").returncode == 0
    (class_folders / "n01").rename(tmp_path / "elsewhere")
    done = mixer(class_folders, tmp_path / "val", "--classes", tmp_path / "train/index.json", "--json")
    assert json.loads(done.stdout)["sets"][0]["per_class"] == {"n01": 0, "n02": 20, "n03": 20}
