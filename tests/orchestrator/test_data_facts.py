"""What a run must know of its data sets, and refuses before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from data_pipeline.packing.pack import pack
from orchestrator.data_sets import data_facts
from orchestrator.errors import UserError
from orchestrator.spec_text import parse_spec

SPEC = """
name: x
model: {patch: 8, dim: 32, depth: 1, classes: 3, image_size: 8}
train: {global_batch: 2, micro_batch: 1, steps: 1}
workers: {max: 1}
"""


def packed(folder: Path, *classes: str) -> str:
    for name in classes:
        (folder / "in" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "in" / name / "a.png")
    pack(str(folder / "in"), str(folder / "out"), sheet="none")
    return str(folder / "out")


def test_sets_that_number_their_classes_otherwise_are_refused(tmp_path: Path) -> None:
    """A class that validation lacks shifts all numbers behind it: about no image would be right, and nothing would say so."""
    train, val = packed(tmp_path / "train", "ant", "bee", "cow"), packed(tmp_path / "val", "bee", "cow")
    same = packed(tmp_path / "same", "ant", "bee", "cow")
    given = [f"data.train={train}", f"data.val={same}"]
    assert data_facts(parse_spec(SPEC, given))[1] is not None
    with pytest.raises(UserError, match=r"class 0 is 'ant' in .*train.* and 'bee' in .*val.*--classes"):
        data_facts(parse_spec(SPEC, [given[0], f"data.val={val}"]))
