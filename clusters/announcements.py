"""What the clouds' metadata servers mean by what they answer: pure functions of text and time (Unix seconds), giving Events.

The shapes are those of the public documentation:

    aws    EC2 user guide, "Spot Instance interruption notices" and "EC2 instance rebalance recommendations"
    gcp    Compute Engine, "Spot VMs" (30 s from `preempted` to the end) and "Handle GPU host maintenance events" (60 s from
           TERMINATE_ON_HOST_MAINTENANCE on, an hour where there are GPUs; the shorter is taken, since nobody waits for a deadline)
    azure  "Scheduled Events for Linux VMs"; all machines of a scale set are told of one another's events, so they go by name

An Event without a deadline is advice: the machine is likelier to go than others, or will pause for seconds with its memory kept (live
migration, Freeze). What is not as documented raises ValueError, TypeError, LookupError or OverflowError.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

GCP_PREEMPTION_S, GCP_TERMINATION_S = 30.0, 60.0
AZURE_LOSES = ("Preempt", "Terminate", "Reboot", "Redeploy")  # ends processes; the others do not


@dataclass(frozen=True)
class Event:
    """One announcement. deadline: Unix seconds, None for advice. Two with the same key are the same."""

    key: str
    deadline: float | None
    cause: str


def spot_action(text: str, now: float) -> list[Event]:
    """`{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`; action is hibernate, stop or terminate."""
    action, when = _texts(json.loads(text), "action", "time")
    return [Event(f"spot {action} {when}", _instant(when), f"spot interruption: {action}")]


def rebalance(text: str, now: float) -> list[Event]:
    """`{"noticeTime": "2020-10-27T08:22:00Z"}`: likelier to be interrupted than others. Advice."""
    (when,) = _texts(json.loads(text), "noticeTime")
    return [Event(f"rebalance {when}", None, "spot rebalance recommendation")]


def preempted(text: str, now: float) -> list[Event]:
    """`TRUE` or `FALSE`."""
    event = Event("preempted", now + GCP_PREEMPTION_S, "spot preemption")
    return _one_of(text, {"TRUE": [event], "FALSE": []})


def maintenance(text: str, now: float) -> list[Event]:
    """`NONE`, `TERMINATE_ON_HOST_MAINTENANCE` or `MIGRATE_ON_HOST_MAINTENANCE` (a pause; advice)."""
    end = Event("terminate", now + GCP_TERMINATION_S, "host maintenance: terminate")
    move = Event("migrate", None, "host maintenance: live migration")
    return _one_of(
        text, {"NONE": [], "TERMINATE_ON_HOST_MAINTENANCE": [end], "MIGRATE_ON_HOST_MAINTENANCE": [move]}
    )


def scheduled(text: str, now: float, *, machine: str) -> list[Event]:
    """`{"DocumentIncarnation": 1, "Events": [{"EventId", "EventType", "Resources": [names], "EventStatus", "NotBefore"}]}`.

    NotBefore is an RFC 1123 date, empty once an event has started: the deadline is now. Freeze, and kinds that
    are new to us, are advice.
    """
    tree = json.loads(text)
    if not isinstance(tree, dict) or not isinstance(tree.get("Events"), list):
        raise ValueError("no list of Events")
    name = machine.casefold()
    mine = [item for item in tree["Events"] if name in [text.casefold() for text in item["Resources"]]]
    return [_azure_event(item, now) for item in mine]


def _azure_event(item: dict[str, Any], now: float) -> Event:
    number, kind, before = _texts(item, "EventId", "EventType", "NotBefore")
    deadline = parsedate_to_datetime(before).timestamp() if before else now
    return Event(number, deadline if kind in AZURE_LOSES else None, f"scheduled event: {kind}")


def _texts(tree: Any, *names: str) -> list[str]:
    if not isinstance(tree, dict) or not all(isinstance(tree.get(name), str) for name in names):
        raise ValueError(f"no {' and '.join(names)}")
    return [tree[name] for name in names]


def _instant(text: str) -> float:
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _one_of(text: str, meanings: dict[str, list[Event]]) -> list[Event]:
    if text.strip() not in meanings:
        raise ValueError(f"neither of {', '.join(meanings)}")
    return meanings[text.strip()]
