"""The layouts of token mixing, side by side: one compiled block, forward and backward, its channel mixing included.

    python -m benchmarks.model.layouts [--sizes S/16,B/16] [--precisions fp32,bf16] [--batch 8] [--rounds 15]

columns: W X with samples and channels as columns (what mixer_model has); turned: transpose, then linear layers (the reference's);
batched: W X for each sample. The same parameters and the same function, which is checked first. One thread, CPU time, in turns, freed
memory kept as a worker keeps it. benchmarks.gpu has these rows for a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import report
from benchmarks.gpu.blocks import rewire
from benchmarks.gpu.plan import Options
from benchmarks.model.clock import Clock
from benchmarks.model.step import DTYPES
from data_pipeline.allocator import keep_freed_blocks
from mixer_model.config import config
from mixer_model.mixer import Mixer

LAYOUTS = ("columns", "turned", "batched")
CLOSE = {"fp32": 1e-4, "bf16": 5e-2}


def passes(layout: str, size: str, batch: int, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """Forward and backward of one compiled block on a batch of its own; returns what came out, [B,S,C]."""
    model = Mixer(config(size, depth=1), seed=0).to(dtype)
    rewire(model, Options(layout=layout))
    block = model.blocks[0]
    forward = torch.compile(block.forward, dynamic=False, fullgraph=True)
    shape = (batch, model.config.tokens, model.config.dim)
    x, back = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.requires_grad_()

    def act() -> torch.Tensor:
        out: torch.Tensor = forward(x)
        torch.autograd.backward(out, back)
        x.grad = None
        block.zero_grad(set_to_none=True)
        return out.detach()

    return act


def measure(size: str, precision: str, given: argparse.Namespace, clock: Clock) -> dict[str, list[float]]:
    """CPU seconds by layout and round. ArithmeticError where they do not compute the same."""
    torch.compiler.reset()
    acts = {layout: passes(layout, size, given.batch, DTYPES[precision]) for layout in LAYOUTS}
    outs = {layout: act().float() for layout, act in acts.items()}
    for layout, out in outs.items():
        apart = float((out - outs["columns"]).abs().max() / outs["columns"].abs().max())
        if apart > CLOSE[precision]:
            raise ArithmeticError(f"{layout}, {size} {precision}: {apart:.1e} from columns, relative")
    for act in acts.values():
        act()
    return clock.race(acts, given.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="S/16,B/16")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_blocks(large=True)
    clock, results = Clock(torch.device("cpu"), 1), dict[str, Any]()
    for size in given.sizes.split(","):
        for precision in given.precisions.split(","):
            spent = measure(size, precision, given, clock)
            print(report.table(f"{size} {precision}, {given.batch} images, {clock.kind}", spent, LAYOUTS[0]))
            results[f"{size} {precision}"] = spent
    words = " ".join(f"--{key} {value}" for key, value in vars(given).items())
    report.write(
        "model-layouts-cpu", f"python -m benchmarks.model.layouts {words}", clock=clock.kind, seconds=results
    )


if __name__ == "__main__":
    main()
