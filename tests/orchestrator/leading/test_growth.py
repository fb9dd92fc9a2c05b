"""When a larger world is worth a restart, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.leading.growth import BELIEVED_S, Room, Seen, consider, loss_every

SEEN = Seen(world=2, room=4, slots=8, step_s=1.0, steps_left=10_000)  # 4 rounds a step; 4 workers need 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 4),
        ({"room": 2}, None),
        ({"room": 0}, None),
        ({"room": 1}, None),  # nobody shrinks by this rule
        ({"room": 3}, 3),  # 3 rounds instead of 4
        ({"world": 4, "room": 7}, None),  # 2 rounds with 7, too
        ({"world": 4, "room": 8}, 8),
        ({"world": 5, "room": 7}, None),
        ({"room": 100, "slots": 8}, 8),
        ({"step_s": None}, None),
        ({"steps_left": 41}, 4),  # 41 s become 20.5 s: one more than the 20 s of a restart
        ({"steps_left": 40}, None),  # the end is too near
        ({"steps_left": 41, "restart_s": 30.0}, None),
        ({"loss_every_s": 21.0}, 4),  # 21 s at twice the pace do the work of 42 s
        ({"loss_every_s": 20.0}, None),
        ({"room": 3, "loss_every_s": 59.0}, None),  # a third faster: 59 s gain 19.7 s
        ({"room": 3, "loss_every_s": 61.0}, 3),
        ({"since_growth_s": 5.0}, 4),  # nothing was lost since: a second node may follow the first at once
        ({"since_growth_s": 5.0, "lost_since": True}, None),
        ({"since_growth_s": 199.0, "lost_since": True}, None),  # 10 restarts of 20 s
        ({"since_growth_s": 201.0, "lost_since": True}, 4),
        ({"since_growth_s": 59.0, "lost_since": True, "restart_s": 2.0}, None),
        ({"since_growth_s": 61.0, "lost_since": True, "restart_s": 2.0}, 4),
    ],
)
def test_the_rule(change: dict[str, object], expected: int | None) -> None:
    verdict = consider(replace(SEEN, **change))  # type: ignore[arg-type]
    assert verdict.world == expected, verdict.why


def test_it_says_why_when_it_grows_and_when_it_might_have() -> None:
    assert (
        consider(SEEN).why
        == "2 -> 4 workers: saves 3600 s until the next expected loss, a restart takes 20 s"
    )
    assert consider(replace(SEEN, steps_left=30)).why == (
        "2 -> 4 workers: would save less until the end than a restart takes"
    )
    assert consider(replace(SEEN, room=2)).why == "", "there is nothing to say where nothing could be gained"


@pytest.mark.parametrize("second", [1.0, 17.0, 300.0])
def test_a_refusal_does_not_change_its_words_by_the_second(second: float) -> None:
    near_end = replace(SEEN, steps_left=30)
    assert consider(near_end).why == consider(replace(near_end, steps_left=30 - int(second) % 20)).why


@pytest.mark.parametrize(
    ("losses", "worked", "expected"),
    [
        ([], 0.0, BELIEVED_S),
        ([], 36_000.0, 39_600.0),
        ([500.0], 600.0, 2100.0),
        ([100.0, 200.0, 300.0, 400.0, 500.0], 600.0, 700.0),
        ([35_000.0], 36_000.0, 19_800.0),  # one in the last hour may be chance
        ([35_000.0, 35_900.0], 36_000.0, 2400.0),  # two are not, however calm it was before
        ([10.0, 20.0], 36_000.0, 13_200.0),
    ],
)
def test_the_time_to_the_next_loss(losses: list[float], worked: float, expected: float) -> None:
    assert loss_every(losses, worked, now=max(worked, 600.0)) == pytest.approx(expected)


def test_a_flapping_cluster_stops_growing_by_itself() -> None:
    """Each loss comes 30 s after the growth before; the run grows fewer times than it could."""
    moments: list[float] = []
    grown, now = 0, 0.0
    for _ in range(400):
        now += 30.0
        seen = replace(SEEN, loss_every_s=loss_every(moments, now, now), restart_s=70.0)
        grown += consider(seen).world is not None
        moments.append(now)
    assert 0 < grown < 150


def test_room_counts_once_it_has_been_there_for_some_seconds() -> None:
    room = Room()
    looks = [
        (0, 2),
        (1, 2),
        (5, 2),
        (6, 4),
        (8, 4),
        (10.5, 4),
        (11, 4),
        (12, 4),
        (13, 2),
        (14, 4),
        (17, 4),
        (18, 4),
        (19, 4),
    ]
    found = [room.look(count, moment) for moment, count in looks]
    assert found == [0, 0, 2, 2, 2, 2, 4, 4, 2, 2, 2, 2, 4]
