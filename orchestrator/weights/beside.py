"""The JSON that goes beside a file of weights on this machine: where it lies, and that nobody else's is replaced by it."""

from __future__ import annotations

import json
from pathlib import Path

from mixer_model.interop import CONFIG_KEY, sidecar
from orchestrator.errors import UserError


def free_beside(file: Path) -> Path:
    """Where the JSON of `file` goes. UserError where another JSON is: only one that an export or import wrote is written anew."""
    path = sidecar(file)
    if path.exists() and not _is_config(path):
        raise UserError(
            f"{file} needs {path.name} beside it, and {path} is there and no config that mixer wrote: remove it, or give another --out"
        )
    return path


def _is_config(path: Path) -> bool:
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and CONFIG_KEY in tree
