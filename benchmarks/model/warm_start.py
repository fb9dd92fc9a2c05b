"""To the end of the first step, from nothing compiled and from the compile cache of another machine, in turns.

    python -m benchmarks.model.warm_start [--size S/16] [--batch 4] [--rounds 3] [--quick]

A fresh process each time, one worker, ZeRO 2; counted from a made engine, so compiling and the step itself. The warm one has an empty
folder and unpacks into it what the product packs for the bucket (`orchestrator.training.compile_cache`); that is counted too. Wall time,
one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.model.engine import LR, SIZES, SPEC
from orchestrator.spec_text import parse_spec
from orchestrator.training import compile_cache
from tests.gang import run_gang

COLD, WARM = "cold", "from the cache"


def first_step(size: str, batch: int, packed: bytes | None, folder: str) -> float:
    """Seconds to the end of the first step with `folder` for kernels, filled from `packed` if given. In a rank of one."""
    from orchestrator.training.engine import Engine, join

    model = SIZES.get(size, f"preset: {size}")
    engine = Engine(parse_spec(SPEC.format(model=model, batch=batch, precision="bf16")), join())
    side = engine.engine.module.config.image_size
    images = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
    began = time.perf_counter()
    if packed is not None:
        compile_cache.unpack(packed, hashlib.sha256(packed).hexdigest(), Path(folder))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    engine.forward_backward(images, torch.arange(batch), 0, real=True)
    engine.step(LR)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="S/16")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="does it run? One round, nothing is kept")
    given = parser.parse_args()
    found: dict[str, list[float]] = {COLD: [], WARM: []}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(1 if given.quick else given.rounds):
            cold, warm = Path(name) / f"cold-{turn}", Path(name) / f"warm-{turn}"
            found[COLD] += run_gang(1, first_step, given.size, given.batch, None, str(cold), timeout=900)
            packed = compile_cache.pack(cold)
            found[WARM] += run_gang(1, first_step, given.size, given.batch, packed, str(warm), timeout=900)
    print(report.table(f"{given.size} bf16, to the end of the first step", found, WARM))
    middle = report.medians(found)
    bars = [report.bar("cold / from the cache", middle[COLD] / middle[WARM], 5.0, most=False)]
    if given.quick:
        return report.say(bars)
    command = f"python -m benchmarks.model.warm_start --size {given.size} --batch {given.batch} --rounds {given.rounds}"
    report.write("model-warm-start", command, seconds=found, packed_bytes=len(packed), bars=bars)
    return None


if __name__ == "__main__":
    main()
