"""The order of the data: every sample once per epoch, the same at every world size, for ever."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from data_pipeline.feistel import derive, invert, permute
from data_pipeline.order import Geometry, Order, choose_geometry, owned_slots, useful_world

# (N, block, lanes, window), batch, micro-batch; N < B, fewer blocks than lanes, M = 1, lanes > batch ...
CASES = [
    ((1000, 7, 8, 2), 32, 4),
    ((1000, 7, 32, 2), 32, 4),
    ((1437, 1, 4, 1), 128, 32),
    ((1, 1, 8, 2), 16, 2),
    ((3, 2, 8, 2), 16, 2),
    ((10, 3, 16, 2), 16, 4),
    ((97, 5, 1, 3), 8, 8),
    ((501, 10, 64, 2), 16, 2),
    ((5000, 13, 6, 4), 24, 4),
    ((12, 4, 3, 1), 6, 2),
    ((299, 300, 4, 2), 8, 2),
    ((640, 10, 16, 2), 16, 1),
]


def order_of(shape: tuple[int, int, int, int], seed: int = 3) -> Order:
    return Order(Geometry(*shape, seed=seed))


@pytest.mark.parametrize(("shape", "batch", "micro"), CASES)
def test_every_epoch_delivers_every_sample_once(
    shape: tuple[int, int, int, int], batch: int, micro: int
) -> None:
    n = shape[0]
    ids = order_of(shape).sample_ids(np.arange(3 * n)).reshape(3, n)
    assert (np.sort(ids, axis=1) == np.arange(n)).all()


@pytest.mark.parametrize(("shape", "batch", "micro"), CASES)
def test_every_world_size_reads_the_same_batches(
    shape: tuple[int, int, int, int], batch: int, micro: int
) -> None:
    slots = batch // micro
    steps = [
        0,
        batch * (2 * shape[0] // batch),
        batch * 12_345,
    ]  # the second holds the end of an epoch, or begins one
    expected = {position: one_rank(shape, position, batch, range(slots), micro) for position in steps}
    for world in range(1, slots + 1):
        for position in steps:  # a fresh Order each time: every step is a cold seek
            parts = [
                one_rank(shape, position, batch, owned_slots(r, world, slots), micro) for r in range(world)
            ]
            assert list(itertools.chain(*parts)) == expected[position]


def one_rank(
    shape: tuple[int, int, int, int], position: int, batch: int, slots: range, micro: int
) -> list[int]:
    order = order_of(shape)
    items = order.step_items(position, batch)[slots.start * micro : slots.stop * micro]
    return [int(sample) for sample in order.sample_ids(items)]


@pytest.mark.parametrize(("shape", "batch", "micro"), CASES)
def test_a_slot_keeps_its_lanes(shape: tuple[int, int, int, int], batch: int, micro: int) -> None:
    """Else two workers would read the same block."""
    order, lanes = order_of(shape), shape[2]
    seen: dict[int, set[int]] = {}
    for position in range(0, 20 * batch, batch):
        for slot, items in enumerate(order.step_items(position, batch).reshape(-1, micro)):
            seen.setdefault(slot, set()).update(int(i) % lanes for i in items)
    assert sum(len(each) for each in seen.values()) == len(set().union(*seen.values())) or lanes % (
        batch // micro
    )


@pytest.mark.parametrize("samples", [10**9, 10**9 + 7])
def test_a_billion_samples_round_trip(samples: int) -> None:
    order = order_of((samples, 40, 512, 2))
    rng = np.random.default_rng(0)
    for item in [0, samples - 1, samples, *rng.integers(0, 300 * samples, 60).tolist()]:
        epoch, lane, sample = order.place(item)
        assert (epoch, lane) == (item // samples, item % 512)
        assert 0 <= sample < samples
        assert order.item_of(epoch, sample) == item


@pytest.mark.parametrize(("shape", "batch", "micro"), CASES)
def test_item_of_inverts_place(shape: tuple[int, int, int, int], batch: int, micro: int) -> None:
    order = order_of(shape)
    for item in range(0, 3 * shape[0], max(1, shape[0] // 10)):
        epoch, _, sample = order.place(item)
        assert order.item_of(epoch, sample) == item


def test_the_formulas_of_the_design_in_plain_python() -> None:
    """An independent reading of the rules, item by item."""
    for shape, batch, _ in CASES:
        order = order_of(shape)
        items = list(range(2 * shape[0] + batch))
        ids = order.sample_ids(items)
        assert [int(ids[i]) for i in items[:: len(items) // 40 + 1]] == [
            plain_sample_id(order, i) for i in items[:: len(items) // 40 + 1]
        ]


def plain_sample_id(order: Order, i: int) -> int:
    g = order.geometry
    n, b, lanes, v, seed = g.samples, g.block, g.lanes, g.window, g.seed
    e, lane, blocks = i // n, i % lanes, math.ceil(n / b)
    q = n - (blocks - 1) * b

    def cnt(x: int) -> int:
        return (x + lanes - 1 - lane) // lanes

    def below(x: int, which: int) -> int:
        return (x // lanes) * which + min(x % lanes, which)

    def start(r: int) -> int:
        return r * b - (b - q) * (r > ps)

    def rank(x: int) -> int:
        return next(r for r in range(blocks) if start(r) <= x < start(r + 1))

    key = derive(seed, 1, e)
    ps = int(invert(blocks - 1, blocks, key)[0])
    lo, hi = (below((e + 1) * n, which) - below(e * n, which) for which in (lane, lane + 1))
    x = lo + i // lanes - cnt(e * n)
    w = rank(x) // v
    a, z = max(lo, start(w * v)), min(hi, start(min((w + 1) * v, blocks)))
    y = a + int(permute(x - a, z - a, derive(seed, 2, e, lane, w))[0])
    return int(permute(rank(y), blocks, key)[0]) * b + y - start(rank(y))


def test_a_changed_batch_keeps_exactly_once() -> None:
    order = order_of((1003, 7, 16, 2))
    position, ids = 0, []
    for batch in itertools.cycle([64, 128, 256, 64, 192, 16]):
        items = order.step_items(position, batch)
        assert sorted(items.tolist()) == list(range(position, position + batch))
        ids += order.sample_ids(items[np.argsort(items)]).tolist()
        position += batch
        if position >= 3 * 1003:
            break
    assert sorted(ids[:1003]) == sorted(ids[1003:2006]) == list(range(1003))


def test_golden_permutation() -> None:
    """THESE NUMBERS ARE A FORMAT. If this fails, existing runs would read other samples after an upgrade."""
    key = derive(7, 1, 0)
    assert int(key[0]) == 1240010245781845425
    assert permute(np.arange(10), 10, key).tolist() == [4, 2, 1, 8, 7, 9, 3, 5, 6, 0]
    far = permute(np.arange(5), 10**9 + 7, derive(0, 2, 3, 4, 5))
    assert far.tolist() == [442690912, 668026383, 155629811, 794664457, 872569213]


def test_golden_order() -> None:
    order = order_of((1000, 7, 8, 2), seed=0)
    assert order.step_items(32, 16).tolist() == [
        32,
        40,
        33,
        41,
        34,
        42,
        35,
        43,
        36,
        44,
        37,
        45,
        38,
        46,
        39,
        47,
    ]
    ids = [549, 548, 572, 868, 68, 154, 878, 876, 789, 639, 40, 428, 780, 975, 803, 800]
    assert order.sample_ids(order.step_items(32, 16)).tolist() == ids
    assert order.place(123_456_789) == (123_456, 5, 207)
    assert list(itertools.islice(order.successors(123), 5)) == [807, 881, 878, 876, 877]
    resident = Order(Geometry(1437, 1, 4, 1, seed=1))
    assert resident.sample_ids(np.arange(8)).tolist() == [1118, 793, 874, 573, 210, 661, 18, 674]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 10, 97, 1000, 4096])
def test_a_permutation_is_one_and_inverts(n: int) -> None:
    for seed in range(5):
        key = derive(seed)
        image = permute(np.arange(n), n, key)
        assert sorted(image.tolist()) == list(range(n))
        assert invert(image, n, key).tolist() == list(range(n))


def test_sizes_and_keys_differ_by_element() -> None:
    n = np.array([1, 5, 100, 10**12])
    key = derive(1, np.arange(4))
    together = permute(n - 1, n, key)
    assert together.tolist() == [int(permute(n[j] - 1, n[j], key[j : j + 1])[0]) for j in range(4)]


@pytest.mark.parametrize("n", [4, 10, 50, 500])
def test_neighbours_are_scattered(n: int) -> None:
    """Differences of neighbours are uniform: chi2 per degree of freedom near 1 (four rounds give 20)."""
    trials = 20_000 // n
    keys = np.repeat(derive(np.arange(trials)), n)
    image = permute(np.tile(np.arange(n), trials), n, keys).reshape(trials, n)
    counts = np.bincount(((np.diff(image, axis=1)) % n).ravel(), minlength=n)[1:]
    expected = counts.sum() / (n - 1)
    assert ((counts - expected) ** 2 / expected).sum() / (n - 2) < 1 + 5 * math.sqrt(2 / (n - 2))


def test_successors_walk_window_lane_epoch() -> None:
    order = order_of((200, 5, 4, 2))
    for item in (0, 17, 199, 333):
        window = order.windows([item])
        size = int((window.stop - window.start)[0])
        found = list(order.successors(item))
        own = order.place(item)[2]
        assert sorted([*found, own]) == list(range(200))
        near = order.windows([order.item_of(item // 200, other) for other in found])
        assert set(near.number[: size - 1].tolist()) == {int(window.number[0])}
        assert set(near.lane[:49].tolist()) == {item % 4}


def test_the_next_of_the_window_comes_first() -> None:
    order = order_of((200, 5, 4, 2))
    window = order.windows([8])
    assert int(window.at[0]) + 1 < int(window.stop[0])
    assert next(order.successors(8)) == order.place(8 + 4)[2]


def test_a_lone_sample_has_no_successor() -> None:
    assert list(order_of((1, 1, 2, 1)).successors(5)) == []


def test_rest_of_windows_is_what_is_still_to_come() -> None:
    order = order_of((200, 5, 4, 2))
    window = order.windows([21])
    left = int((window.stop - window.at)[0])
    assert order.rest_of_windows([21]).tolist() == order.sample_ids(21 + 4 * np.arange(left)).tolist()
    both = order.rest_of_windows([20, 21]).tolist()
    assert both[:2] == order.sample_ids([20, 21]).tolist()


def test_slots_tile_the_step() -> None:
    for slots in (1, 2, 7, 64):
        for world in range(1, slots + 1):
            owned = [list(owned_slots(rank, world, slots)) for rank in range(world)]
            assert list(itertools.chain(*owned)) == list(range(slots))
            assert max(map(len, owned)) - min(map(len, owned)) <= 1
    with pytest.raises(ValueError, match="rank 0 of 9 with 8 slots"):
        owned_slots(0, 9, 8)


def test_useful_worlds() -> None:
    assert [useful_world(a, 8) for a in range(1, 10)] == [1, 2, 3, 4, 4, 4, 4, 8, 8]
    assert useful_world(33, 64) == 32


def test_geometry_survives_json() -> None:
    geometry = Geometry(1437, 1, 4, 1, 2**62)
    assert (
        geometry.to_json()
        == '{"samples": 1437, "block": 1, "lanes": 4, "window": 1, "seed": 4611686018427387904}'
    )
    assert Geometry.from_json(geometry.to_json()) == geometry
    for wrong in (
        '{"samples": 3}',
        geometry.to_json().replace("1437", "1437.0"),
        geometry.to_json().replace("1437", "0"),
    ):
        with pytest.raises(ValueError, match="geometry"):
            Geometry.from_json(wrong)


def test_a_small_set_is_kept_whole() -> None:
    geometry = choose_geometry(1437, 1500, 128, 32, 0, resident_bytes=64_000_000, window_bytes=2_000_000_000)
    assert geometry == Geometry(1437, block=1, lanes=4, window=1, seed=0)
    assert geometry.resident


@pytest.mark.parametrize("samples", [800, 5_000, 50_000, 1_281_167, 14_000_000])
@pytest.mark.parametrize(("batch", "micro"), [(128, 32), (1024, 64), (4096, 64), (8, 8)])
def test_a_large_set_is_read_in_lanes(samples: int, batch: int, micro: int) -> None:
    size, memory = 104_000, 2_000_000_000
    geometry = choose_geometry(samples, size, batch, micro, 0, resident_bytes=64_000_000, window_bytes=memory)
    slots = batch // micro
    assert geometry.lanes % slots == 0
    assert batch % geometry.lanes == 0
    assert geometry.lanes * (geometry.window + 1) * geometry.block * size <= memory
    assert geometry.block <= 38
    assert not geometry.resident


def test_in21k_gets_four_megabyte_blocks() -> None:
    geometry = choose_geometry(
        14_000_000, 104_000, 4096, 64, 0, resident_bytes=64_000_000, window_bytes=8_000_000_000
    )
    assert (geometry.block, geometry.lanes, geometry.window) == (38, 512, 2)


def test_step_ids_are_fast_enough() -> None:
    """A step of 4096 at a billion samples: some milliseconds; a second means the vectorising is gone."""
    import time

    order = order_of((10**9 + 7, 40, 512, 2))
    began = time.perf_counter()
    order.sample_ids(order.step_items(4096 * 777, 4096))
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("lanes", [1, 4, 6, 24])
@pytest.mark.parametrize("batch", [24, 30, 48])
def test_the_items_of_a_step_are_sorted_by_lane_and_turn(lanes: int, batch: int) -> None:
    order = Order(Geometry(1000, 3, lanes, 2, seed=1))
    for position in (0, 5, 23, 24, 1_000_003):
        items = range(position, position + batch)
        assert order.step_items(position, batch).tolist() == sorted(items, key=lambda i: (i % lanes, i))


def test_what_is_left_of_windows_is_told_in_the_order_of_turn() -> None:
    """Also where a lane enters several windows: else blocks of later ones fill the room before those that are needed next."""
    order = Order(Geometry(500, 3, 4, 2, seed=1))
    items = np.arange(100, 180)
    entering = [i for i in items.tolist() if i < 104 or _window_of(order, i) != _window_of(order, i - 4)]
    told = order.items_of_windows(np.array(entering))
    assert told.tolist() == sorted(told.tolist())
    assert set(items.tolist()) <= set(told.tolist())
    assert order.rest_of_windows(np.array(entering)).tolist() == order.sample_ids(told).tolist()


def _window_of(order: Order, item: int) -> tuple[int, ...]:
    window = order.windows(np.array([item]))
    return tuple(int(field[0]) for field in (window.epoch, window.lane, window.number))
