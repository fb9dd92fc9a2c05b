"""The curves, read by TensorBoard's own reader: each point once, and as the committed history has it."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from orchestrator.accounts.curves import export
from orchestrator.accounts.status import Book
from orchestrator.checkpoints.manifest import folder
from orchestrator.run_store import Run
from orchestrator.tensorboard import Point, event_file
from tests.direct import Direct
from tests.runs import make_small, wait_for
from tests.scripted_run import ScriptedRun, killed_once

accumulators = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)


def scalars(folder: Path | str) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by tag, as TensorBoard reads the event files of a folder."""
    read = accumulators.EventAccumulator(
        str(folder), size_guidance={accumulators.SCALARS: 0}, purge_orphaned_data=True
    )
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def single(value: float) -> float:
    """As an event file keeps it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def check(found: dict[str, list[tuple[int, float]]], book: Book) -> None:
    """Every step of the history once, with the history's numbers."""
    history = [line.facts for line in book.history]
    for tag, key in (
        ("train/loss", "loss"),
        ("train/learning_rate", "lr"),
        ("train/gradient_norm", "norm"),
        ("time/data_wait_s", "wait"),
        ("run/world_size", "world_size"),
    ):
        assert found[tag] == [(facts["step"], single(facts[key])) for facts in history], tag
    for tag, value in (("time/step_s", 1.0), ("run/images_per_s", book.frozen.spec.train.global_batch)):
        assert [step for step, _ in found[tag]] == [facts["step"] for facts in history]
        seconds = history[-1]["t"] - history[-1]["start"]
        expected = seconds if tag.startswith("time") else value / seconds
        assert found[tag][-1][1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.timeout(150)
def test_after_a_kill_and_a_resume_the_live_curves_are_the_history(tmp_path: Path, digits: str) -> None:
    """A worker is killed after steps that were shown and are done again at another size."""
    small = make_small(tmp_path, digits)
    run = Direct.begin(small, "run", "train.steps=30", "checkpoint.every=8 steps", "evaluate.every=10 steps")

    run.attempt(2, dying_main)
    before = scalars(f"{run.run.url}/tensorboard")
    assert before["train/loss"][-1][0] > run.saved()[-1] == 8
    assert before["evaluation/accuracy"][-1][0] == 10
    run.attempt(1)
    book = run.book()
    assert len(book.history) == 30
    found = scalars(f"{run.run.url}/tensorboard")
    check(found, book)
    assert {value for step, value in found["run/world_size"] if step <= 8} == {2.0}
    assert {value for step, value in found["run/world_size"] if step > 8} == {1.0}
    evaluated = {e["step"]: e for e in book.events if e["kind"] == "evaluated" and e["attempt"] > 1}
    assert [step for step, _ in found["evaluation/loss"]] == [10, 20, 30]
    assert found["evaluation/accuracy"] == [(s, single(evaluated[s]["accuracy"])) for s in (10, 20, 30)]
    steps = [step for step, _ in found["loader/bytes"]]
    assert steps == sorted(steps)
    path = export(book, tmp_path / "curves")
    exported = scalars(path.parent)
    check(exported, book)
    assert exported["evaluation/accuracy"] == found["evaluation/accuracy"]
    assert export(book, tmp_path / "curves") == path
    check(scalars(path.parent), book)


def dying_main(config: dict[str, Any]) -> str:
    """The product's worker; rank 1 dies when it has done 12 steps and the save of the 8th is whole."""
    from orchestrator.training import loop, worker

    one_step = loop.one_step

    def dying(task: loop.Task) -> tuple[bool, bool]:
        if task.step == 12:
            task.events.flush()
            if task.engine.place.rank == 1:
                wait_for(
                    lambda: Run(config["run"]).store.head(f"{folder(8, config['attempt'])}/manifest.json")
                )
                os._exit(9)
        return one_step(task)

    vars(loop)["one_step"] = dying
    return worker.main(config)


def test_an_export_holds_the_committed_steps_only(tmp_path: Path) -> None:
    run = killed_once(tmp_path)
    second = [entry.n for entry in run.log.entries if entry.kind == "attempt started"][1]
    run.note(second, "loader", bytes=5e6, gets=4)
    run.note(second, "step", step=121, loss=9.0, start=0.0, slots={})
    found = scalars(export(run.book(), tmp_path / "curves").parent)
    check(found, run.book())
    assert [step for step, _ in found["evaluation/accuracy"]] == [20, 40, 60, 120]
    assert found["loader/bytes"] == [(120, 5e6)]


def test_a_run_without_a_step_exports_no_point(tmp_path: Path) -> None:
    assert scalars(export(ScriptedRun(tmp_path).book(), tmp_path / "curves").parent) == {}


def test_a_restart_undoes_the_steps_from_there_on(tmp_path: Path) -> None:
    for name, steps, restart in (("a", range(1, 6), 1), ("b", range(4, 7), 4)):
        points = [Point("x", step, step + (0.5 if name == "b" else 0), 1e9 + step) for step in steps]
        file = event_file(points, restart=restart, time=1e9)
        (tmp_path / f"events.out.tfevents.{name}").write_bytes(file)
    assert scalars(tmp_path)["x"] == [(1, 1), (2, 2), (3, 3), (4, 4.5), (5, 5.5), (6, 6.5)]
