"""What an export leaves alone, and says: of a run that has nothing to export yet, for all of this is known before."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.launch import freeze
from orchestrator.run_store import Run
from orchestrator.weights import export_as
from tests.runs import make_small


@pytest.fixture
def first(tmp_path: Path, digits: str) -> Run:
    """A run, frozen and not led."""
    resolved = make_small(tmp_path, digits).resolve("first")
    freeze(resolved, lambda text: None, submitted=True)
    return resolved.run


@pytest.mark.parametrize(
    ("form", "out", "theirs"),
    [
        ("safetensors", None, "first.json"),
        ("safetensors", "x.safetensors", "x.json"),
        ("safetensors", "there", "there/first.json"),
        ("timm", "there", "there/config.json"),
        ("timm", "x.pth", "x.json"),
    ],
)
def test_a_json_that_mixer_did_not_write_is_never_replaced_by_an_export(
    first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, out: str | None, theirs: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path(theirs).write_text('{"run": "first", "history": []}')  # as `mixer report first --json > first.json`
    with pytest.raises(UserError, match=rf"{theirs} is there and no config that mixer wrote: remove it"):
        export_as(first, Path(out) if out else None, form)
    Path(theirs).write_text('{"mixer_config": {}}')
    with pytest.raises(UserError, match="no committed checkpoint"):
        export_as(first, Path(out) if out else None, form)
