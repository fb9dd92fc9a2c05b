"""The order of the data: which sample is item i of a run, as a pure function of (geometry, i).

A run is one infinite list of items. Item i belongs to epoch i // N and lane i % L. The samples lie in
blocks of b; an epoch permutes the blocks (keyed, O(1) memory); a lane is a slice of that stream, shuffled
inside windows of V blocks. Item -> (epoch, lane, position in the stream) -> window -> shuffled position ->
block -> sample id. No epoch has a tail: nothing is dropped, padded or repeated, and a step may straddle two
epochs. The world size appears nowhere, and the position of a run is one integer: items consumed. This
module reads no data; geometry.py chooses the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.feistel import Ints, Keys, derive, invert, permute
from data_pipeline.geometry import Geometry, choose_geometry

__all__ = ["Geometry", "Order", "Window", "choose_geometry", "owned_slots", "useful_world"]

_BLOCKS, _WINDOW = 1, 2  # what a key is for


class Window(NamedTuple):
    """Where items stand, as arrays: a window is [start, stop) of an epoch's stream, the item `at` in it."""

    epoch: Ints
    lane: Ints
    number: Ints
    start: Ints
    stop: Ints
    at: Ints


class Order:
    """The order of one run. Immutable, cheap to make, safe to share between threads."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.blocks = geometry.blocks
        self._short_length = geometry.samples - (self.blocks - 1) * geometry.block

    def place(self, item: int) -> tuple[int, int, int]:
        """(epoch, lane, sample id) of one item."""
        window = self.windows(np.array([item], np.int64))
        return int(window.epoch[0]), int(window.lane[0]), int(self.ids_at(window)[0])

    def sample_ids(self, items: npt.ArrayLike) -> Ints:
        """The sample id of each item, int64 [n]."""
        return self.ids_at(self.windows(items))

    def item_of(self, epoch: int, sample: int) -> int:
        """The item that delivers `sample` in `epoch`: the inverse of `place`."""
        g = self.geometry
        epochs = np.array([epoch], np.int64)
        rank = invert(sample // g.block, self.blocks, derive(g.seed, _BLOCKS, epochs))
        y = self._start(epochs, rank) + sample % g.block
        bounds = self._lane_start(np.full(g.lanes + 1, epoch, np.int64), np.arange(g.lanes + 1))
        lane = np.searchsorted(bounds, y, side="right") - 1
        window = self._window(epochs, lane, y)
        x = window.start + invert(y - window.start, window.stop - window.start, self._window_key(window))
        turn = x - bounds[lane] + _count_in_lane(epochs * g.samples, lane, g.lanes)
        return int((turn * g.lanes + lane)[0])

    def step_items(self, position: int, batch: int) -> Ints:
        """The items of the step at `position`, int64 [batch] in slot order: slot j is the j-th run of m."""
        items, lanes = np.arange(position, position + batch, dtype=np.int64), self.geometry.lanes
        if batch < lanes:
            return items
        if batch % lanes == 0:  # rows of one item per lane, which begin at lane position % lanes
            return np.roll(items.reshape(-1, lanes), position % lanes, axis=1).T.ravel()
        return items[np.lexsort((items, items % lanes))]

    def windows(self, items: npt.ArrayLike) -> Window:
        """The shuffle window each item is drawn from, and its place there before the shuffle."""
        i = np.atleast_1d(np.asarray(items, np.int64))
        g = self.geometry
        epoch, lane = i // g.samples, i % g.lanes
        x = self._lane_start(epoch, lane) + i // g.lanes - _count_in_lane(epoch * g.samples, lane, g.lanes)
        return self._window(epoch, lane, x)

    def rest_of_windows(self, items: npt.ArrayLike) -> Ints:
        """The sample ids still to come of the windows of `items`, theirs included, in the order of turn."""
        w = self.windows(items)
        which, ahead = self._turns(items, w)
        return self.ids_at(Window(*(field[which] for field in w))._replace(at=w.at[which] + ahead))

    def items_of_windows(self, items: npt.ArrayLike) -> Ints:
        """The items whose samples `rest_of_windows` gives."""
        which, ahead = self._turns(items, self.windows(items))
        return np.atleast_1d(np.asarray(items, np.int64))[which] + ahead * self.geometry.lanes

    def _turns(self, items: npt.ArrayLike, w: Window) -> tuple[Ints, Ints]:
        """What is left of the windows of `items`, the one first whose turn comes first: (which window, how far in it)."""
        left = w.stop - w.at
        which = np.repeat(np.arange(left.size), left)
        ahead = np.arange(left.sum()) - np.repeat(np.cumsum(left) - left, left)
        turn = np.argsort(
            np.atleast_1d(np.asarray(items, np.int64))[which] + ahead * self.geometry.lanes, kind="stable"
        )
        return which[turn], ahead[turn]

    def successors(self, item: int) -> Iterator[int]:
        """Who stands in for an item that cannot be decoded, in order: every other sample of its epoch, once.

        First the next ones of the item's window, cyclic; then the next positions of its lane, cyclic; then
        of the epoch. A function of the item alone, so every run at every world size finds the same
        substitute.
        """
        w = self.windows(np.array([item], np.int64))
        epoch, lane, start, stop, at = (int(field[0]) for field in (w.epoch, w.lane, w.start, w.stop, w.at))
        epochs = np.full(self.geometry.lanes + 1, epoch, np.int64)
        bounds = self._lane_start(epochs, np.arange(self.geometry.lanes + 1))
        low, high = int(bounds[lane]), int(bounds[lane + 1])
        for x in _rings(at, (start, stop), (low, high), (0, self.geometry.samples)):
            where = np.array([x], np.int64)
            home = np.searchsorted(bounds, where, side="right") - 1
            yield int(self.ids_at(self._window(w.epoch, home, where))[0])

    def ids_at(self, w: Window) -> Ints:
        """The sample ids of items whose windows are known: the shuffle inside the window, then the blocks."""
        g = self.geometry
        y = w.start + permute(w.at - w.start, w.stop - w.start, self._window_key(w))
        rank = self._rank(w.epoch, y)
        block = permute(rank, self.blocks, derive(g.seed, _BLOCKS, w.epoch))
        return block * g.block + y - self._start(w.epoch, rank)

    def _window(self, epoch: Ints, lane: Ints, x: Ints) -> Window:
        number = self._rank(epoch, x) // self.geometry.window
        last = np.minimum((number + 1) * self.geometry.window, self.blocks)
        start = np.maximum(self._lane_start(epoch, lane), self._start(epoch, number * self.geometry.window))
        stop = np.minimum(self._lane_start(epoch, lane + 1), self._start(epoch, last))
        return Window(epoch, lane, number, start, stop, x)

    def _window_key(self, w: Window) -> Keys:
        return derive(self.geometry.seed, _WINDOW, w.epoch, w.lane, w.number)

    def _lane_start(self, epoch: Ints, lane: Ints) -> Ints:
        """Where lane's slice of the epoch's stream begins; the slices tile [0, N)."""
        n, lanes = self.geometry.samples, self.geometry.lanes
        return _count_below((epoch + 1) * n, lane, lanes) - _count_below(epoch * n, lane, lanes)

    def _rank(self, epoch: Ints, x: Ints) -> Ints:
        """Which block of the epoch's stream position x lies in."""
        b, q = self.geometry.block, self._short_length
        short = self._short_rank(epoch)
        edge = short * b
        return np.where(x < edge, x // b, np.where(x < edge + q, short, short + 1 + (x - edge - q) // b))

    def _start(self, epoch: Ints, rank: Ints) -> Ints:
        """Where block number `rank` of the epoch's stream begins; N for one past the last."""
        b, q = self.geometry.block, self._short_length
        return rank * b - (b - q) * (rank > self._short_rank(epoch))

    def _short_rank(self, epoch: Ints) -> Ints:
        """The place in the epoch's stream of the last block, which is short unless b divides N."""
        last = self.blocks - 1
        if self._short_length == self.geometry.block:
            return np.full(epoch.shape, last, np.int64)
        epochs, back = np.unique(epoch, return_inverse=True)
        return invert(last, self.blocks, derive(self.geometry.seed, _BLOCKS, epochs))[back]


def owned_slots(rank: int, world: int, slots: int) -> range:
    """The slots of a step that `rank` of `world` works on: balanced, in order, tiling [0, slots)."""
    if not 0 <= rank < world <= slots:
        raise ValueError(f"rank {rank} of {world} with {slots} slots; give 0 <= rank < world <= slots")
    return range(rank * slots // world, (rank + 1) * slots // world)


def useful_world(available: int, slots: int) -> int:
    """The smallest world that is as fast as `available` workers: the others would only compute dummies."""
    if available < 1 or slots < 1:
        raise ValueError(f"{available} workers, {slots} slots; give at least one of each")
    return -(-slots // -(-slots // available))


def _count_in_lane(x: Ints, lane: Ints, lanes: int) -> Ints:
    """Items below x in the lane."""
    return (x + lanes - 1 - lane) // lanes


def _count_below(x: Ints, lane: Ints, lanes: int) -> Ints:
    """Items below x in all lanes before the lane."""
    return (x // lanes) * lane + np.minimum(x % lanes, lane)


def _rings(at: int, *bounds: tuple[int, int]) -> Iterator[int]:
    """Positions after `at`, cyclic in each of the nested bounds in turn, none twice and never `at`."""
    low, high = at, at + 1
    for start, stop in bounds:
        yield from range(high, stop)
        yield from range(start, low)
        low, high = start, stop
