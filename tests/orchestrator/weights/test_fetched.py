"""A file of weights that is copied here to be read is one version of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.storage import Store
from data_pipeline.storage.local import LocalStore
from orchestrator.errors import UserError
from orchestrator.weights import fetched
from orchestrator.weights.fetched import at_hand


class Replaced(LocalStore):
    """A store in which somebody writes the object anew, in the same size, after its first bytes were read."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = super().get_range(key, start, length)
        self.put(key, b"other 0123456789")
        return data


def test_weights_that_are_replaced_while_they_are_read_are_never_a_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched, "CHUNK_BYTES", 5)
    url = f"file://{tmp_path}/a.npz"
    (tmp_path / "a.npz").write_bytes(b"first 0123456789")
    with at_hand(url) as path:
        assert path.read_bytes() == b"first 0123456789"

    def replaced(url: str) -> Store:
        return Replaced(Path(url.removeprefix("file://")))

    monkeypatch.setattr(fetched, "open_store", replaced)
    with pytest.raises(UserError, match=r"a.npz was replaced while it was read; try again"), at_hand(url):
        raise AssertionError("a torn file was given out")
