"""MLP-Mixer networks: shapes, weights, losses, costs, pictures. Knows nothing of data, clusters or runs.

    PRESETS -> create(name, ...) -> logits -> losses;  weights -> interop -> files the rest of the field loads

Importing this package does not import torch: `PRESETS`, `config` and `cost` answer before it is needed.
`create` imports it. It does not train, read images or talk to a network.

Errors: ConfigError (a shape that cannot be built) and interop.WeightsError (a file or state that does not
fit), both ValueErrors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config import PRESETS, ConfigError, MixerConfig
from .config import config as _config
from .cost import Cost, cost

if TYPE_CHECKING:
    from .mixer import Mixer

__all__ = ["PRESETS", "ConfigError", "Cost", "MixerConfig", "cost", "create"]


def create(
    name: str | None, *, classes: int, image_size: int = 224, seed: int = 0, **overrides: int | float | str
) -> Mixer:
    """A Mixer with freshly drawn fp32 weights on the CPU.

    `name` is one of PRESETS, or None when `overrides` give patch, dim and depth. `seed` decides every weight.
    Raises ConfigError for an unknown name or field, or for a shape that cannot be built.
    """
    from .mixer import Mixer

    return Mixer(_config(name, classes=classes, image_size=image_size, **overrides), seed=seed)
