"""Digits packed once, and folders with paths short enough for unix sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """scikit-learn's digits, packed into a folder: <digits>/train, <digits>/val."""
    from data_pipeline.pack import pack

    folder = tmp_path_factory.mktemp("digits")
    pack("sklearn:digits", str(folder))
    return str(folder)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder below the temporary one itself."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    yield folder
    shutil.rmtree(folder)
