"""Which samples the coming steps of a worker are made of, worked out ahead and announced before their turn.

Positions of the coming steps, without those to skip -> the items of this worker's slots -> their windows and sample
ids. When a step enters a window, all that will be taken of it is announced, so that its blocks come in time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

import numpy as np

from data_pipeline.feistel import Ints
from data_pipeline.order import Order, Window

STEPS = 3  # at least, whose bytes are announced before their images are made
ITEMS = 2048  # worked out at a time: numpy on a handful is all overhead


class Scout:
    """Walks the steps of `batch` items from `position` on; `announce` is told the sample ids that will be taken, in turn."""

    def __init__(
        self,
        order: Order,
        *,
        batch: int,
        micro_batch: int,
        slots: range,
        position: int,
        skip: Collection[int],
        announce: Callable[[Ints], None],
    ) -> None:
        self._order, self._batch, self._announce = order, batch, announce
        self._mine = slice(slots.start * micro_batch, slots.stop * micro_batch)
        self._own = len(slots) * micro_batch
        self._skip = frozenset(at for at in skip if at >= position)
        self._first_position = self._position = position
        self._entered: dict[int, tuple[int, int]] = {}  # by lane: the (epoch, window) announced last
        self._found: deque[tuple[int, Ints, Ints]] = deque()

    def next(self) -> tuple[int, Ints, Ints]:
        """(position, items int64 [n], sample ids int64 [n]) of the next step, in slot order."""
        if len(self._found) < STEPS:
            self._look_ahead()
        return self._found.popleft()

    def _look_ahead(self) -> None:
        half_epoch = self._order.geometry.samples // (2 * self._batch)  # else blocks would stay for the next
        positions = self._positions(STEPS + min(ITEMS // self._own, half_epoch))
        items = np.concatenate([self._order.step_items(at, self._batch)[self._mine] for at in positions])
        window = self._order.windows(items)
        entering = self._entering(window)
        if entering and not self._order.geometry.resident:
            self._announce(self._coming(items[entering]))
        ids = self._order.ids_at(window)
        self._found.extend(
            zip(positions, items.reshape(-1, self._own), ids.reshape(-1, self._own), strict=True)
        )
        self._position = positions[-1] + self._batch

    def _positions(self, count: int) -> list[int]:
        """Where the next `count` steps begin."""
        ahead = range(self._position, self._position + (count + len(self._skip)) * self._batch, self._batch)
        return [at for at in ahead if at not in self._skip][:count]

    def _coming(self, entering: Ints) -> Ints:
        """The sample ids that will be taken of the windows that these items enter, in the order of turn."""
        if not self._skip:
            return self._order.rest_of_windows(entering)
        items = self._order.items_of_windows(entering)
        begins = items - (items - self._first_position) % self._batch
        return self._order.sample_ids(items[~np.isin(begins, list(self._skip))])

    def _entering(self, window: Window) -> list[int]:
        """Places of the items that are the first of their window."""
        first = []
        keys = zip(window.lane.tolist(), window.epoch.tolist(), window.number.tolist(), strict=True)
        for place, (lane, epoch, number) in enumerate(keys):
            if self._entered.get(lane) != (epoch, number):
                self._entered[lane] = epoch, number
                first.append(place)
        return first


def check_skip(skip: Collection[int], batch: int, position: int) -> None:
    """ValueError unless a step of `batch` begins at each position to skip."""
    off = [at for at in skip if (at - position) % batch]
    if off:
        raise ValueError(
            f"skip: no step of {batch} from position {position} on begins at {off[0]}; give positions where steps begin"
        )
