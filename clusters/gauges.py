"""Figures on Ray's own Prometheus endpoint: gauges of this process, made when they are first set.

Ray shows `mixer_step` as `ray_mixer_step` at the metrics port of the node the driver is on, some seconds later.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any


class RayGauges:
    """Call it to set a gauge. Only while connected to a cluster (clusters/capacity.py); each node's agent serves what runs there."""

    def __init__(self) -> None:
        self._gauges: dict[str, Any] = {}

    def __call__(self, name: str, text: str, value: float, labels: dict[str, str]) -> None:
        """Set gauge `name`, described by `text`, to `value` for `labels`; its label names are those of the first call. Never raises."""
        from ray.util.metrics import Gauge

        with suppress(Exception):  # a figure that cannot be shown is no reason to end a run
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, description=text, tag_keys=tuple(labels))
            self._gauges[name].set(value, tags=labels)
