"""What is measured, in which order: groups of rows, each row one training step of one network in one way.

The order within a call is the order of GROUPS, so that a call cut short has the most telling rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mixer_model.config import MixerConfig, config

GROUPS: Final = (
    "ceiling", "main", "layout", "best", "batches", "compile", "recompute", "eager", "deepspeed", "sizes",
    "profile", "curve",
)  # fmt: skip
ASKED: Final = ("profile", "curve")
"""Groups that run only when asked for."""
WORTH: Final = 1.005
"""How much faster a change must be than without it to be one of the best together."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One way to take a step. The defaults are ours as a run has it: blocks compiled, everything else plain."""

    whose: str = "ours"
    """"ours" or "timm"."""
    compiled: str = "block"
    """"no", "block" (one block, used for all), "model" (whole), or a block by one of training.COMPILERS."""
    layout: str = "columns"
    """Token mixing. "columns": W X with all samples and channels as columns; "turned": transpose, then linear layers;
    "batched": W X for each sample; "kernel": norm and transpose in one kernel, then linear layers; "kernels": and the
    way back in another."""
    gelu: str = "torch"
    """"torch", or "kernel": bias and GELU in one kernel, wherever the bias goes along the last axis."""
    recompute: str = "none"
    """"none", "gelu" or "block"."""
    fp8: str = "no"
    """Channel mixing in FP8: "no", or which sums may be fast: "forward", "all"."""
    graph: bool = False
    """The whole step, optimizer included, as one CUDA graph."""
    zero: int = 0
    """DeepSpeed's stage of ZeRO, through the engine of a run; 0 is a plain loop."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step to be measured."""

    group: str
    label: str
    size: str
    batch: int
    options: Options = field(default_factory=Options)

    @property
    def key(self) -> str:
        return f"{self.size}, {self.batch}: {self.label}"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What differs between a GPU and `--tiny`."""

    shapes: Mapping[str, MixerConfig]
    main: str
    batch: int
    """Where all options are compared."""
    others: tuple[int, ...]
    """Further micro-batches, in the order they are tried."""
    sizes: Mapping[str, int]
    """The other networks and their micro-batch."""
    seconds: float
    """Of each timing."""
    curve: MixerConfig
    curve_batch: int
    curve_steps: int


FULL: Final = Setting(
    shapes={name: config(name, classes=1000) for name in ("H/14", "L/16", "B/16")},
    main="H/14",
    batch=128,
    others=(256, 64, 32),
    sizes={"L/16": 256, "B/16": 512},
    seconds=3.0,
    curve=config("H/14", image_size=112, classes=64, depth=8),
    curve_batch=64,
    curve_steps=500,
)
_SMALL: Final = config(None, patch=4, dim=32, depth=2, image_size=16, classes=10)
TINY: Final = Setting(
    shapes={"tiny": _SMALL, "tiny 8": config(None, patch=2, dim=32, depth=2, image_size=16, classes=10)},
    main="tiny",
    batch=4,
    others=(2,),
    sizes={"tiny 8": 2},
    seconds=0.002,
    curve=_SMALL,
    curve_batch=16,
    curve_steps=40,
)

OURS, TIMM = Options(), Options(whose="timm")
FP8: Final = {"fp8": replace(OURS, fp8="forward"), "fp8, fast sums": replace(OURS, fp8="all")}
LAYOUT: Final = {
    "turned tokens": replace(OURS, layout="turned"),
    "batched tokens": replace(OURS, layout="batched"),
    "norm kernel": replace(OURS, layout="kernel"),
    "norm kernels": replace(OURS, layout="kernels"),
    "gelu kernel": replace(OURS, gelu="kernel"),
    "all kernels": replace(OURS, layout="kernels", gelu="kernel"),
}
COMPILE: Final = {
    "CUDA graph of the step": replace(OURS, graph=True),
    "coordinate descent": replace(OURS, compiled="coordinate-descent"),
    "reduce-overhead": replace(OURS, compiled="reduce-overhead"),
    "max-autotune": replace(OURS, compiled="max-autotune"),
    "max-autotune, TMA": replace(OURS, compiled="max-autotune-tma"),
    "compiled whole": replace(OURS, compiled="model"),
}
RECOMPUTE: Final = {
    "recompute gelu": replace(OURS, recompute="gelu"),
    "recompute block": replace(OURS, recompute="block"),
}
DEEPSPEED: Final = {f"DeepSpeed ZeRO {stage}": replace(OURS, zero=stage) for stage in (1, 2, 3)}
EAGER: Final = {"ours eager": replace(OURS, compiled="no"), "timm eager": replace(TIMM, compiled="no")}
MAIN: Final = {
    "ours": OURS,
    "timm compiled": TIMM,
    **FP8,
    "timm compiled whole": replace(TIMM, compiled="model"),
}
BEST, BEST_FP8 = "best together", "best together, fp8"


def rows(group: str, setting: Setting, measured: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The rows of a group. What is best together depends on what is `measured`, by row key."""
    if group == "batches":
        return [
            replace(row, group=group, batch=batch)
            for batch in setting.others
            for row in [*_rows(group, _without_whole(MAIN), setting), *_best(setting, measured)]
        ]
    if group == "best":
        return _best(setting, measured)
    if group == "sizes":
        return [
            replace(row, size=size, batch=batch)
            for size, batch in setting.sizes.items()
            for row in _rows(group, _without_whole(MAIN), setting)
        ]
    named = {
        "main": MAIN,
        "layout": LAYOUT,
        "compile": COMPILE,
        "recompute": RECOMPUTE,
        "eager": EAGER,
        "deepspeed": DEEPSPEED,
    }
    return _rows(group, named[group], setting)


