"""A run's curves for TensorBoard. The only user of tensorboardX.

events of rank 0, in order -> Curves -> points (tag, step, value, time) -> event_file -> the bytes of one event file

Rank 0 writes such files while it works (training/board.py): they may show a step that a later attempt does again, and each attempt begins
with a restart record, at which TensorBoard forgets the steps from there on. curves.py makes one file of the committed history alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

VERSION = "brain.Event:2"  # of event files: restart records are honoured from this one on
FILE = "events.out.tfevents"
_OF_STEP = {"loss": "train/loss", "lr": "train/learning_rate", "norm": "train/gradient_norm"}
_OF_RUN = {"wait": "time/data_wait_s", "world_size": "run/world_size"}
_OF_EVALUATION = {"accuracy": "evaluation/accuracy", "top5": "evaluation/top5", "loss": "evaluation/loss"}


class Point(NamedTuple):
    """One value of a curve; `time` in Unix seconds."""

    tag: str
    step: int
    value: float
    time: float


class Curves:
    """The events of rank 0 of one attempt, which begins after `step` steps of `batch` images, as points."""

    def __init__(self, batch: int, step: int) -> None:
        self._batch, self._step = batch, step

    def points(self, event: dict[str, Any]) -> Iterator[Point]:
        """What an event adds. Events come in order: those of the loader count for the step before them."""
        match event["kind"]:
            case "step" if "loss" in event:
                self._step = int(event["step"])
                yield from self._of(event, {**_OF_STEP, **_OF_RUN})
                if (seconds := event["t"] - event["start"]) > 0:
                    yield Point("time/step_s", self._step, seconds, event["t"])
                    yield Point("run/images_per_s", self._step, self._batch / seconds, event["t"])
            case "evaluated":
                yield from self._of(event, _OF_EVALUATION, int(event["step"]))
            case "loader":
                yield from self._of(event, {key: f"loader/{key}" for key in event if key not in _NOT_LOADER})

    def _of(self, event: dict[str, Any], tags: dict[str, str], step: int | None = None) -> Iterator[Point]:
        at = self._step if step is None else step
        for key, tag in tags.items():
            if isinstance(event.get(key), int | float):
                yield Point(tag, at, float(event[key]), event["t"])


_NOT_LOADER = ("t", "kind", "attempt", "rank")


def event_file(points: Iterable[Point], *, restart: int | None = None, time: float = 0.0) -> bytes:
    """An event file, as bytes. With `restart`, TensorBoard forgets what it read of this and later steps in files before this one."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    listed = list(points)
    events = [Event(wall_time=time or (listed[0].time if listed else 0.0), file_version=VERSION)]
    if restart is not None:
        log = SessionLog(status=SessionLog.START)
        events.append(Event(wall_time=events[0].wall_time, step=restart, session_log=log))
    for point in listed:
        value = Summary.Value(tag=point.tag, simple_value=point.value)
        events.append(Event(wall_time=point.time, step=point.step, summary=Summary(value=[value])))
    with tempfile.TemporaryDirectory(prefix="mixer-curves-") as folder:
        writer = RecordWriter(f"{folder}/events")
        for event in events:
            writer.write(event.SerializeToString())
        writer.close()
        return Path(f"{folder}/events").read_bytes()
