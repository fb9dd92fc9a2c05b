"""Weights in files the rest of the field loads, and back.

    a file -> kinds (what is it?) -> google | timm | ours -> checked -> Found(config, state, notes)
    a state -> checked -> export_safetensors | export_timm | export_google | export_onnx -> a file, whole or not at all

A state is a dict of tensors under our names, which are timm's. One that is not whole, or is not of the shape it claims, is refused
before it is written and after it is read. No file's code is ever run: `.npz` is read without pickles, `.pth` with torch's
weights_only. Files hold weights only; the state of an optimizer or of a run lives in checkpoints, which are not this package's.

JAX's and timm's Mixers differ in one function: JAX means GELU's tanh approximation, timm means erf. Where a file does not say which,
it is taken for what its layout usually means, and a note says so.
"""

from __future__ import annotations

from .checks import check_state
from .errors import WeightsError
from .google import export_google, from_google, to_google
from .ours import CONFIG_KEY, LABELS_KEY, export_safetensors, sidecar
from .reading import Found, load, read
from .timm import export_timm, timm_architecture, timm_arguments, to_timm

__all__ = [
    "CONFIG_KEY",
    "LABELS_KEY",
    "Found",
    "WeightsError",
    "check_state",
    "export_google",
    "export_safetensors",
    "export_timm",
    "from_google",
    "load",
    "read",
    "sidecar",
    "timm_architecture",
    "timm_arguments",
    "to_google",
    "to_timm",
]
