"""Digests of sample ids: of a slot, of a step, of a run of steps. What lets two runs be compared sample by sample.

A slot's digest is over its ids in order (little-endian int64); a step's is over its slots' digests in slot order; a chain's over
its steps'. So each worker digests only its own slots, and the step's digest is the same at every world size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def slot_digest(ids: npt.NDArray[np.int64]) -> str:
    """16 hex digits over the ids of one slot."""
    return _hex(np.ascontiguousarray(ids, dtype="<i8").tobytes())


def combine(digests: Iterable[str]) -> str:
    """16 hex digits over digests in order: of slots for a step, of steps for a run."""
    return _hex("".join(digests).encode())


def _hex(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
