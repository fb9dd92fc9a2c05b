"""A box of a JPEG without decoding the rest of it: `_roi.c`, where it was built and proved itself.

Optional. It is built when the package is installed where there is a C compiler with Python's headers, and
works with the libjpeg-turbo inside Pillow's wheel. Before it is used it decodes a few small pictures and is
compared with simplejpeg. Where it is missing, images are decoded whole and cut: slower, the same pixels.
MIXER_NATIVE=off switches it off.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg

Box = tuple[int, int, int, int]  # top, left, height, width
Pixels = npt.NDArray[np.uint8]

_LIBRARY = "[Pp]illow.libs/libjpeg-*.so.62*"  # the interface that _roi.c is written for
_SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def available() -> bool:
    """Whether `read` can be used here."""
    return not why_not()


@cache
def why_not() -> str:
    """Why `read` cannot be used here; empty where it can."""
    if os.environ.get("MIXER_NATIVE") == "off":
        return "MIXER_NATIVE is off"
    libraries = sorted(Path(PIL.__file__).parents[1].glob(_LIBRARY))
    if not libraries:
        return f"this Pillow brings no {_LIBRARY}; its wheels for Linux from PyPI do"
    try:
        _native().use(str(libraries[0]))
        wrong = [each for each in _SUBSAMPLINGS if not _proves_itself(each)]
    except ImportError as error:
        return f"not built ({error}); install mixer where gcc and Python's headers are"
    except OSError as error:
        return f"Pillow's libjpeg is not what it should be: {error}"
    except (AttributeError, TypeError) as error:
        return f"built from other sources than these ({error}); install mixer again"
    return f"it does not decode {', '.join(wrong)} as simplejpeg does" if wrong else ""


def read(data: bytes | memoryview, box: Box, *, to_the_end: bool = True) -> Pixels | None:
    """The pixels of the box, uint8 [height, width, 3], as a whole decode shows them. Only where `available`.

    Frees the GIL. None for what has to be decoded whole: other kinds than plain baseline JPEG, and any damage. to_the_end:
    also look for damage below the box; may be left out for bytes that were read to the end before.
    """
    pixels = np.empty((*box[2:], 3), np.uint8)
    return pixels if _native().read(data, pixels, *box, to_the_end) else None


@cache
def _native() -> Any:
    return import_module("data_pipeline.pixels._roi")


def _proves_itself(subsampling: str) -> bool:
    """Whether boxes of a small picture come out right, and a cut one is refused."""
    noise = np.random.Philox(key=0).random_raw(71 * 93 * 3).astype(np.uint8).reshape(71, 93, 3)
    kind = ("GRAY", "Gray") if subsampling == "Gray" else ("RGB", subsampling)
    source = np.ascontiguousarray(noise[:, :, :1]) if subsampling == "Gray" else noise
    data: bytes = simplejpeg.encode_jpeg(source, colorspace=kind[0], colorsubsampling=kind[1])
    whole: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    for top, left, height, width in ((37, 40, 11, 13), (16, 32, 16, 32), (0, 0, 71, 93), (33, 1, 38, 92)):
        found = read(data, (top, left, height, width))
        if found is None or not np.array_equal(found, whole[top : top + height, left : left + width]):
            return False
    return read(data[: len(data) * 3 // 4], (0, 0, 8, 8)) is None
