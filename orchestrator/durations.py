"""Durations as people write them, and the one place where they become steps or seconds.

`500 steps`, `2 epochs`, `1e6 images` are converted to steps once, when a run is frozen; `10 min` stays wall time.
A bare number is steps; `auto`, where it is allowed, is for the run to find out. `step` means optimizer steps completed, everywhere.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_UNITS = {
    "step": "steps", "steps": "steps",
    "epoch": "epochs", "epochs": "epochs", "ep": "epochs",
    "image": "images", "images": "images", "sample": "images", "samples": "images",
    "s": "seconds", "sec": "seconds", "second": "seconds", "seconds": "seconds",
    "min": "minutes", "minute": "minutes", "minutes": "minutes",
    "h": "hours", "hour": "hours", "hours": "hours",
}  # fmt: skip
_SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
_PATTERN = re.compile(r"^\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*$", re.IGNORECASE)


AUTO = "auto"


@dataclass(frozen=True)
class Duration:
    """An amount with a unit: steps, epochs, images, seconds, minutes or hours; or `auto`."""

    amount: float
    unit: str

    def __str__(self) -> str:
        if self.auto:
            return self.unit
        amount = int(self.amount) if self.amount == int(self.amount) else self.amount
        return f"{amount} {self.unit}"

    @property
    def auto(self) -> bool:
        """Whether the run finds out by itself."""
        return self.unit == AUTO

    @property
    def seconds(self) -> float | None:
        """Seconds of wall time, or None when the unit is not a time."""
        scale = _SECONDS.get(self.unit)
        return None if scale is None else self.amount * scale

    def steps(self, *, samples: int, batch: int) -> int:
        """Steps this lasts on `samples` samples per epoch at `batch` samples per step. ValueError for wall time."""
        images = {"images": self.amount, "epochs": self.amount * samples}.get(self.unit)
        if images is not None:
            return math.ceil(images / batch)
        if self.unit != "steps":
            raise ValueError(f"{self} is wall time; give steps, images or epochs here")
        return math.ceil(self.amount)


def parse_duration(value: object) -> Duration:
    """A Duration from `500`, `"500 steps"`, `"2 epochs"`, `"1e6 images"` or `"10 min"`. ValueError says what is allowed."""
    if isinstance(value, Duration):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value} steps"
    match = _PATTERN.match(value) if isinstance(value, str) else None
    unit = _UNITS.get((match[2] or "steps").lower()) if match else None
    if match is None or unit is None:
        raise ValueError(
            f"got {value!r}; write a number and one of steps, images, epochs, s, min, h (`500 steps`)"
        )
    if float(match[1]) < 0:
        raise ValueError(f"got {value!r}; a duration is not negative")
    return Duration(float(match[1]), unit)


def parse_interval(value: object) -> Duration:
    """A Duration, or `auto`. ValueError says what is allowed."""
    if value == AUTO:
        return Duration(0, AUTO)
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def parse_bytes(value: object) -> int:
    """Bytes from `65536`, `"64 MB"` or `"2 GiB"`. ValueError says what is allowed."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _PATTERN.match(value) if isinstance(value, str) else None
    scale = _BYTES.get(match[2].lower()) if match else None
    if match is None or scale is None:
        raise ValueError(f"got {value!r}; write a number of bytes, or one with kB, MB, GB, KiB, MiB, GiB")
    return int(float(match[1]) * scale)
