"""A led run's figures, kept by reading each part of its events once, are those of its whole ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.accounts import ledger
from orchestrator.accounts.metrics import Metrics
from orchestrator.accounts.totals import Totals
from orchestrator.training.events import read_events
from tests.scripted_run import START, ScriptedRun


class Watched(ScriptedRun):
    """A scripted run that is looked at while it goes on. Its notes are flushed in parts, as a worker's are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.totals, self.part, self.read = Totals(self.run.store), 0, 0

    def flush(self) -> None:
        for (attempt, rank), lines in self._notes.items():
            if lines:
                body = ("\n".join(lines) + "\n").encode()
                self.run.store.put(f"events/{attempt:010d}-{rank:05d}-{self.part:06d}.jsonl", body)
        self._notes.clear()
        self.part += 1

    def look(self) -> dict[str, float]:
        """What the totals say now, which is what the whole ledger says."""
        self.flush()
        now = START + self.now
        found = self.totals.seconds(self.log.entries, now)
        whole = ledger.build(self.log.entries, read_events(self.run.store), now)
        assert found == pytest.approx(whole.seconds, abs=1e-3)
        assert sum(found.values()) == pytest.approx(whole.wall_s, abs=1e-3)
        return found


def test_the_figures_are_those_of_the_whole_ledger_at_every_look(tmp_path: Path) -> None:
    run = Watched(tmp_path)
    run.look()
    one = run.begin()
    run.look()
    run.steps(one, 1, 13, fresh=True)
    run.look()
    run.steps(one, 14, 20)
    first = run.save(one, 20)
    run.look()
    run.steps(one, 21, 30)
    run.evaluate(one, 30, 0.8)
    run.look()
    run.steps(one, 31, 40)
    second = run.save(one, 40, delete=first)
    run.look()
    run.steps(one, 41, 53)
    run.end(one, "died", 53, "rank 1 died", after=0.8)
    assert run.look()["lost work"] > 6
    run.now += 0.3
    two = run.begin(step=40, path=second)
    run.steps(two, 41, 60, fresh=True)
    run.look()
    third = run.save(two, 60)
    run.look()
    run.note(two, "left", outcome="stopped", step=60)
    run.end(two, "stopped", 60, "preempted: node abc: spot", after=0.5)
    run.look()
    three = run.begin(world=1, step=60, path=third)
    run.steps(three, 61, 80, world=1)
    run.save(three, 80)
    run.add("waiting", after=1, why="room for 0 workers")
    run.now += 100
    run.look()


def test_a_damaged_checkpoint_undoes_what_was_settled(tmp_path: Path) -> None:
    run = Watched(tmp_path)
    one, first, second = run.saved_twice()
    assert run.look()["lost work"] == 0
    run.end(one, "died", 40, "rank 1 died")
    two = run.begin(step=40, path=second)
    run.end(two, "damaged", 40, "fails its CRC32C")
    run.add("checkpoint damaged", path=second, why="fails its CRC32C")
    three = run.begin(step=20, path=first)
    run.steps(three, 21, 60)
    assert run.look()["lost work"] > 10


def test_each_part_is_read_once_and_what_is_settled_is_forgotten(tmp_path: Path) -> None:
    run = Watched(tmp_path)
    one, path = run.begin(), None
    read, get = list[str](), run.run.store.get
    run.run.store.get = lambda key, *rest: (read.append(key), get(key, *rest))[1]  # type: ignore[method-assign]
    for step in range(0, 400, 20):
        run.steps(one, step + 1, step + 20)
        path = run.save(one, step + 20, delete=path)
        run.flush()
        run.totals.seconds(run.log.entries, START + run.now)
    parts = [key for key in read if key.startswith("events/")]
    assert len(parts) == len(set(parts)) == 20
    assert len(run.totals._events) < 60


def test_the_gauges(tmp_path: Path) -> None:
    run = Watched(tmp_path)
    shown: dict[tuple[str, str], float] = {}

    def panel(name: str, text: str, value: float, labels: dict[str, str]) -> None:
        assert text
        assert labels["run"] == "digits-abc123"
        shown[name, labels.get("name", "")] = value

    metrics = Metrics("digits-abc123", run.run.store, panel)
    one = run.begin()
    metrics.show(run.log.entries, {})
    assert ("mixer_step", "") not in shown, "nothing is known of it yet"
    run.steps(one, 1, 20)
    run.end(one, "lost", 20, "1 node(s) gone")
    run.flush()
    metrics.show(run.log.entries, {"step": 20, "loss": 1.5, "world_size": 2, "exit": "stopped"})
    plain = {name: value for (name, part), value in shown.items() if not part}
    assert plain.pop("mixer_goodput") == 0.0, "no checkpoint holds these steps"
    assert plain == {
        "mixer_step": 20,
        "mixer_loss": 1.5,
        "mixer_world_size": 2,
        "mixer_attempts": 1,
        "mixer_losses": 1,
    }
    assert {part for _, part in shown if part} == set(ledger.NAMES)


def test_the_gauges_of_the_loader_are_those_it_said_last(tmp_path: Path) -> None:
    run = Watched(tmp_path)
    shown: dict[str, float] = {}

    def panel(name: str, text: str, value: float, labels: dict[str, str]) -> None:
        if name == "mixer_loader":
            shown[labels["name"]] = value

    metrics = Metrics("digits-abc123", run.run.store, panel)
    one = run.begin()
    for step in (1, 2):
        run.steps(one, step, step)
        run.note(one, "loader", bytes=1e6 * step, queue=3 - step)
        run.note(one, "loader", rank=1, bytes=9e9, queue=9)
        run.flush()
    metrics.show(run.log.entries, {})
    assert shown == {"bytes": 2e6, "queue": 1}
    run.flush()
    metrics.show(run.log.entries, {})
    assert shown == {"bytes": 2e6, "queue": 1}
