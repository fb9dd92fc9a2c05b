"""The page docs/spec.md is what the models say, and what it says of a spec is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import SpecError
from orchestrator.frozen import DataFacts, identity, resources
from orchestrator.reference import SMALLEST, spec_reference
from orchestrator.spec_text import parse_spec, validate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "spec.md"


def rows(page: str) -> dict[str, str]:
    """The kind of each key of the page, by its whole path."""
    found, path = {}, ""
    for line in page.splitlines():
        if line.startswith("## "):
            path = line.removeprefix("## ").strip("`") + "."
            path = "" if path.startswith("Top") else path
        elif line.startswith("| `") and "|" in line and not path.startswith("Presets"):
            cells = re.split(r"(?<!\\)\|", line)
            found[path + cells[1].strip(" `")] = cells[5].strip()
    return found


def test_the_page_in_docs_is_not_stale() -> None:
    assert PAGE.read_text() == spec_reference(), "run: python -m orchestrator.reference > docs/spec.md"


def test_every_key_is_listed_with_its_kind() -> None:
    listed, spec, facts = rows(spec_reference()), validate(SMALLEST), DataFacts(1, 1.0, "")
    for kind, flat in (("identity", identity(spec, facts, None)), ("resource", resources(spec))):
        for key in flat:
            if "(digest)" not in key:
                assert listed[key] == kind, key
    assert listed["data.augment.randaugment.ops"] == "identity"
    assert listed["name"] == listed["store"] == ""


def test_defaults_on_the_page_are_those_of_the_models() -> None:
    page = spec_reference()
    assert "| `keep` | whole number | `3` | >= 1 |" in page
    assert "| `resident` | bytes | `64 MB` | >= 0 |" in page
    assert "| `every` | duration | `500 steps` |" in page
    assert "| `zero` | whole number | `2` | `0`, `1`, `2`, `3` |" in page


@pytest.mark.parametrize(
    "override",
    [
        "train.micro_batch=3",
        "workers.max=9",
        "workers.min=8",
        "train.epochs=1",
        "train.zero=0",
        "train.warmup_steps=10 min",
        "model.drop_path_rescale=true",
        "model.preset=null",
        "model.image_size=33",
        "data.scale=[0.9, 0.1]",
        "data.scale=[0.5, 1.5]",
        "data.ratio=[0, 1]",
    ],
)
def test_each_rule_across_keys_is_enforced(override: str) -> None:
    tree = {**SMALLEST, "train": {"global_batch": 8, "micro_batch": 1, "steps": 1}, "workers": {"max": 4}}
    text = yaml.safe_dump(tree)
    parse_spec(text)
    with pytest.raises(SpecError):
        parse_spec(text, [override])


def test_the_command_prints_the_page_without_torch_and_ray() -> None:
    probe = (
        "import runpy, sys; runpy.run_module('orchestrator.reference', run_name='__main__'); "
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=PAGE.parents[1],
    )
    assert run.stdout == spec_reference()
