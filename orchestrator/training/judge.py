"""Whether a step's loss and gradient norm can be used: finite, and by option not far above those of the steps before.

The numbers are agreed on by all ranks, so every rank judges alike. What a step is held against is part of the run's state, saved and
loaded with it: a run that was broken judges as an unbroken one does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

from orchestrator.spec import Spike

FEWEST = 20  # steps before a median is worth something


class Judge:
    """Judges step after step. `state` is what judged() was given for the newest steps."""

    def __init__(self, spike: Spike | None, state: Mapping[str, Sequence[float]] | None = None) -> None:
        self._limits = {"loss": spike.loss, "gradient norm": spike.norm} if spike else {}
        window = spike.window if spike else 0
        self._seen = {name: deque((state or {}).get(name, ()), maxlen=window) for name in self._limits}

    @property
    def state(self) -> dict[str, list[float]]:
        """What the next steps are held against, for the checkpoint."""
        return {name: list(values) for name, values in self._seen.items()}

    def judge(self, loss: float, norm: float | None) -> str | None:
        """Why a step cannot be used; None, and the step is remembered, when it can. `norm` is None where the stage gives none."""
        given = {"loss": loss} | ({} if norm is None else {"gradient norm": norm})
        if not all(
            math.isfinite(value) and value >= 0 for value in given.values()
        ):  # DeepSpeed says -1 for NaN
            return f"not finite: {_said(given)}"
        for name, value in given.items():
            if (why := self._spike(name, value)) is not None:
                return f"spike: {why} ({_said(given)})"
        for name in self._seen.keys() & given.keys():
            self._seen[name].append(given[name])
        return None

    def _spike(self, name: str, value: float) -> str | None:
        limit, seen = self._limits.get(name), self._seen.get(name, ())
        if limit is None or len(seen) < FEWEST:
            return None
        usual = median(seen)
        if value <= limit * usual:
            return None
        return f"{name} is {value / usual if usual else math.inf:.3g} times the median of the last {len(seen)} steps, {limit:g} is allowed"


def _said(given: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in given.items())
