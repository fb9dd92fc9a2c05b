"""Promise 4: saved at any world size and stage, loaded at any other; the same fp32 weights and moments, both groups' options kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.storage import open_store
from orchestrator.checkpoints import reading
from orchestrator.checkpoints.manifest import folder, load_manifest, rank_file
from orchestrator.checkpoints.reading import Want, read_weights
from orchestrator.errors import DamagedCheckpoint
from tests.gang import RankFailed, run_gang

SPEC = """
name: t
model: {{patch: 4, dim: 24, depth: 2, token_dim: 10, channel_dim: 40, classes: 7, image_size: 16}}
data: {{train: /nowhere}}
train: {{global_batch: 8, micro_batch: 2, steps: 10, precision: {precision}, zero: {zero}, compile: false,
        optimizer: {{name: {optimizer}, weight_decay: 0.1}}}}
workers: {{max: 4}}
"""


def work(
    store_url: str,
    zero: int,
    precision: str,
    origin: str | None,
    steps: int,
    attempt: int,
    optimizer: str = "adamw",
) -> dict[str, Any]:
    """On each rank: build at this stage, load `origin`, train `steps` on synthetic images, save as `attempt`."""
    import torch

    from data_pipeline.order import owned_slots
    from orchestrator.spec_text import parse_spec
    from orchestrator.training import fragments
    from orchestrator.training.engine import Engine, join
    from orchestrator.training.events import Events
    from orchestrator.training.restore import restore
    from orchestrator.training.snapshot import Saver

    place = join()
    engine = Engine(parse_spec(SPEC.format(zero=zero, precision=precision, optimizer=optimizer)), place)
    store, first = open_store(store_url), 0
    if origin:
        first = restore(engine, store, origin)[0].step
    losses = []
    for step in range(first, first + steps):
        losses.append(_step(engine, owned_slots(place.rank, place.world, engine.slots), step, torch))
    saver = Saver(
        store,
        Events(store, attempt, place.rank),
        attempt=attempt,
        rank=place.rank,
        world=place.world,
        shapes=engine.shapes,
        kinds=engine.kinds,
    )
    saver.save(
        engine.owned(),
        step=first + steps,
        position=8 * (first + steps),
        state={"updates": first + steps, "skipped": []},
    )
    saver.wait()
    groups = [
        {key: group.get(key) for key in ("weight_decay", "betas", "eps", "momentum", "name")}
        for group in fragments.inner(engine.engine).param_groups
    ]
    counts = {
        float(state["step"]) for state in fragments.inner(engine.engine).state.values() if "step" in state
    }
    return {
        "losses": losses,
        "groups": groups,
        "counts": counts,
        "path": folder(first + steps, attempt),
    }


def _step(engine: Any, slots: range, step: int, torch: Any) -> float:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (8, 16, 16, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 7, (8,), generator=generator)
    total = 0.0
    for turn in range(engine.rounds):
        if turn:
            engine.close_micro_batch()
        slot = slots[min(turn, len(slots) - 1)]
        part = slice(2 * slot, 2 * slot + 2)
        total += float(engine.forward_backward(images[part], labels[part], slot, real=turn < len(slots)))
    engine.step(1e-2)
    return float(engine.agree([total])[0]) / engine.slots


def digest(store_url: str, path: str) -> str:
    """SHA-256 of every weight and moment of a checkpoint, whole and in order."""
    store = open_store(store_url)
    manifest, total = load_manifest(store, path), hashlib.sha256()
    for kind in manifest.kinds:
        for _, values in sorted(read_weights(store, path, manifest, kind).items()):
            total.update(values.tobytes())
    assert reading.verify(store, path, manifest) == []
    return total.hexdigest()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_world_2_stage_2_to_3_at_3_to_1_at_0_and_back(tmp_path: Path, precision: str) -> None:
    store = str(tmp_path)
    saved = run_gang(2, work, store, 2, precision, None, 3, 1)[0]
    trail = [(3, 3), (1, 0 if precision == "fp32" else 1), (2, 1), (4, 2), (2, 2)]
    for attempt, (world, zero) in enumerate(trail, start=2):
        loaded = run_gang(world, work, store, zero, precision, saved["path"], 0, attempt)
        assert digest(store, loaded[0]["path"]) == digest(store, saved["path"]), (
            f"world {world}, stage {zero}"
        )
        for rank in loaded:
            assert [group["weight_decay"] for group in rank["groups"]] == [0.1, 0.0]
            assert rank["counts"] == {3.0}
        saved = loaded[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_momentum_of_sgd_travels_as_well(tmp_path: Path, precision: str) -> None:
    store = str(tmp_path)
    saved = run_gang(2, work, store, 2, precision, None, 3, 1, "sgd")[0]
    manifest = load_manifest(open_store(store), saved["path"])
    assert list(manifest.kinds) == ["weight", "momentum_buffer"]
    momentum = read_weights(open_store(store), saved["path"], manifest, "momentum_buffer")
    assert all(np.abs(values).max() > 0 for values in momentum.values())
    trail = [(3, 3), (1, 0), (2, 1)] if precision == "fp32" else [(3, 3)]
    for attempt, (world, zero) in enumerate(trail, start=2):
        loaded = run_gang(world, work, store, zero, precision, saved["path"], 0, attempt, "sgd")
        assert digest(store, loaded[0]["path"]) == digest(store, saved["path"]), (
            f"world {world}, stage {zero}"
        )
        for rank in loaded:
            assert [(group["weight_decay"], group["momentum"]) for group in rank["groups"]] == [
                (0.1, 0.9),
                (0.0, 0.9),
            ]
        saved = loaded[0]


@pytest.mark.parametrize(("world", "zero"), [(1, 0), (2, 3)])
def test_sgd_goes_on_from_a_checkpoint_as_if_nothing_had_happened(
    tmp_path: Path, world: int, zero: int
) -> None:
    store = str(tmp_path)
    whole = run_gang(world, work, store, zero, "fp32", None, 4, 1, "sgd")[0]
    half = run_gang(world, work, store, zero, "fp32", None, 2, 2, "sgd")[0]
    rest = run_gang(world, work, store, zero, "fp32", half["path"], 2, 3, "sgd")[0]
    assert half["losses"] + rest["losses"] == whole["losses"]
    assert digest(store, rest["path"]) == digest(store, whole["path"])


def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path: Path) -> None:
    store = str(tmp_path)
    whole = run_gang(2, work, store, 2, "fp32", None, 6, 1)[0]
    half = run_gang(2, work, store, 2, "fp32", None, 3, 2)[0]
    rest = run_gang(2, work, store, 2, "fp32", half["path"], 3, 3)[0]
    assert half["losses"] + rest["losses"] == whole["losses"]
    assert digest(store, rest["path"]) == digest(store, whole["path"])
    other = run_gang(3, work, store, 3, "fp32", half["path"], 3, 4)[0]
    assert other["losses"] == pytest.approx(whole["losses"][3:], rel=1e-5)


def test_a_flipped_byte_is_found_by_the_rank_that_reads_it(tmp_path: Path) -> None:
    saved = run_gang(2, work, str(tmp_path), 2, "fp32", None, 1, 1)[0]
    file = tmp_path / saved["path"] / "rank-00001.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)
    with pytest.raises(RankFailed, match=r"DamagedCheckpoint.*fails its CRC32C"):
        run_gang(1, work, str(tmp_path), 1, "fp32", saved["path"], 0, 2)
    manifest = load_manifest(open_store(str(tmp_path)), saved["path"])
    assert "SHA-256" in reading.verify(open_store(str(tmp_path)), saved["path"], manifest)[0]


def test_files_are_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    saved = run_gang(2, work, str(tmp_path), 2, "fp32", None, 1, 1)[0]
    held = [load_file(tmp_path / saved["path"] / rank_file(rank)) for rank in range(2)]
    total = sum(values.size for tensors in held for values in tensors.values())
    manifest = load_manifest(open_store(str(tmp_path)), saved["path"])
    assert total == 3 * sum(int(np.prod(shape)) for shape in manifest.params.values())


def test_only_what_is_wanted_is_fetched(tmp_path: Path) -> None:
    saved = run_gang(2, work, str(tmp_path), 2, "fp32", None, 1, 1)[0]
    store = open_store(str(tmp_path))
    manifest = load_manifest(store, saved["path"])
    got: list[np.ndarray[Any, Any]] = []
    fetched = reading.read(
        store, saved["path"], manifest, [Want("head.bias", "weight", 2, 3)], lambda n, at, v: got.append(v)
    )
    assert sum(len(values) for values in got) == 3
    assert fetched < manifest.bytes / 20
    with pytest.raises(DamagedCheckpoint, match="does not hold every element"):
        reading.read(store, saved["path"], manifest, [Want("head.bias", "weight", 5, 3)], lambda *_: None)
