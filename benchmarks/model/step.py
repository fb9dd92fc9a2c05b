"""A training step, forward, backward and AdamW, of our Mixer and of timm's, in turns, and what share of the machine's products it is.

    python -m benchmarks.model [--sizes S/16,B/16] [--precisions fp32,bf16] [--ways ...] [--threads 1] [--rounds 9] [--quick]

timm's network has the same shape, weights and GELU, is compiled whole as its users do; ours block by block as the engine does. The
share is that of the model's own operations (`mixer_model.cost`) in the time of a step, over the fastest of a few large products that
take turns with the steps; `its products` is the share that the step's own products reach with nothing between them. On a CPU one
thread and its CPU time, and freed memory is kept as a worker keeps it; on a GPU, where there is one, wall time and the large sizes.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks import report
from benchmarks.model.ceiling import own_products, products
from benchmarks.model.clock import Clock
from benchmarks.model.networks import WAYS, Job, training_step
from data_pipeline.allocator import keep_freed_blocks
from mixer_model import cost
from mixer_model.config import MixerConfig, config

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SMALL = config(None, patch=8, dim=128, depth=4, image_size=64, classes=100)
BATCHES = {
    "cpu": {"S/16": 8, "B/16": 8, "small": 32},
    "cuda": {"B/16": 256, "L/16": 128, "H/14": 64},
}
SHARES = {"fp32": 0.90, "bf16": 0.88}
RATIOS = {"fp32": 1.00, "bf16": 1.08}
BARRED = ("S/16", "B/16")
OWN = "its products"


def shape_of(size: str) -> MixerConfig:
    """The config of one of BATCHES."""
    return SMALL if size == "small" else config(size)


def measure(job: Job, ways: list[str], clock: Clock, rounds: int) -> dict[str, Any]:
    """Seconds of each way's step, the ceiling in FLOP/s, and each way's share of it."""
    torch.compiler.reset()
    steps = {way: training_step(way, job) for way in ways}
    largest = products(job.shape, job.batch, job.device, job.dtype)
    own, own_flops = own_products(job.shape, job.batch, job.device, job.dtype)
    alone = {**{name: product for name, (product, _) in largest.items()}, OWN: own}
    for product in alone.values():
        product()
    spent = clock.race({**steps, **alone}, rounds)
    middle = report.medians(spent)
    rates = {name: flops / middle[name] for name, (_, flops) in largest.items()}
    flops = cost(job.shape).flops_train * job.batch
    ceiling = max(rates.values())
    return {
        "batch": job.batch,
        "seconds": {way: [round(value, 5) for value in spent[way]] for way in ways},
        "gflops_of_products": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
        "share": {
            **{way: round(flops / middle[way] / ceiling, 3) for way in ways},
            OWN: round(own_flops / middle[OWN] / ceiling, 3),
        },
        "ratio": _ratios({way: spent[way] for way in ways}),
    }


def _ratios(spent: dict[str, list[float]]) -> dict[str, float]:
    """timm / ours by how they run: the median over rounds of the ratio within a round."""
    found = {}
    for how in ("compiled", "eager"):
        ours, theirs = spent.get(f"ours {how}"), spent.get(f"timm {how}")
        if ours and theirs:
            each = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
            found[how] = round(statistics.median(each), 3)
    return found


def bars(size: str, precision: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """What the figures should reach, for the sizes that have bars."""
    if size not in BARRED or "ours compiled" not in found["share"]:
        return []
    said = f"{size} {precision}"
    share = found["share"]["ours compiled"]
    made = [report.bar(f"{said}, share of the ceiling", share, SHARES[precision], most=False)]
    if "compiled" in found["ratio"]:
        ratio = found["ratio"]["compiled"]
        made.append(report.bar(f"{said}, ours / timm, both compiled", ratio, RATIOS[precision], most=False))
    return made


def show(title: str, found: dict[str, Any]) -> None:
    print(report.table(title, found["seconds"], next(iter(found["seconds"]))))
    print(f"share of the ceiling: {found['share']}; ours / timm: {found['ratio']}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", help="default: all that this device is measured with")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="does it run? Two rounds, nothing is kept")
    return parser.parse_args()


def main() -> None:
    given = parse()
    torch.set_num_threads(given.threads)
    keep_freed_blocks(large=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock, batches = Clock(device, given.threads), BATCHES[device.type]
    results, reached = {}, []
    for size in (given.sizes or ",".join(batches)).split(","):
        for precision in given.precisions.split(","):
            job = Job(shape_of(size), batches[size], device, DTYPES[precision])
            found = measure(job, given.ways.split(","), clock, 2 if given.quick else given.rounds)
            show(f"{size} {precision}, {job.batch} images, {clock.kind}", found)
            results[f"{size} {precision}"] = found
            reached += bars(size, precision, found)
    if given.quick:
        return report.say(reached)
    command = (
        f"python -m benchmarks.model --sizes {','.join(dict.fromkeys(key.split()[0] for key in results))}"
    )
    report.write(
        f"model-step-{device.type}",
        f"{command} --threads {given.threads} --rounds {given.rounds}",
        clock=clock.kind,
        libraries=report.versions("timm"),
        bars=reached,
        results=results,
    )
    return None


if __name__ == "__main__":
    main()
