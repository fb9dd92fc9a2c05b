"""A training step through the DeepSpeed engine, ZeRO 2 and one worker, beside the same arithmetic in a plain loop, in turns.

    python -m benchmarks.model.engine [--size S/16] [--batch 8] [--rounds 9] [--quick]

Both run compiled blocks, the same loss, clipping and AdamW, from the same uint8 images; in bf16 both keep fp32 masters. One thread, CPU
time; freed memory is kept as a worker keeps it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks import report
from benchmarks.model.clock import Clock
from data_pipeline.allocator import keep_freed_blocks
from mixer_model.mixer import to_input
from mixer_model.param_groups import param_groups
from orchestrator.spec import Spec
from orchestrator.spec_text import parse_spec
from tests.gang import run_gang

SPEC = """
name: engine
model: {{{model}, classes: 1000}}
data: {{train: /nowhere}}
train: {{global_batch: {batch}, micro_batch: {batch}, steps: 10, precision: {precision}, zero: 2}}
workers: {{max: 1}}
"""
SIZES = {"small": "patch: 8, dim: 128, depth: 4, image_size: 64"}
LR = 1e-3
Act = Callable[[], Any]


def measure(size: str, batch: int, precision: str, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a step, `engine` and `plain`. To be called in a rank of one."""
    from orchestrator.training.engine import Engine, join

    keep_freed_blocks(large=True)
    model = SIZES.get(size, f"preset: {size}")
    spec, place = parse_spec(SPEC.format(model=model, batch=batch, precision=precision)), join()
    engine = Engine(spec, place)
    side = engine.engine.module.config.image_size
    images = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
    labels = torch.arange(batch)

    def through_engine() -> None:
        engine.forward_backward(images, labels, 0, real=True)
        engine.step(LR)

    acts = {"engine": through_engine, "plain": plain_step(spec, images, labels)}
    for act in acts.values():
        act()
        act()
    return Clock(place.device, torch.get_num_threads()).race(acts, rounds)


def plain_step(spec: Spec, images: torch.Tensor, labels: torch.Tensor) -> Act:
    """What the engine computes, written out: bf16 weights have fp32 masters, which AdamW moves. A step gives its loss."""
    from orchestrator.training.blocks import prepare
    from orchestrator.training.engine import build_model

    dtype = torch.bfloat16 if spec.train.precision == "bf16" else torch.float32
    masters, clip = build_model(spec), spec.train.clip
    assert clip
    model = build_model(spec).to(dtype) if dtype != torch.float32 else masters
    prepare(model, spec.train)
    options = spec.train.optimizer
    optimizer = torch.optim.AdamW(
        param_groups(masters, options.weight_decay), lr=LR, betas=options.betas, eps=options.eps, fused=True
    )
    pairs = list(zip(masters.parameters(), model.parameters(), strict=True))

    def step() -> torch.Tensor:
        logits = model(to_input(images).to(dtype)).float()
        loss = F.cross_entropy(logits, labels, reduction="none").mean()
        torch.autograd.backward(loss)
        if model is not masters:
            for master, weight in pairs:
                assert weight.grad is not None
                master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if model is not masters:
            with torch.no_grad():
                torch._foreach_copy_([weight for _, weight in pairs], [master for master, _ in pairs])
        return loss.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="S/16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--quick", action="store_true", help="does it run? Two rounds, nothing is kept")
    given = parser.parse_args()
    results, bars = {}, []
    for precision in given.precisions.split(","):
        rounds = 2 if given.quick else given.rounds
        (found,) = run_gang(1, measure, given.size, given.batch, precision, rounds, timeout=1800)
        print(report.table(f"{given.size} {precision}, {given.batch} images", found, "plain"), flush=True)
        middle = report.medians(found)
        results[precision] = found
        speed = middle["plain"] / middle["engine"]
        bars.append(report.bar(f"engine / plain loop, images a second, {precision}", speed, 0.95, most=False))
    if given.quick:
        return report.say(bars)
    command = (
        f"python -m benchmarks.model.engine --size {given.size} --batch {given.batch} --rounds {given.rounds}"
    )
    report.write("model-engine", command, seconds=results, bars=bars)
    return None


if __name__ == "__main__":
    main()
