"""One graph serves all blocks, at every stage, in training and in evaluation; neither later steps nor another world size compile anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gang import run_gang

SPEC = """
name: t
model: {{patch: 4, dim: 16, depth: 3, token_dim: 8, channel_dim: 32, classes: 7, image_size: 16,
        drop_path: {drop}, mixer: {mixer}}}
data: {{train: /nowhere}}
train: {{global_batch: 12, micro_batch: 2, steps: 10, precision: fp32, zero: {zero}, compile: true, recompute: {recompute}}}
workers: {{max: 4}}
"""


def work(zero: int, drop: float, recompute: str, mixer: str = "mlp", steps: int = 4) -> dict[str, Any]:
    """Steps on each rank, an evaluation after the second; what was compiled, and when."""
    from torch._dynamo.utils import counters

    from data_pipeline.order import owned_slots
    from orchestrator.spec_text import parse_spec
    from orchestrator.training.engine import Engine, join

    place = join()
    engine = Engine(parse_spec(SPEC.format(zero=zero, drop=drop, recompute=recompute, mixer=mixer)), place)
    slots, losses = owned_slots(place.rank, place.world, engine.slots), []
    compiled, logits = [], None
    for step in range(steps):
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
        if step == 1:
            logits = engine.logits(images[:2])
        kernels = counters["inductor"]  # looked up anew: compiling may replace it
        compiled.append(
            (
                counters["stats"]["unique_graphs"],
                kernels["fxgraph_cache_hit"] + kernels["fxgraph_cache_miss"],
            )
        )
    assert logits is not None
    assert not logits.requires_grad
    inductor = counters["inductor"]
    return {
        "losses": losses,
        "logits": logits.tolist(),
        "compiled": compiled,
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": sum(counters["graph_break"].values()),
        "hits": inductor["fxgraph_cache_hit"],
        "misses": inductor["fxgraph_cache_miss"],
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("zero", "drop", "recompute"), [(2, 0.5, "none"), (3, 0.0, "gelu")])
def test_another_world_size_compiles_nothing(tmp_path: Path, zero: int, drop: float, recompute: str) -> None:
    env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    first = run_gang(2, work, zero, drop, recompute, timeout=240, env=env)
    kernels = {path.name for path in (tmp_path / "cache").rglob("*.so")}
    assert kernels
    for rank in first:
        assert (rank["graphs"], rank["breaks"]) == (1, 0), rank
        assert len(set(rank["compiled"])) == 1, (
            "nothing compiles after the first step, not to evaluate either"
        )
    for world in (1, 3):
        found = run_gang(world, work, zero, drop, recompute, timeout=120, env=env)
        assert_one_graph(found)
        for rank in found:
            assert rank["misses"] == 0, rank
            assert rank["hits"] > 0
            torch.testing.assert_close(torch.tensor(rank["logits"]), torch.tensor(first[0]["logits"]))
            assert rank["losses"] == pytest.approx(first[0]["losses"], rel=1e-5)
    assert {path.name for path in (tmp_path / "cache").rglob("*.so")} == kernels


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("zero", "recompute"), [(0, "none"), (1, "block")])
def test_lower_stages_compile_once(zero: int, recompute: str) -> None:
    assert_one_graph(run_gang(1, work, zero, 0.0, recompute, timeout=180))


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("mixer", "graphs"), [("hire", 2), ("depthwise", 1)])
def test_other_token_mixers_compile_once_at_zero_3(mixer: str, graphs: int) -> None:
    """Every second block of hire moves its regions: two graphs. depthwise is a convolution."""
    assert_one_graph(run_gang(1, work, 3, 0.0, "none", mixer, timeout=180), graphs)


def assert_one_graph(found: list[dict[str, Any]], graphs: int = 1) -> None:
    for rank in found:
        assert (rank["graphs"], rank["breaks"]) == (graphs, 0), rank
        assert rank["compiled"][0][1] == 2 * graphs, "a forward and a backward"
        assert len(set(rank["compiled"])) == 1, (
            f"compiled after the first step, or to evaluate: {rank['compiled']}"
        )
