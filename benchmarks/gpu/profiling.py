"""Where the time of a step goes: kernels by their time, and what kind they are."""

from __future__ import annotations

import statistics
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.plan import Row, Setting
from benchmarks.gpu.timing import settle, timed
from benchmarks.gpu.training import training

STEPS: Final = 3
TOP: Final = 25
KINDS: Final = {
    "gemm": (
        "triton_tem",
        "gemm",
        "nvjet",
        "cutlass",
        "xmma",
        "::mm",
        "::bmm",
        "addmm",
        "scaled_mm",
        "splitk",
    ),
    "optimizer": ("multi_tensor", "adam"),
    "copy": ("memcpy", "memset", "copy", "cat_"),
    "reduction": ("reduce", "softmax", "norm", "sum"),
    "elementwise": ("elementwise", "gelu", "triton", "aten::"),
}
"""Kinds of kernels by what their names hold, the first that fits."""
INDUCTORS: Final = {"triton_poi": "elementwise", "triton_red": "reduction", "triton_per": "reduction"}
"""The compiler names its own after what they do, and then after all that went into them."""


def profiled(row: Row, setting: Setting, device: torch.device) -> dict[str, Any]:
    """The row's step: its milliseconds, the device's, the longest kernels, and the share of each kind."""
    activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    with training(row.options, setting.shapes[row.size], row.batch, device) as made:
        step, _ = made.warmed()
        whole = statistics.median(timed(step, device, setting.seconds / 3))
        with profile(activities=activities) as seen:
            for _ in range(STEPS):
                step()
            settle(device)
    kernels = _kernels(seen, device)
    busy = sum(each["ms"] for each in kernels)
    shares = {
        kind: sum(each["ms"] for each in kernels if each["kind"] == kind) / busy for kind in [*KINDS, "other"]
    }
    for each in kernels:
        each["share"] = round(each["ms"] / busy, 4)
    return {
        "step_ms": round(whole, 3),
        "busy_ms": round(busy, 3),
        "shares": {kind: round(share, 4) for kind, share in shares.items() if share},
        "kernels": kernels[:TOP],
    }


def _kernels(seen: Any, device: torch.device) -> list[dict[str, Any]]:
    """By time, most first; milliseconds and calls of one step."""
    found = []
    for event in seen.key_averages():
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        if spent:
            ms = spent / 1000 / STEPS
            found.append(
                {
                    "name": event.key,
                    "kind": kind_of(event.key),
                    "ms": round(ms, 4),
                    "calls": event.count / STEPS,
                }
            )
    return sorted(found, key=lambda each: -each["ms"])


def kind_of(kernel: str) -> str:
    """A kernel's kind by its name, or "other"."""
    name = kernel.lower()
    for start, kind in INDUCTORS.items():
        if name.startswith(start):
            return kind
    for kind, words in KINDS.items():
        if any(word in name for word in words):
            return kind
    return "other"
