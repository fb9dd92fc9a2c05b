"""A file of weights on this machine, wherever it lies: what `mixer import` and `model.init` read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from data_pipeline.storage import NotFound, Store, open_store
from mixer_model.interop.ours import CONFIG, sidecar
from orchestrator.errors import UserError

CHUNK_BYTES: Final = 64 << 20


@contextmanager
def at_hand(url: str) -> Iterator[Path]:
    """The file, with the JSON that may lie beside it; of a url a copy, for as long as the block runs. NotFound where nothing is."""
    if "://" not in url:
        yield Path(url).expanduser()
        return
    base, _, key = url.rpartition("/")
    store = open_store(base)
    with tempfile.TemporaryDirectory(prefix="mixer-weights-") as folder:
        path = Path(folder) / key
        if not _copied(store, key, path):
            raise NotFound(f"nothing at {url}")
        for beside in dict.fromkeys((sidecar(path).name, CONFIG)):
            _copied(store, beside, path.with_name(beside))
        yield path


def _copied(store: Store, key: str, path: Path) -> bool:
    """Whether there was an object; it is then at `path`, all of it from one version. UserError where it was replaced meanwhile."""
    info = store.head(key)
    if info is None:
        return False
    with path.open("wb") as file:
        for start in range(0, info.size, CHUNK_BYTES):
            file.write(store.get_range(key, start, min(CHUNK_BYTES, info.size - start)))
    if store.head(key) != info:
        raise UserError(f"{store.url}/{key} was replaced while it was read; try again when it is whole")
    return True
