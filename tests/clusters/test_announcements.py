"""What the metadata servers' answers mean, as tables of documented shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from clusters import announcements
from clusters.announcements import Event

NOW = 1_500_000_000.0
FREEZE = {
    "EventId": "C7061BAC-AFDC-4513-B24B-AA5F13A16123",
    "EventStatus": "Scheduled",
    "EventType": "Freeze",
    "ResourceType": "VirtualMachine",
    "Resources": ["train_0", "train_3"],
    "NotBefore": "Mon, 11 Apr 2022 22:26:58 GMT",
    "Description": "Virtual machine is being paused because of a memory-preserving Live Migration operation.",
    "EventSource": "Platform",
    "DurationInSeconds": 5,
}
PREEMPT = FREEZE | {"EventId": "p", "EventType": "Preempt", "Resources": ["TRAIN_3"]}
STARTED = FREEZE | {"EventId": "r", "EventType": "Reboot", "EventStatus": "Started", "NotBefore": ""}
OTHERS = FREEZE | {"EventId": "o", "EventType": "Terminate", "Resources": ["train_33"]}
APRIL = 1_649_716_018.0


def azure(text: str, now: float) -> list[Event]:
    return announcements.scheduled(text, now, machine="train_3")


def document(*events: dict[str, Any]) -> str:
    return json.dumps({"DocumentIncarnation": 2, "Events": events})


@pytest.mark.parametrize(
    ("parse", "text", "told"),
    [
        (announcements.spot_action, '{"action": "stop", "time": "2017-09-18T08:22:00Z"}', [(1_505_722_920.0, "stop")]),
        (announcements.spot_action, '{"action":"terminate","time":"2017-09-18T08:22:00"}', [(1_505_722_920.0, "terminate")]),
        (announcements.rebalance, '{"noticeTime": "2020-10-27T08:22:00Z"}', [(None, "rebalance")]),
        (announcements.preempted, "FALSE", []),
        (announcements.preempted, "TRUE\n", [(NOW + 30, "preemption")]),
        (announcements.maintenance, "NONE", []),
        (announcements.maintenance, "TERMINATE_ON_HOST_MAINTENANCE", [(NOW + 60, "terminate")]),
        (announcements.maintenance, "MIGRATE_ON_HOST_MAINTENANCE", [(None, "migration")]),
        (azure, document(), []),
        (azure, document(OTHERS), []),
        (azure, document(FREEZE, OTHERS, PREEMPT), [(None, "Freeze"), (APRIL, "Preempt")]),
        (azure, document(STARTED), [(NOW, "Reboot")]),
        (azure, document(FREEZE | {"EventType": "Redeploy"}), [(APRIL, "Redeploy")]),
        (azure, document(FREEZE | {"EventType": "Teleport"}), [(None, "Teleport")]),
    ],
)  # fmt: skip
def test_what_an_answer_means(
    parse: Callable[[str, float], list[Event]], text: str, told: list[tuple[float | None, str]]
) -> None:
    events = parse(text, NOW)
    assert [event.deadline for event in events] == [deadline for deadline, _ in told]
    for event, (_, word) in zip(events, told, strict=True):
        assert word in event.cause
    assert len({event.key for event in events}) == len(events)


@pytest.mark.parametrize(
    "parse",
    [
        announcements.spot_action,
        announcements.rebalance,
        announcements.preempted,
        announcements.maintenance,
        azure,
    ],
)
@pytest.mark.parametrize(
    "text",
    ["", "<html>", "null", "[]", "7", '{"action": 1, "time": 2}', '{"action":"stop","time":"soon"}',
     '{"noticeTime": null}', '{"Events": [{}]}', '{"Events": 5}', '{"Events": [{"Resources": ["train_3"]}]}'],
)  # fmt: skip
def test_nonsense_is_an_error_and_never_an_event(
    parse: Callable[[str, float], list[Event]], text: str
) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        parse(text, NOW)
