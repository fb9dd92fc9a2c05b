"""One row measured: what came out of it, or why nothing did. A row that fails ends no other."""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.ceiling import digits
from benchmarks.gpu.plan import Row, Setting
from benchmarks.gpu.timing import timed
from benchmarks.gpu.training import Missing, training
from mixer_model.cost import cost
from mixer_model.kernels import ops

FULL_MEMORY = "out of memory"


def measured(row: Row, setting: Setting, device: torch.device) -> dict[str, Any]:
    """The row as the table and the JSON have it."""
    return {**about(row), **attempted(lambda: _figures(row, setting, device), device)}


def about(row: Row) -> dict[str, Any]:
    """What a row is, whatever comes of it."""
    named = {"group": row.group, "label": row.label, "size": row.size, "batch": row.batch}
    return {**named, "options": dataclasses.asdict(row.options)}


def attempted(act: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """What `act` finds, with `status` "measured"; or "out of memory", "missing" or "failed", and why."""
    began = time.perf_counter()
    try:
        found = {"status": "measured", **act()}
    except Missing as error:
        found = {"status": "missing", "why": str(error)}
    except Exception as error:
        # Whatever a compiler, a kernel or a card comes up with is this row's result. A compiler may wrap a full memory.
        full = isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
        found = {
            "status": FULL_MEMORY if full else "failed",
            "why": f"{type(error).__name__}: {str(error)[:400]}",
        }
    forget(device)
    return {**found, "took_s": round(time.perf_counter() - began, 1)}


def forget(device: torch.device) -> None:
    """Give back what the last row held: its graphs and its memory."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _figures(row: Row, setting: Setting, device: torch.device) -> dict[str, Any]:
    options = row.options
    kernels = options.layout in ("kernel", "kernels") or options.gelu == "kernel"
    if kernels and device.type == "cuda" and not ops.available():
        raise Missing("triton is not installed")
    shape = setting.shapes[row.size]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with training(options, shape, row.batch, device) as made:
        step, losses = made.warmed()
        ready = time.perf_counter() - began
        if not all(math.isfinite(loss) for loss in losses):
            raise FloatingPointError(f"the first losses are {losses}")
        times = timed(step, device, setting.seconds)
    middle = statistics.median(times)
    speed = 1000 * row.batch / middle
    return {
        "images_per_s": round(speed, 2),
        "tflops": digits(speed * cost(shape).flops_train / 1e12),
        "step_ms": round(middle, 3),
        "least_ms": round(min(times), 3),
        "most_ms": round(max(times), 3),
        "steps": len(times),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else None,
        "ready_s": round(ready, 1),
        "losses": [round(loss, 4) for loss in losses],
    }
