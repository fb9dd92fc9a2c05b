"""One graph serves all blocks, at every stage; another world size compiles nothing anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gang import run_gang

SPEC = """
name: t
model: {{patch: 4, dim: 16, depth: 3, token_dim: 8, channel_dim: 32, classes: 7, image_size: 16}}
data: {{train: /nowhere}}
train: {{global_batch: 12, micro_batch: 2, steps: 10, precision: fp32, zero: {zero}, compile: true}}
workers: {{max: 4}}
"""


def work(zero: int) -> dict[str, Any]:
    """Two steps on each rank; what was compiled."""
    import torch
    from torch._dynamo.utils import counters

    from data_pipeline.order import owned_slots
    from orchestrator.spec_text import parse_spec
    from orchestrator.training.engine import Engine, join

    place = join()
    engine = Engine(parse_spec(SPEC.format(zero=zero)), place)
    slots, losses = owned_slots(place.rank, place.world, engine.slots), []
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (12, 16, 16, 3), generator=generator, dtype=torch.uint8)
        total = 0.0
        for turn in range(engine.rounds):
            if turn:
                engine.close_micro_batch()
            slot = slots[min(turn, len(slots) - 1)]
            part = images[2 * slot : 2 * slot + 2]
            total += float(engine.forward_backward(part, torch.tensor([1, 2]), slot, real=turn < len(slots)))
        engine.step(1e-2)
        losses.append(engine.agree([total])[0] / engine.slots)
    inductor = counters["inductor"]
    return {
        "losses": losses,
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": sum(counters["graph_break"].values()),
        "hits": inductor["fxgraph_cache_hit"],
        "misses": inductor["fxgraph_cache_miss"],
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("zero", [2, 3])
def test_another_world_size_compiles_nothing(tmp_path: Path, zero: int) -> None:
    env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    first = run_gang(2, work, zero, timeout=240, env=env)
    kernels = {path.name for path in (tmp_path / "cache").rglob("*.so")}
    assert kernels
    for world in (1, 3):
        found = run_gang(world, work, zero, timeout=120, env=env)
        for rank in found:
            assert (rank["graphs"], rank["breaks"]) == (1, 0), rank
            assert rank["misses"] == 0, rank
            assert rank["hits"] > 0
            assert rank["losses"] == pytest.approx(first[0]["losses"], rel=1e-5)
    assert {path.name for path in (tmp_path / "cache").rglob("*.so")} == kernels
