"""Real parts: digits packed once, small runs in folders of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import Small, make_small


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """scikit-learn's digits, packed into a folder: <digits>/train, <digits>/val."""
    from data_pipeline.pack import pack

    folder = tmp_path_factory.mktemp("digits")
    pack("sklearn:digits", str(folder))
    return str(folder)


@pytest.fixture
def small(tmp_path: Path, digits: str) -> Small:
    """A small run on the digits."""
    return make_small(tmp_path, digits)
