"""A head is kept only for the classes that it was trained on, where both sides know their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipeline.packing.classes import read_classes
from orchestrator.errors import UserError
from orchestrator.weights.importing import import_weights
from tests.orchestrator.weights.starts import frozen_at, weights
from tests.runs import Small, renamed

DIGITS = [str(number) for number in range(10)]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (DIGITS[::-1], r"class 0 is '9' there and '0' in data.train"),
        ([*DIGITS[:8], "8", "ant"], r"class 9 is 'ant' there and '9' in data.train"),
        (DIGITS[:9], r"class 9 is no class there and '9' in data.train"),
    ],
)
def test_a_head_of_other_classes_is_not_kept(
    small: Small, tmp_path: Path, digits: str, labels: list[str], said: str
) -> None:
    """As many classes with other names, or in another order: each image would have the label of another class."""
    source = weights(tmp_path / "a.safetensors", labels=labels)
    way_out = rf"Set model.head: new, or pack the data with --classes {tmp_path}/a.json$"
    with pytest.raises(UserError, match=rf"{said} {digits}/train: .*{way_out}") as caught:
        small.resolve("tuned", f"model.init={source}")
    assert caught.value.exit_code == 2
    assert not Path(small.store).exists()
    assert read_classes(str(tmp_path / "a.json")) == labels
    assert small.resolve("tuned", f"model.init={source}", "model.head=new").new
    imported = import_weights(source, store=small.store)
    with pytest.raises(UserError, match=f"{said}.*/weights/a/config.json$"):
        small.resolve("tuned", f"model.init={imported['url']}")


@pytest.mark.parametrize("named", [None, "weights", "data"])
def test_nothing_is_said_of_classes_that_are_the_same_or_have_no_names(
    small: Small, tmp_path: Path, digits: str, named: str | None
) -> None:
    labels = {None: DIGITS, "weights": DIGITS[::-1], "data": None}[named]
    source = weights(tmp_path / "a.safetensors", labels=labels)
    overrides = [f"model.init={source}"]
    if named == "weights":
        overrides.append(f"data.train={renamed(f'{digits}/train', tmp_path / 'plain', None)}")
    frozen = frozen_at(small, "tuned", *overrides)
    assert frozen.init
    assert frozen.init.head == "keep"
    (kept,) = Path(small.store, "runs", "tuned", "classes").iterdir()
    assert kept.stem == frozen.train.digest[:16]
    assert json.loads(kept.read_text()) == {"classes": None if named == "weights" else DIGITS}
    assert not any("class" in line for line in small.said)


def test_a_run_that_is_there_is_resumed_whatever_its_first_weights_classes_are_called_now(
    small: Small, tmp_path: Path
) -> None:
    source = weights(tmp_path / "a.safetensors", labels=DIGITS)
    frozen_at(small, "tuned", f"model.init={source}")
    copy = weights(tmp_path / "b.safetensors", labels=DIGITS[::-1])
    assert not small.resolve("tuned", f"model.init={copy}").new


@pytest.mark.parametrize("labels", ["0123456789", [0, 1], [*DIGITS, "ten"], {"0": "a"}])
def test_names_that_are_not_those_of_the_outputs_are_refused(
    small: Small, tmp_path: Path, labels: object
) -> None:
    source = weights(tmp_path / "a.safetensors")
    beside = tmp_path / "a.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "label_names": labels}))
    with pytest.raises(
        UserError, match=r"model.init .*label_names that are not a name for each of 10 classes"
    ):
        small.resolve("tuned", f"model.init={source}")
