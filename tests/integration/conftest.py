"""Small runs in folders of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import Small, make_small


@pytest.fixture
def small(tmp_path: Path, digits: str) -> Small:
    """A small run on the digits."""
    return make_small(tmp_path, digits)
