"""Fine-tuning: a run begins with another run's weights, at twice the resolution or with other classes, and stays the same run."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.packing.classes import read_classes
from mixer_model import interop
from mixer_model.losses import LOSSES
from mixer_model.mixer import Mixer, to_input
from orchestrator.accounts.status import Book
from orchestrator.checkpoints.manifest import load_manifest
from orchestrator.checkpoints.reading import read_weights
from orchestrator.errors import UserError
from orchestrator.frozen import Frozen
from orchestrator.resolving import freeze
from orchestrator.run_store import Run
from orchestrator.training.data import open_dataset, slots_loader
from orchestrator.weights.network import export_as, load_network
from tests import killing
from tests.gang import run_gang
from tests.runs import Small, make_small, renamed

pytestmark = pytest.mark.timeout(300)
LARGER = ("model.init=first", "model.image_size=64", "model.token_dim=64")
SGD = ("train.optimizer={name: sgd, lr: 0.01}", "train.schedule=cosine", "train.steps=14", "workers.min=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: str) -> Small:
    """A store with the run "first", trained for 20 steps."""
    small = make_small(tmp_path_factory.mktemp("trained"), digits)
    code, _ = small.lead("first", "train.steps=20", "workers.min=2")
    assert code == 0
    return small


@pytest.fixture
def small(trained: Small, tmp_path: Path) -> Small:
    """That store, copied."""
    shutil.copytree(trained.store, tmp_path / "store")
    shutil.copy(trained.folder / "small.yaml", tmp_path)
    return Small(tmp_path, str(tmp_path / "store"))


def test_a_head_is_not_kept_for_classes_of_other_names_and_exports_say_them(
    small: Small, tmp_path: Path, digits: str
) -> None:
    names = [str(number) for number in range(10)]
    other = renamed(f"{digits}/train", tmp_path / "other", ["1", "0", *names[2:]])
    wanted = ("model.init=first", f"data.train={other}", "data.val=null")
    before = sorted(Path(small.store).rglob("*"))
    with pytest.raises(
        UserError,
        match=r"class 0 is '0' there and '1' in data.train .*Set model.head: new, or pack the data with --classes (.*)$",
    ) as caught:
        small.resolve("swapped", *wanted)
    assert sorted(Path(small.store).rglob("*")) == before
    assert read_classes(str(caught.value).rsplit(" ", 1)[-1]) == names
    assert small.resolve("swapped", *wanted, "model.head=new").new
    same = renamed(f"{digits}/train", tmp_path / "same", names)
    assert small.resolve("again", wanted[0], f"data.train={same}").new
    run = Run(f"{small.store}/runs/first")
    for form, beside in {"safetensors": "x.json", "timm": "x.pth.json", "npz": "x.npz.json"}.items():
        path = tmp_path / {"safetensors": "x.safetensors", "timm": "x.pth", "npz": "x.npz"}[form]
        export_as(run, path, form)
        assert json.loads((tmp_path / beside).read_text())["label_names"] == names
        with pytest.raises(UserError, match=rf"class 0 is '0' there .*--classes {tmp_path / beside}$"):
            small.resolve("swapped", f"model.init={path}", *wanted[1:])


def losses(book: Book) -> list[float]:
    return [line.facts["loss"] for line in book.history]


def first_batches(frozen: Frozen) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels of the micro-batches of the first step."""
    train = open_dataset(frozen.spec.data.train, frozen.train)
    with slots_loader(frozen, train, range(frozen.spec.train.micro_batches), position=0) as loader:
        for micro in next(loader).micro_batches:
            yield to_input(micro.images), micro.labels


@torch.no_grad()
def loss_of(model: Mixer, frozen: Frozen, parts: int = 1) -> float:
    """The mean loss over the first step's batch of logits averaged over `parts` x `parts` crops."""
    total = 0.0
    for images, labels in first_batches(frozen):
        crops = [crop for row in images.chunk(parts, 2) for crop in row.chunk(parts, 3)]
        logits = torch.stack([model(crop) for crop in crops]).mean(0)
        total += float(LOSSES["softmax"](logits, labels).mean())
    return total / frozen.spec.train.micro_batches


def copy_of(run: Run) -> Mixer:
    """The network with the weights that lie beside the run."""
    init = run.frozen().init
    assert init is not None
    shape, state = interop.load(f"{run.url}/{init.path}/model.safetensors")
    model = Mixer(shape)
    model.load_state_dict(state, strict=True)
    return model


def test_the_first_loss_of_a_run_is_that_of_the_weights_it_begins_with(small: Small) -> None:
    source, _, step = load_network(Run(f"{small.store}/runs/first"))
    killed = Path(small.store) / "runs" / "tuned" / "init" / "0123456789abcdef" / "model.safetensors"
    killed.parent.mkdir(parents=True)
    killed.write_bytes(b"of a start that was killed before there was a run")
    code, book = small.lead("tuned", "model.init=first", *SGD, "train.steps=2")
    assert code == 0
    assert not killed.exists()
    init = book.frozen.init
    assert init is not None
    assert (init.source, init.step, init.head) == (f"{small.store}/runs/first", step, "keep")
    assert losses(book)[0] == pytest.approx(loss_of(source, book.frozen), rel=1e-5)
    assert losses(book)[0] < math.log(10) - 0.1, "drawn weights give ln 10"
    copied = copy_of(book.run).state_dict()
    assert all(torch.equal(value, copied[name]) for name, value in source.state_dict().items())


