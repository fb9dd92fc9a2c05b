"""How fast each token mixer trains, against the MLP's: the same shape, side by side in one run.

    python -m benchmarks.model.token_mixers [--preset B/16] [--depth 2] [--batch 8] [--rounds 7] [--eager] [--precision fp32|bf16]

A step is forward, backward and AdamW of the whole network, blocks compiled as in training unless --eager. The mixers take turns, in
reversed order every other round; what counts is CPU time of one thread, and the ratio is the median over rounds. The depth is less than
the preset's to keep the run short: blocks are all alike. Parameters and FLOPs in the results are those of whole presets.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import report
from mixer_model import cost, create
from mixer_model.config import TOKEN_MIXERS
from mixer_model.param_groups import param_groups

NAME, BASE, WHOLE = "token-mixers-speed", "mlp", ("B/16", "H/14")


def step_of(mixer: str, given: argparse.Namespace) -> Callable[[], None]:
    """One training step of a fresh network."""
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    model = create(given.preset, classes=1000, depth=given.depth, mixer=mixer).to(dtype)
    if not given.eager:
        for block in model.blocks:
            block.forward = torch.compile(block.forward, dynamic=False, fullgraph=True)
    optimizer = torch.optim.AdamW(param_groups(model, 0.1), lr=1e-4)
    images = torch.rand(given.batch, 3, 224, 224, dtype=dtype) * 2 - 1
    labels = torch.arange(given.batch)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(given: argparse.Namespace) -> dict[str, list[float]]:
    """CPU seconds of each step, by mixer and round."""
    torch._dynamo.config.recompile_limit = 4 * len(TOKEN_MIXERS)  # Block.forward is compiled for every mixer
    steps, spent = {mixer: step_of(mixer, given) for mixer in TOKEN_MIXERS}, defaultdict(list)
    for mixer, step in steps.items():
        began = time.perf_counter()
        step()
        step()
        print(f"{mixer}: ready after {time.perf_counter() - began:.1f} s", flush=True)
    for turn in range(given.rounds):
        for mixer in TOKEN_MIXERS[:: 1 if turn % 2 else -1]:
            began = time.process_time()
            steps[mixer]()
            spent[mixer].append(time.process_time() - began)
    return dict(spent)


def whole(mixer: str) -> dict[str, dict[str, float]]:
    """Parameters, forward FLOPs and activation bytes (bf16) of whole presets."""
    found = {preset: cost(preset, classes=1000, mixer=mixer) for preset in WHOLE}
    return {
        preset: {"params": it.params, "flops": it.flops_forward, "activation_bytes": it.activation_bytes}
        for preset, it in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="B/16")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    spent = measure(given)
    print(report.table("CPU seconds a step", spent, BASE))
    rows: dict[str, Any] = {}
    for mixer, seconds in spent.items():
        ratio = statistics.median(base / own for base, own in zip(spent[BASE], seconds, strict=True))
        per_second = given.batch / statistics.median(seconds)
        rows[mixer] = {"images_per_cpu_second": round(per_second, 2), "ratio": round(ratio, 3)}
    setup = vars(given) | {"whole": {mixer: whole(mixer) for mixer in TOKEN_MIXERS}}
    words = " ".join(f"--{key} {value}" for key, value in vars(given).items() if key != "eager")
    command = f"python -m benchmarks.model.token_mixers {words}{' --eager' if given.eager else ''}"
    report.write(NAME + ("-eager" if given.eager else ""), command, setup=setup, speed=rows, seconds=spent)


if __name__ == "__main__":
    main()
