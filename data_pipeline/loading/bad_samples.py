"""Samples whose bytes are as indexed and still do not decode: named, counted, and too many of them refused.

What the loader replaced -> told to whoever listens -> counted by distinct sample -> compared with the share
the user allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from data_pipeline.errors import BadDataset

ALWAYS_ALLOWED = 1


class TooManyBadSamples(BadDataset):
    """More samples do not decode than the run allows."""


class BadSample(NamedTuple):
    """A sample that did not decode: the item it was for, its id, the id delivered instead, and why."""

    item: int
    id: int
    substitute: int
    why: str


class BadSamples:
    """The bad samples one worker met."""

    def __init__(
        self, share: float, samples: int, url: str, on_bad: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self._share, self._samples, self.url, self._on_bad = share, samples, url, on_bad
        self._delivered = 0
        self._distinct: dict[int, str] = {}  # why, by sample id
        self.replaced = 0

    def note(self, bad: Sequence[BadSample], delivered: int) -> None:
        """Reports `bad`, met among `delivered` more samples. TooManyBadSamples beyond the allowed share."""
        self._delivered += delivered
        for each in bad:
            self.replaced += 1
            self._distinct[each.id] = each.why
            if self._on_bad:
                self._on_bad(each._asdict())
        if len(self._distinct) > self._allowed():
            seen = min(self._delivered, self._samples)
            last, why = next(reversed(self._distinct.items()))
            raise TooManyBadSamples(
                f"{self.url}: {len(self._distinct)} of {seen} samples do not decode, over a share of "
                f"{self._share:g} (the last: {last}, {why}); run `mixer verify` or raise data.bad_share"
            )

    def _allowed(self) -> float:
        """Distinct bad samples that may have been met by now.

        The share of what was seen; before a whole pass over the data, four standard deviations more: by
        chance alone some worker of many meets its few bad samples early.
        """
        expected = self._share * min(self._delivered, self._samples)
        slack = 4 * math.sqrt(expected) if self._delivered < self._samples else 0.0
        return max(ALWAYS_ALLOWED, expected + slack)
