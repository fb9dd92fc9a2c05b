"""The shape of a Mixer: seven published sizes, and any other by its numbers. No torch here.

    PRESETS["H/14"]  ->  config("H/14", classes=21843, drop_path=0.1)  ->  a frozen, checked MixerConfig

The sizes are those of Table 1 of the paper (arXiv:2105.01601), where the hidden widths always follow the
width C: C/2 between tokens and 4C between channels. `config` keeps that rule when `dim` is changed and the
hidden widths are not named. What an optimizer or a data set needs is not here.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from .token_shapes import fault

IMAGE_CHANNELS: Final = 3
ACTIVATIONS: Final = ("gelu", "gelu_tanh")
TOKEN_MIXERS: Final = ("mlp", "resmlp", "gmlp", "s2", "ccs", "smlp", "cycle", "hire", "depthwise", "ms")


class ConfigError(ValueError):
    """A shape that cannot be built. The message says what was given, what is allowed and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixerConfig:
    """Everything that decides the function a Mixer computes, but for its weights."""

    patch: int
    """Side of a square patch in pixels."""
    dim: int
    """C, the width of a token."""
    depth: int
    """Number of blocks."""
    token_dim: int
    """D_S, the hidden width between tokens, where the mixer has one: mlp, gmlp, hire. The others take any and ignore it."""
    channel_dim: int
    """D_C, the hidden width of the MLP between channels."""
    classes: int = 1000
    """K, outputs of the head."""
    image_size: int = 224
    """Side of a square image in pixels, a multiple of `patch`."""
    drop_path: float = 0.0
    """Share of samples whose last block is skipped in training; earlier blocks less, linearly from 0."""
    drop_path_rescale: bool = False
    """Whether, in training, what a block adds is divided by its share of samples kept, as in timm; the paper's is not."""
    activation: str = "gelu_tanh"
    """"gelu_tanh" (the approximation that JAX's GELU and so the published networks are), or "gelu" (erf, timm's)."""
    mixer: str = "mlp"
    """What mixes tokens, one of TOKEN_MIXERS: "mlp" is MLP-Mixer's, the others are of the related work."""

    def __post_init__(self) -> None:
        for name in ("patch", "dim", "depth", "token_dim", "channel_dim", "classes", "image_size"):
            _check_count(name, getattr(self, name))
        if self.image_size % self.patch:
            below = self.image_size // self.patch * self.patch
            raise ConfigError(
                f"image_size {self.image_size} is not a multiple of patch {self.patch}; "
                f"take {f'{below} or ' if below else ''}{below + self.patch}"
            )
        _check_share("drop_path", self.drop_path)
        if not isinstance(self.drop_path_rescale, bool):
            raise ConfigError(f"drop_path_rescale is {self.drop_path_rescale!r}; it must be true or false")
        for name, allowed in (("activation", ACTIVATIONS), ("mixer", TOKEN_MIXERS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} {getattr(self, name)!r} is not known; allowed: {', '.join(allowed)}"
                )
        if wrong := fault(self.mixer, self.dim, self.grid):
            raise ConfigError(wrong)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        """S, patches in an image."""
        return self.grid**2

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them; `config(None, **fields)` gives an equal MixerConfig."""
        return dataclasses.asdict(self)


def config(preset: str | None = None, **overrides: int | float | str) -> MixerConfig:
    """A checked MixerConfig: the preset's numbers, with `overrides` (fields of MixerConfig) on top.

    Without a preset, `patch`, `dim` and `depth` must be given. Hidden widths not named are dim//2 and 4*dim.
    Raises ConfigError for an unknown preset or field (naming the nearest), and for a shape that cannot be
    built.
    """
    known = [field.name for field in dataclasses.fields(MixerConfig)]
    for key in overrides:
        if key not in known:
            raise ConfigError(f"no field {key!r} in a Mixer{nearest(key, known)}; fields: {', '.join(known)}")
    fields: dict[str, Any] = {**_base(preset), **overrides}
    missing = [name for name in ("patch", "dim", "depth") if name not in fields]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not given; give them, or a preset: {', '.join(PRESETS)}")
    _check_count("dim", fields["dim"])
    fields.setdefault("token_dim", fields["dim"] // 2)
    fields.setdefault("channel_dim", 4 * fields["dim"])
    return MixerConfig(**fields)


def preset_of(shape: MixerConfig) -> str | None:
    """The preset that has this shape, at whatever resolution and number of classes; None when none has."""
    parts = ("patch", "dim", "depth", "token_dim", "channel_dim", "mixer")
    for name, preset in PRESETS.items():
        if all(getattr(shape, part) == getattr(preset, part) for part in parts):
            return name
    return None


def nearest(given: str, known: Iterable[str]) -> str:
    """ ", did you mean 'x'?" for the nearest of `known`, or nothing when none is near."""
    found = difflib.get_close_matches(given, list(known), n=1)
    return f", did you mean {found[0]!r}?" if found else ""


def _base(preset: str | None) -> dict[str, int]:
    if preset is None:
        return {}
    if preset not in PRESETS:
        hint = nearest(preset.upper(), PRESETS)
        raise ConfigError(f"no preset {preset!r}{hint}; allowed: {', '.join(PRESETS)}")
    size = PRESETS[preset]
    return {"patch": size.patch, "dim": size.dim, "depth": size.depth}


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1")


def _check_share(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a number from 0 up to, but not including, 1")


def _size(patch: int, dim: int, depth: int) -> MixerConfig:
    return MixerConfig(patch=patch, dim=dim, depth=depth, token_dim=dim // 2, channel_dim=4 * dim)


PRESETS: Final[dict[str, MixerConfig]] = {
    "S/32": _size(32, 512, 8),
    "S/16": _size(16, 512, 8),
    "B/32": _size(32, 768, 12),
    "B/16": _size(16, 768, 12),
    "L/32": _size(32, 1024, 24),
    "L/16": _size(16, 1024, 24),
    "H/14": _size(14, 1280, 32),
}
"""The sizes of the paper's Table 1, with 1,000 classes at 224 pixels."""
