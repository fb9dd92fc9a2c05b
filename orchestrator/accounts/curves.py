"""The curves of a run's committed history, as one event file for TensorBoard: each step once, whatever attempts it took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.accounts.status import Book
from orchestrator.run_log import Entry
from orchestrator.tensorboard import FILE, Curves, Point, event_file


def export(book: Book, folder: Path) -> Path:
    """Write the curves of the committed history as one event file in `folder`, over one that lies there; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{FILE}.0000000000.{book.run.name}"
    path.write_bytes(event_file(committed(book)))
    return path


def committed(book: Book) -> list[Point]:
    """The points of the committed history, each once, by step."""
    newest = book.history[-1].step if book.history else 0
    started = [entry for entry in book.entries if entry.kind == "attempt started"]
    found: dict[tuple[str, int], Point] = {}
    for number, entry in enumerate(started):
        kept = min([newest, *(int(later.facts["step"]) for later in started[number + 1 :])])
        for point in _of_attempt(book, entry):
            if point.step <= kept:
                found[point.tag, point.step] = point
    return sorted(found.values(), key=lambda point: (point.step, point.tag))


def _of_attempt(book: Book, began: Entry) -> Iterator[Point]:
    curves = Curves(book.frozen.spec.train.global_batch, int(began.facts["step"]))
    for event in book.events:
        if event["attempt"] == began.n and event["rank"] == 0:
            yield from curves.points(event)
