"""Every token mixer under ZeRO: stage 3 on two workers takes the same steps as stage 2 on one."""

from __future__ import annotations

import pytest

from mixer_model.config import TOKEN_MIXERS
from tests.gang import run_gang

SPEC = """
name: t
model: {{patch: 4, dim: 16, depth: 2, token_dim: 8, channel_dim: 32, classes: 7, image_size: 16, mixer: {mixer}}}
data: {{train: /nowhere}}
train: {{global_batch: 8, micro_batch: 2, steps: 10, precision: {precision}, zero: {zero}, compile: false}}
workers: {{max: 4}}
"""


def work(zero: int, precision: str) -> dict[str, list[float]]:
    """The losses of three steps with each mixer."""
    import torch

    from data_pipeline.order import owned_slots
    from orchestrator.spec_text import parse_spec
    from orchestrator.training.engine import Engine, join

    place, losses = join(), {}
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (8, 16, 16, 3), generator=generator, dtype=torch.uint8)
    for mixer in TOKEN_MIXERS:
        engine = Engine(parse_spec(SPEC.format(mixer=mixer, zero=zero, precision=precision)), place)
        slots, losses[mixer] = owned_slots(place.rank, place.world, engine.slots), []
        for _ in range(3):
            total = 0.0
            for turn, slot in enumerate(slots):
                if turn:
                    engine.close_micro_batch()
                part = images[2 * slot : 2 * slot + 2]
                total += float(engine.forward_backward(part, torch.tensor([slot, 6]), slot, real=True))
            engine.step(3e-3)
            losses[mixer].append(engine.agree([total])[0] / engine.slots)
    return losses


@pytest.mark.parametrize(("precision", "rel"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_stage_3_on_two_workers_is_stage_2_on_one(precision: str, rel: float) -> None:
    alone = run_gang(1, work, 2, precision, timeout=120)[0]
    for mixer, losses in run_gang(2, work, 3, precision, timeout=120)[0].items():
        assert losses == pytest.approx(alone[mixer], rel=rel), mixer
        assert losses[2] < losses[0], mixer