def _rows(group: str, named: Mapping[str, Options], setting: Setting) -> list[Row]:
    return [
        Row(group=group, label=label, size=setting.main, batch=setting.batch, options=options)
        for label, options in named.items()
    ]


def _without_whole(named: Mapping[str, Options]) -> dict[str, Options]:
    """A whole model takes minutes to compile: that is measured once."""
    return {label: options for label, options in named.items() if options.compiled != "model"}


def _best(setting: Setting, measured: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Each change that was faster than without it, all at once: in bf16, and with the faster FP8."""
    speed = {
        label: measured[row.key]["images_per_s"]
        for label, options in {**MAIN, **LAYOUT, **COMPILE, **RECOMPUTE}.items()
        for row in _rows("", {label: options}, setting)
        if measured.get(row.key, {}).get("status") == "measured"
    }
    together = OURS
    for named in (LAYOUT, COMPILE, RECOMPUTE):
        together = _with_fastest(together, named, speed)
    best = {BEST: together}
    if any(label in speed for label in FP8):
        best[BEST_FP8] = _with_fastest(together, FP8, {**speed, "ours": 0.0})
    return _rows("best", best, setting) if "ours" in speed else []


def _with_fastest(start: Options, named: Mapping[str, Options], speed: Mapping[str, float]) -> Options:
    """`start` with what the fastest of `named` changes, if that is faster than ours without it."""
    tried = [label for label in named if label in speed]
    fastest = max(tried, key=lambda label: speed[label], default=None)
    if fastest is None or speed[fastest] < WORTH * speed.get("ours", float("inf")):
        return start
    changes = {
        each.name: getattr(named[fastest], each.name)
        for each in dataclasses.fields(Options)
        if getattr(named[fastest], each.name) != getattr(OURS, each.name)
    }
    return replace(start, **changes)


def chosen(only: Iterable[str]) -> list[str]:
    """The groups to run, in order. Raises ValueError for a name that is none."""
    names = list(only)
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise ValueError(f"--only got {unknown[0]!r}; allowed: {', '.join(GROUPS)}")
    return [name for name in GROUPS if (name in names if names else name not in ASKED)]
