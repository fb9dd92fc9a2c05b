"""A rank's notes: what meters say goes with each part, and curves that cannot be shown cost nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.storage import Store, StoreError, open_store
from orchestrator.training.board import Board
from orchestrator.training.events import Events, read_events

FIRST = "tensorboard/events.out.tfevents.0000000003.000000"


class Refusing:
    """A store that refuses keys that begin with `prefix`, while it has one."""

    def __init__(self, store: Store) -> None:
        self._store, self.prefix = store, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes) -> None:
        if self.prefix and key.startswith(self.prefix):
            raise StoreError(f"{key}: refused")
        self._store.put(key, data)


@pytest.fixture
def store(tmp_path: Path) -> Refusing:
    return Refusing(open_store(str(tmp_path)))


def make(store: Any) -> Events:
    return Events(store, 3, 1)


def keys(store: Any, prefix: str) -> list[str]:
    return [info.key for info in store.list(prefix)]


def noted(store: Any, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(store) if event["kind"] == kind]


def test_each_part_ends_with_what_the_meters_say_where_that_has_changed(store: Refusing) -> None:
    events, said = make(store), {"bytes": 0, "queue": 2}
    events.meter("loader", lambda: said)
    events.flush()
    events.flush()
    said["bytes"] = 7
    events.note("step", step=1)
    events.flush()
    events.close()
    assert [(e["bytes"], e["queue"]) for e in noted(store, "loader")] == [(0, 2), (7, 2)]
    assert len(keys(store, "events/")) == 2


def test_a_settled_meter_is_not_read_again(store: Refusing) -> None:
    events, said = make(store), {"bytes": 1}
    events.meter("loader", lambda: said)
    events.settle()
    said.clear()
    events.settle()
    events.close()
    assert [e["bytes"] for e in noted(store, "loader")] == [1]


def test_a_meter_that_cannot_be_read_costs_no_notes(store: Refusing) -> None:
    events = make(store)
    events.meter("loader", lambda: {}["bytes"])
    events.note("step", step=1)
    events.close()
    assert len(noted(store, "step")) == 1
    assert noted(store, "meter failed")[0]["error"] == "KeyError: 'bytes'"


def test_parts_that_could_not_be_written_come_with_the_next(store: Refusing) -> None:
    events = make(store)
    store.prefix = "events/"
    events.meter("loader", lambda: {"bytes": 1})
    events.note("step", step=1)
    with pytest.raises(StoreError):
        events.flush()
    store.prefix = ""
    events.close()
    assert [e["kind"] for e in read_events(store)] == ["step", "loader"]  # type: ignore[arg-type]


def test_curves_that_cannot_be_written_fail_nothing_and_come_later(store: Refusing) -> None:
    events = make(store)
    events.board = Board(store, 3, batch=8, step=0)  # type: ignore[arg-type]
    store.prefix = "tensorboard/"
    events.note("step", step=1, start=0.0, loss=1.0)
    events.flush()
    assert keys(store, "tensorboard/") == []
    store.prefix = ""
    events.close()
    assert keys(store, "tensorboard/") == [FIRST[:-1] + "1"]
    assert "refused" in noted(store, "board failed")[0]["error"]


def test_a_long_attempt_shows_its_curves_less_often_but_all_at_its_end(store: Refusing) -> None:
    events = make(store)
    board = Board(store, 3, batch=8, step=0)  # type: ignore[arg-type]
    events.board = board
    for step in (1, 2, 3):
        events.note("step", step=step, start=0.0, loss=1.0)
        events.flush()
        board._began -= 10_000
    assert keys(store, "tensorboard/") == [FIRST]
    events.close()
    assert keys(store, "tensorboard/") == [FIRST, FIRST[:-1] + "2"]


def test_what_an_attempt_did_not_live_to_show_is_shown_by_the_next(store: Refusing) -> None:
    """Attempt 3 notes four steps, shows the first and is killed; attempt 5 goes on after the third."""
    events = Events(store, 3, 0)  # type: ignore[arg-type]
    board = Board(store, 3, batch=8, step=0)  # type: ignore[arg-type]
    events.board = board
    for step in (1, 2, 3, 4):
        events.note("step", step=step, start=0.0, loss=1.0)
        events.flush()
        board._began -= 10_000
    later = Board(store, 5, batch=8, step=3)  # type: ignore[arg-type]
    assert {point.step for point in later._unshown()} == {2, 3}
    later.take(0, [json.dumps({"t": 1.0, "kind": "step", "step": 4, "start": 0.0, "loss": 1.0})])
    later.write()
    assert Board(store, 7, batch=8, step=4)._unshown() == []  # type: ignore[arg-type]
