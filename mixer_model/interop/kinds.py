"""What a file of weights is, told by its first bytes and never by its name.

safetensors: the length of a header, then the header, in JSON. A zip with `.npy` in it is numpy's `.npz`, one with `data.pkl` torch's;
a bare pickle is torch's older format. Others that people try are named, so that the message can say what to do instead.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final, Literal

from .errors import WeightsError

Kind = Literal["safetensors", "npz", "torch"]
_ALLOWED: Final = "safetensors, Google's .npz, and a state dict saved by torch (.pth, .bin) are"
_DAMAGED: Final = "a zip that is cut short or damaged; fetch it again"
_OTHERS: Final = {
    b"\x89HDF": "an HDF5 file (Keras)",
    b"\x93NUMPY": "a single numpy array",
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"GGUF": "a GGUF file",
    b"\x08": "an ONNX graph; give the file that it was exported from",
}


def kind_of(path: Path) -> Kind:
    """What the file is. FileNotFoundError where there is none, WeightsError for all that cannot be read here."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        head = file.read(16)
    if _has_header(
        head, path.stat().st_size
    ):  # before the others: a zip is told by its end, and numbers may look like one
        return "safetensors"
    if zipfile.is_zipfile(path):
        return _of_zip(path)
    if head[:1] == b"\x80" and len(head) > 2:
        return "torch"
    what = next((what for magic, what in _OTHERS.items() if head.startswith(magic)), None)
    if head.startswith(b"PK"):
        what = _DAMAGED
    raise WeightsError(f"{path} is {what or _unknown(head)}; {_ALLOWED} read")


def _of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{path} is {_DAMAGED} ({error}); {_ALLOWED} read") from error
    if any(name.rsplit("/", 1)[-1] == "data.pkl" for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise WeightsError(f"{path} is a zip of {', '.join(names[:3]) or 'nothing'}; {_ALLOWED} read")


def _has_header(head: bytes, size: int) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27 and size > 8


def _unknown(head: bytes) -> str:
    if not head:
        return "empty"
    return (
        "a pointer of Git LFS, not the file itself"
        if head.startswith(b"version https:")
        else "no file of weights"
    )
