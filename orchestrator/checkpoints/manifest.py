"""What a whole checkpoint is: the slices of every parameter, in which files and bytes; and where those files are."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.storage import NotFound, Store
from orchestrator.errors import DamagedCheckpoint, UserError

FORMAT = 1
KINDS = (
    "weight",
    "exp_avg",
    "exp_avg_sq",
)  # fp32 master weights and AdamW's two moments; another optimizer has others
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Slice:
    """`length` fp32 elements of `kind` of the flat parameter `param` from `start`; its bytes lie at `offset` of `file`."""

    param: str
    kind: str
    start: int
    length: int
    file: str
    offset: int
    crc32c: int


@dataclass(frozen=True)
class Manifest:
    """A whole checkpoint. `params` maps names to shapes, `files` names to bytes and SHA-256; `position` counts items consumed.

    `kinds` is what it holds of every parameter.
    """

    step: int
    position: int
    attempt: int
    params: dict[str, list[int]]
    files: dict[str, dict[str, Any]]
    slices: list[Slice]
    state: dict[str, Any]
    kinds: Sequence[str] = KINDS

    def to_bytes(self) -> bytes:
        tree = {
            "format": FORMAT,
            **asdict(self),
            "slices": [list(asdict(item).values()) for item in self.slices],
        }
        if tuple(self.kinds) == KINDS:
            del tree["kinds"]  # as before there were others
        return json.dumps(tree).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """DamagedCheckpoint when these are not the bytes of a manifest."""
        try:
            tree = json.loads(data)
            if tree.pop("format") != FORMAT:
                raise UserError(
                    f"{where}: manifest of another format; use the version of mixer that wrote it"
                )
            return cls(**{**tree, "slices": [Slice(*item) for item in tree["slices"]]})
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{where}: manifest cannot be read: {error}") from None

    @property
    def bytes(self) -> int:
        """Bytes of all rank files."""
        return sum(int(facts["bytes"]) for facts in self.files.values())

    def check_cover(self) -> None:
        """DamagedCheckpoint unless the slices cover every element of every kind of every parameter exactly once."""
        held: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for item in self.slices:
            held[item.param, item.kind].append((item.start, item.length))
        for name, shape in self.params.items():
            for kind in self.kinds:
                end = 0
                for start, length in sorted(held.pop((name, kind), [])):
                    if start != end:
                        raise DamagedCheckpoint(
                            f"{kind} of {name}: elements {min(start, end)}..{max(start, end)} missing or twice"
                        )
                    end += length
                if end != int(np.prod(shape, dtype=np.int64)):
                    raise DamagedCheckpoint(f"{kind} of {name}: holds {end} elements, its shape is {shape}")
        if held:
            raise DamagedCheckpoint(f"slices of unknown parameters: {sorted(held)[:3]}")


def folder(step: int, attempt: int) -> str:
    """Where attempt `attempt` saves step `step`. No two attempts share a key."""
    return f"checkpoints/{step:010d}-{attempt}"


def rank_file(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank:05d}.safetensors"


def receipt(rank: int) -> str:
    """The name of a rank's receipt: its slices, written after its file."""
    return f"rank-{rank:05d}.json"


def load_manifest(store: Store, path: str, sha256: str | None = None) -> Manifest:
    """The manifest of the checkpoint at `path`. DamagedCheckpoint when it is not the one the log names."""
    try:
        data = store.get(f"{path}/manifest.json")
    except NotFound:
        raise DamagedCheckpoint(f"{path}/manifest.json is gone from the store") from None
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedCheckpoint(f"{path}/manifest.json is not the one that was committed (SHA-256 differs)")
    return Manifest.from_bytes(data, path)
