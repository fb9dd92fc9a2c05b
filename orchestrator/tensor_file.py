"""The head of a safetensors file whose tensors are written one after the other, as they come: nothing of it is ever whole in memory.

The library writes files from tensors that it holds all at once, and in an order of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence


def header(
    tensors: Iterable[tuple[str, Sequence[int], int]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, list[int]]:
    """The header of a file of fp32 `tensors` (name, shape, bytes), and where in the file each one's bytes begin."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at, places = 0, []
    for name, shape, size in tensors:
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        places.append(at)
        at += size
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, [len(head) + place for place in places]
