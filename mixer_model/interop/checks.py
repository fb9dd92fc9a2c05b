"""Whether a state is the weights of a Mixer: every parameter there, none unknown, each in its shape, all finite.

Weights of another resolution are the commonest misfit, since token mixing has one weight for each patch position
(google-research/vision_transformer, issue 274): there the message says which resolution they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from ..config import ConfigError, MixerConfig
from ..mixer import Mixer
from .errors import WeightsError
from .shapes import shape_of

SHOWN: Final = 3
PRECISIONS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Names = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def check_state(state: Mapping[str, Tensor], config: MixerConfig, names: Names | None = None) -> None:
    """Raises WeightsError unless `state` has exactly the parameters of such a Mixer, in their shapes.

    `names` turns a state of ours into another layout; then faults are told in its names and its shapes.
    """
    wanted: Mapping[str, Tensor] = Mixer(config, seed=None).state_dict()
    faults = _faults(names(state), names(wanted)) if names else _faults(state, wanted)
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        text = f"these weights do not fit {describe(config)}: {'; '.join(faults[:SHOWN])}{more}"
        raise WeightsError(text + _of_another_resolution(state, config))


def require_mlp(config: MixerConfig, where: str) -> None:
    """Raises WeightsError unless tokens are mixed by MLP-Mixer's own MLP, the only one that `where` has."""
    if config.mixer != "mlp":
        raise WeightsError(
            f"{where} has no token mixing by {config.mixer!r}, only 'mlp': export it as safetensors, which carries its config"
        )


def check_values(state: Mapping[str, Tensor]) -> None:
    """Raises WeightsError naming the parameters that are not in one of PRECISIONS, not all there, or not finite."""
    other = [f"{name} ({value.dtype})" for name, value in state.items() if value.dtype not in PRECISIONS]
    if other:
        allowed = ", ".join(str(precision).removeprefix("torch.") for precision in PRECISIONS)
        raise WeightsError(
            f"weights are floating-point numbers ({allowed}); these are not: {_some(other)}. Quantized weights cannot be trained on"
        )
    thin = [name for name, value in state.items() if value.layout != torch.strided or value.is_meta]
    if thin:
        raise WeightsError(
            f"these weights are sparse, or without numbers: {_some(thin)}. Save them as ordinary tensors"
        )
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(f"these weights hold NaN or infinity: {_some(broken)}. They are of no use")


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers as tensors that any format takes: on the CPU, contiguous, without history."""
    return {name: value.detach().to("cpu").contiguous() for name, value in state.items()}


def describe(config: MixerConfig) -> str:
    """A Mixer in words."""
    return (
        f"a Mixer of patch {config.patch}, width {config.dim}, depth {config.depth}, "
        f"{config.classes} classes, {config.image_size} pixels"
    )


def _faults(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} is not a parameter of it" for name in given if name not in wanted]
    faults += [
        f"{name} is {list(given[name].shape)}, not {list(value.shape)}"
        for name, value in wanted.items()
        if name in given and given[name].shape != value.shape
    ]
    return faults


def _of_another_resolution(state: Mapping[str, Tensor], config: MixerConfig) -> str:
    """What to do with weights that are for images of another size; nothing when they are not."""
    try:
        found = shape_of(state)
    except (WeightsError, ConfigError):
        return ""
    if (found.patch, found.dim) != (config.patch, config.dim) or found.tokens == config.tokens:
        return ""
    side, wanted = found.image_size, config.image_size
    factor = f"{wanted} is {wanted // side} x {side}: that is" if wanted % side == 0 else "it is"
    return (
        f". They are for {side} x {side} images ({found.tokens} tokens), not {wanted} x {wanted} ({config.tokens} tokens), and token "
        f"mixing has a weight for each token. Take image_size {side}; a larger one must be a whole multiple K of it "
        f"({2 * side}, {3 * side}, ...), and {factor} done by surgery on the token MLPs (paper, section 3; `model.init` of a spec "
        "does it), not by loading"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
