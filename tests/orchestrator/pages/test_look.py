"""`mixer look`: the picture shows what the model gets, and says which samples it is of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.loading.loader import Batch
from data_pipeline.order import owned_slots
from mixer_model.draws import mixup_lambda
from mixer_model.mixer import to_pixels
from orchestrator.errors import UserError
from orchestrator.frozen import Frozen
from orchestrator.pages.look import look
from orchestrator.resolving import frozen_of
from orchestrator.training.data import open_dataset, slots_loader
from orchestrator.training.engine import Engine, Place
from orchestrator.view import view
from tests import killing
from tests.direct import Direct, stop_at
from tests.runs import Small, break_images

MIXED = ("data.augment.mixup=0.5", "data.augment.randaugment={ops: 2, magnitude: 12}", "data.flip=true")


def spec_of(small: Small) -> str:
    return str(small.folder / "small.yaml")


def cells(facts: dict[str, Any]) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """The pictures of a sheet at their own size, read back from the file."""
    sheet, scale = np.asarray(Image.open(facts["file"]).convert("RGB")), facts["scale"]
    found = []
    for sample in facts["samples"]:
        left, top, right, bottom = sample["box"]
        cell = sheet[top:bottom, left:right]
        small = cell[::scale, ::scale]
        assert np.array_equal(cell, small.repeat(scale, 0).repeat(scale, 1)), "each pixel is a square"
        found.append(small)
    return found


def delivered(frozen: Frozen, step: int, world: int) -> list[Batch]:
    """What the ranks of a world of `world` get for `step` of a run that leaves no batch out, having worked up to it."""
    train = frozen.spec.train
    position = max(0, step - 3) * train.global_batch
    found = []
    for rank in range(world):
        slots = owned_slots(rank, world, train.micro_batches)
        dataset = open_dataset(frozen.spec.data.train, frozen.train)
        with slots_loader(frozen, dataset, slots, position=position) as loader:
            while (batch := next(loader)).position < (step - 1) * train.global_batch:
                pass
        found.append(batch)
    return found


def test_cells_are_the_pixels_that_workers_of_another_world_get(small: Small, tmp_path: Path) -> None:
    seen = view(spec_of(small), step=7, overrides=MIXED[1:])
    facts = look(seen, tmp_path / "look.png")
    micros = [micro for batch in delivered(seen.frozen, 7, 3) for micro in batch.micro_batches]
    shown = cells(facts)
    assert len(shown) == 64
    assert np.array_equal(np.stack(shown), torch.cat([micro.images for micro in micros]).numpy())
    assert [sample["id"] for sample in facts["samples"]] == [
        i for micro in micros for i in micro.ids.tolist()
    ]
    labels = [label for micro in micros for label in micro.labels.tolist()]
    assert [sample["labels"] for sample in facts["samples"]] == [[label] for label in labels]


class Halfway(Exception):
    """Raised instead of the forward pass, with what went into it."""


def test_mixed_cells_are_what_the_engine_gives_the_model(small: Small, tmp_path: Path) -> None:
    """The engine's own forward_backward, stopped where its input enters the network."""
    seen = view(spec_of(small), step=4, overrides=MIXED)
    facts = look(seen, tmp_path / "look.png", slots=range(2, 5))
    engine = Engine.__new__(Engine)
    engine.place, engine.spec = Place(0, 1, torch.device("cpu")), seen.frozen.spec
    engine._dtype = torch.float32

    def network(x: torch.Tensor, _: Any) -> torch.Tensor:
        raise Halfway(x)

    engine.engine = network
    (batch,) = delivered(seen.frozen, 4, 1)
    inputs = []
    for micro in batch.micro_batches[2:5]:
        with pytest.raises(Halfway) as stopped:
            engine.forward_backward(micro.images, micro.labels, int(micro.items[0]), real=True)
        inputs.append(stopped.value.args[0])
    assert np.array_equal(np.stack(cells(facts)), to_pixels(torch.cat(inputs)).numpy())
    plain = torch.cat([micro.images for micro in batch.micro_batches[2:5]]).numpy()
    assert not np.array_equal(np.stack(cells(facts)), plain)
    for number, sample in enumerate(facts["samples"]):
        micro, j = batch.micro_batches[2 + number // 8], number % 8
        assert sample["weight"] == mixup_lambda(seen.frozen.spec.train.seed, int(micro.items[0]), 0.5)
        assert sample["other"] == int(micro.ids[j - 1])
        assert sample["other_labels"] == [int(micro.labels[j - 1])]


@pytest.mark.timeout(120)
def test_the_digest_is_that_of_the_runs_own_history(small: Small, tmp_path: Path) -> None:
    run = Direct.begin(small, "run", "train.steps=16", "checkpoint.every=4 steps", left_out=[2, 12])
    run.attempt(2, killing.main, env=killing.hold(6), during=stop_at(6))
    history = run.book().history
    for line in (history[0], history[3]):
        facts = look(view(run.run.url, step=line.step), tmp_path / f"{line.step}.png", images=8)
        assert facts["batch"] == line.batch
        assert facts["id_digest"] == facts["history_digest"] == line.as_json()["id_digest"]
        assert facts["agrees"] is True
        assert facts["samples"][0]["id"] == line.ids[0][0]
    ahead = view(run.run.url)
    assert ahead.step == history[-1].step + 1
    facts = look(ahead, tmp_path / "next.png", images=8)
    assert (facts["agrees"], facts["history_digest"]) == (None, None)
    later = look(view(run.run.url, step=14), tmp_path / "later.png", images=8)
    run.attempt(1)
    history = run.book().history
    assert [line.batch for line in history] == [0, 1, *range(3, 12), *range(13, 18)]
    assert facts["id_digest"] == history[ahead.step - 1].as_json()["id_digest"]
    assert (later["batch"], later["id_digest"]) == (history[13].batch, history[13].as_json()["id_digest"])
    assert view(run.run.url).step == 16


@pytest.mark.timeout(120)
def test_substitutes_count_in_the_digest_also_where_they_are_not_shown(
    small: Small, digits: str, tmp_path: Path
) -> None:
    url = tmp_path / "copy"
    shutil.copytree(f"{digits}/train", url)
    whole = view(spec_of(small), step=2)
    ids = [sample["id"] for sample in look(whole, tmp_path / "a.png")["samples"]]
    break_images(url, {ids[3], ids[60]})
    more = (f"data.train={url}", "data.bad_share=0.5", "train.steps=4", "checkpoint.every=4 steps")
    run = Direct.begin(small, "bad", *more)
    run.attempt(2)
    facts = look(view(run.run.url, step=2), tmp_path / "b.png", images=8)
    assert facts["agrees"] is True
    assert facts["samples"][3]["id"] == run.ids()[1][3] != ids[3]


def test_looking_at_a_spec_writes_the_picture_and_nothing_else(small: Small, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    look(view(spec_of(small), store=str(tmp_path / "store")), tmp_path / "here" / "a.png", images=3)
    assert not (tmp_path / "store").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"here", "small.yaml"}
    with Image.open(tmp_path / "here" / "a.png") as image:
        assert json.loads(image.info["mixer"])["images"] == 3  # type: ignore[attr-defined]


@pytest.mark.timeout(120)
def test_slots_that_are_not_shown_are_not_made(small: Small, digits: str, tmp_path: Path) -> None:
    """All images but those of slot 5 are broken: only who decodes them would notice, and take others."""
    whole = look(view(spec_of(small)), tmp_path / "a.png")
    shutil.copytree(f"{digits}/train", url := tmp_path / "copy")
    break_images(url, {sample["id"] for sample in whole["samples"] if sample["slot"] != 5})
    seen = view(spec_of(small), overrides=[f"data.train={url}"])
    facts = look(seen, tmp_path / "b.png", slots=range(5, 6))
    assert [sample["slot"] for sample in facts["samples"]] == [5] * 8
    assert facts["slots"] == [5, 6]
    assert facts["id_digest"] == whole["id_digest"]
    assert look(seen, tmp_path / "c.png")["id_digest"] != whole["id_digest"]


@pytest.mark.parametrize(
    ("step", "options", "said"),
    [
        (0, {}, "--step got 0; small has steps 1 to 40"),
        (41, {}, "--step got 41; small has steps 1 to 40"),
        (1, {"slots": range(4, 9)}, "--slots got 4:9; a step has slots 0:8"),
        (1, {"slots": range(3, 3)}, "--slots got 3:3"),
        (1, {"images": 65}, "--images got 65; a step has 1 to 64"),
        (1, {"images": 0}, "--images got 0"),
    ],
)
def test_what_a_step_has_not_is_refused(
    small: Small, tmp_path: Path, step: int, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        look(view(spec_of(small), step=step), tmp_path / "a.png", **options)
    assert not (tmp_path / "a.png").exists()


def test_the_command_prints_its_facts_and_loads_neither_ray_nor_deepspeed(
    small: Small, tmp_path: Path
) -> None:
    arguments = ["mixer", "look", spec_of(small), "--step", "2", "-o", str(tmp_path / "x.png"), "--json"]
    code = (
        "import sys; from orchestrator import cli; sys.argv = sys.argv[1:]\ntry:\n    cli.main()\n"
        "except SystemExit as done:\n    print(done.code, sorted({'ray', 'deepspeed'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr.strip().splitlines()[-1] == "0 []", done.stderr
    facts = json.loads(done.stdout)
    assert (facts["file"], facts["step"], facts["epoch"]) == (str(tmp_path / "x.png"), 2, 0)
    expected = look(view(spec_of(small), step=2), tmp_path / "y.png")
    assert facts["id_digest"] == expected["id_digest"]
    assert facts["samples"] == expected["samples"]


def test_a_spec_is_looked_at_as_a_run_of_it_would_be_frozen(small: Small) -> None:
    resolved = small.resolve("run")
    assert frozen_of(spec_of(small)).fingerprint == resolved.frozen.fingerprint
    assert frozen_of(spec_of(small)).geometry == resolved.frozen.geometry
