"""Sets of random samples, and the tar writers of other people that put them into shards."""

from __future__ import annotations

import io
import json
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import webdataset

File = tuple[str, bytes]
Writer = Callable[[Path, list[File], Path], None]
IMAGES = ("jpg", "JPG", "jpeg", "png", "PNG", "webp", "tif")


def random_set(draw: random.Random, samples: int, *, longest: int) -> list[File]:
    """Members of samples: several image extensions, members in any order, dots in folders, names up to `longest` bytes."""
    files = []
    for n in range(samples):
        key = draw.choice(_folders(longest)) + f"{n:04d}"
        members = [
            (f"{key}.{draw.choice(IMAGES)}", draw.randbytes(draw.choice([1, 511, 512, 3000]))),
            (f"{key}.cls", b"%d" % draw.randrange(100)),
        ]
        if draw.random() < 0.5:
            members.append((f"{key}.seg.png", draw.randbytes(100)))
        if draw.random() < 0.5:
            members.append((f"{key}.json", json.dumps({"caption": "ä b", "n": n}).encode()))
        draw.shuffle(members)
        files += members
    return files


def _folders(longest: int) -> list[str]:
    folders = ["", "./", "./a.b/", "x/y.z/", "train/n0144/"]
    if longest > 120:
        folders.append("d" * 90 + "/" + "e" * 60 + "/")
    if longest > 300:
        folders += ["n" * 150 + "ä/", "deep/" * 40]
    return folders


def by_tarfile(tar_format: int, *, folders: bool = False, **options: Any) -> Writer:
    def write(path: Path, files: list[File], scratch: Path) -> None:
        with tarfile.open(path, "w", format=tar_format, **options) as tar:
            made: set[str] = set()
            for name, data in files:
                folder = name.rpartition("/")[0]
                if folders and folder and folder not in made:
                    made.add(folder)
                    info = tarfile.TarInfo(folder)
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
                tar.addfile(_info(name, data), io.BytesIO(data))

    return write


def _info(name: str, data: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_700_000_000
    return info


def by_gnu_tar(*options: str) -> Writer:
    """GNU tar, from files on disk."""

    def write(path: Path, files: list[File], scratch: Path) -> None:
        names = []
        for name, data in files:
            file = scratch / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            names.append(name)
        gnu_tar(path, scratch, names, *options)

    return write


def gnu_tar(path: Path, folder: Path, names: Iterable[str], *options: str) -> None:
    command = ["tar", *options, "-cf", str(path), "-C", str(folder), "--no-recursion", "--null", "-T", "-"]
    listed = "\0".join(names).encode()
    subprocess.run(command, input=listed, check=True, timeout=60, capture_output=True)


def by_tar_writer(path: Path, files: list[File], scratch: Path) -> None:
    """webdataset's TarWriter, sample by sample."""
    writer = webdataset.TarWriter(str(path), encoder=False)
    for sample in _samples(files):
        writer.write(sample)
    writer.close()


def by_shard_writer(path: Path, files: list[File], scratch: Path) -> None:
    """webdataset's ShardWriter; all of it in one shard."""
    with webdataset.ShardWriter(f"{scratch}/%06d.tar", maxcount=10**6, encoder=False, verbose=0) as writer:
        for sample in _samples(files):
            writer.write(sample)
    (scratch / "000000.tar").rename(path)


def _samples(files: list[File]) -> list[dict[str, Any]]:
    samples: dict[str, dict[str, Any]] = {}
    for name, data in files:
        key, ext = webdataset.tariterators.base_plus_ext(name)
        samples.setdefault(key, {"__key__": key})[ext] = data
    return list(samples.values())


WRITERS: dict[str, tuple[Writer, int]] = {  # and the longest name it can write
    "tarfile ustar": (by_tarfile(tarfile.USTAR_FORMAT), 200),
    "tarfile gnu": (by_tarfile(tarfile.GNU_FORMAT), 400),
    "tarfile pax": (by_tarfile(tarfile.PAX_FORMAT), 400),
    "tarfile with folders": (by_tarfile(tarfile.GNU_FORMAT, folders=True), 400),
    "tarfile with a global header": (
        by_tarfile(tarfile.PAX_FORMAT, pax_headers={"comment": "made by hand"}),
        400,
    ),
    "GNU tar v7": (by_gnu_tar("--format=v7"), 100),
    "GNU tar ustar": (by_gnu_tar("--format=ustar"), 200),
    "GNU tar gnu": (by_gnu_tar("--format=gnu"), 400),
    "GNU tar pax": (by_gnu_tar("--format=pax"), 400),
    "GNU tar, large owner and early time": (
        by_gnu_tar("--format=gnu", "--owner=a:3000000", "--mtime=@-5"),
        400,
    ),
    "GNU tar, long blocking": (by_gnu_tar("--format=gnu", "-b", "64"), 400),
    "webdataset TarWriter": (by_tar_writer, 400),
    "webdataset ShardWriter": (by_shard_writer, 400),
}