def test_at_twice_the_resolution_a_killed_run_begins_again_with_the_same_weights(small: Small) -> None:
    """Killed before any checkpoint, when what it began from is long gone: the losses are those of an unbroken run, bit by bit."""
    source, _, _ = load_network(Run(f"{small.store}/runs/first"))
    code, whole = small.lead("whole", *LARGER, *SGD)
    assert code == 0
    assert losses(whole)[0] == pytest.approx(loss_of(source, whole.frozen, parts=2), rel=1e-5)
    freeze(small.resolve("broken", *LARGER, *SGD), small.said.append, submitted=True)
    shutil.rmtree(f"{small.store}/runs/first")
    code, broken = small.lead("broken", *LARGER, *SGD, fn=killing.main, env=killing.at_step(3))
    assert code == 0
    started = [entry.facts["step"] for entry in broken.entries if entry.kind == "attempt started"]
    assert started == [0, 0]
    assert len(losses(whole)) == 14
    assert losses(broken) == losses(whole)


def test_a_killed_run_of_sgd_goes_on_with_its_momentum(small: Small) -> None:
    other = ("model.init=first", "model.classes=12", *SGD, "train.zero=1", "checkpoint.every=4 steps")
    code, whole = small.lead("whole", *other)
    assert code == 0
    assert losses(whole)[0] == pytest.approx(math.log(12), rel=1e-6), "a new head is zero"
    code, broken = small.lead("broken", *other, fn=killing.main, env=killing.at_step(9))
    assert code == 0
    started = [entry.facts["step"] for entry in broken.entries if entry.kind == "attempt started"]
    assert started == [0, 8]
    assert losses(broken) == losses(whole)


def test_a_damaged_copy_is_named_and_ends_the_run(small: Small) -> None:
    resolved = small.resolve("tuned", "model.init=first", *SGD)
    freeze(resolved, small.said.append, submitted=True)
    assert resolved.frozen.init is not None
    file = Path(resolved.run.url) / resolved.frozen.init.path / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-100] ^= 1
    file.write_bytes(raw)
    code, book = small.lead("tuned", "model.init=first", *SGD)
    assert code == 2
    assert sum(entry.kind == "attempt started" for entry in book.entries) == 1
    why = book.entries[-1].facts["why"]
    assert f"{resolved.frozen.init.path}/model.safetensors: weight of " in why
    assert "fails its CRC32C" in why
    assert "Begin it again under another --name" in why


SHARDED = """
name: t
model: {{patch: 8, dim: 32, depth: 2, token_dim: 16, channel_dim: 64, classes: 10, image_size: 32}}
data: {{train: /nowhere}}
train: {{global_batch: 8, micro_batch: 2, steps: 10, precision: {precision}, zero: {zero}, compile: false}}
workers: {{max: 4}}
"""


def begin(run_url: str, zero: int, precision: str) -> dict[str, Any]:
    """On each rank: build an engine at this stage, begin from the run's first weights, and say what it owns and computes."""
    from orchestrator.spec_text import parse_spec
    from orchestrator.training.engine import Engine, join
    from orchestrator.training.restore import begin_from

    place, run = join(), Run(run_url)
    engine = Engine(parse_spec(SHARDED.format(zero=zero, precision=precision)), place)
    init = run.frozen().init
    assert init is not None
    took = begin_from(engine, run.store, init)
    images = torch.randint(
        0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    owned = [
        (fragment.param, kind, fragment.start, view.detach().clone().numpy())
        for fragment in engine.owned()
        for kind, view in fragment.views.items()
    ]
    return {"owned": owned, "logits": engine.logits(images).numpy(), "fetched": sum(took.values())}


@pytest.mark.parametrize(("world", "zero", "precision"), [(1, 0, "fp32"), (3, 2, "bf16"), (2, 3, "bf16")])
def test_every_rank_of_every_world_begins_with_the_same_bits(
    small: Small, world: int, zero: int, precision: str
) -> None:
    freeze(resolved := small.resolve("tuned", "model.init=first"), small.said.append, submitted=True)
    init, run = resolved.frozen.init, resolved.run
    assert init is not None
    ranks = run_gang(world, begin, run.url, zero, precision)
    manifest = load_manifest(run.store, init.path, init.manifest)
    wanted = read_weights(run.store, init.path, manifest)
    covered = 0
    for rank in ranks:
        for param, kind, start, values in rank["owned"]:
            if kind != "weight":
                assert not values.any()
                continue
            flat = wanted[param].reshape(-1)[start : start + len(values)]
            assert (values == flat).all(), "fp32 masters, also where the working weights are bf16"
            covered += len(values)
    assert covered == sum(values.size for values in wanted.values())
    images = torch.randint(
        0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        plain = copy_of(run)(to_input(images)).numpy()
    tolerance = 1e-5 if precision == "fp32" else 0.1
    for rank in ranks:
        assert rank["logits"] == pytest.approx(plain, abs=tolerance)
    if zero > 0:
        assert all(rank["fetched"] < manifest.bytes for rank in ranks), "no rank reads what is not its own"
