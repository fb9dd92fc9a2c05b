"""The committed history: one line a step, whatever attempts it took."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer

from orchestrator.accounts import history
from orchestrator.commands import runs
from orchestrator.digests import combine, slot_digest
from tests.scripted_run import ScriptedRun, killed_once, loss


def test_every_step_stands_once_and_from_the_attempt_that_counts(tmp_path: Path) -> None:
    book = killed_once(tmp_path).book()
    assert [line.step for line in book.history] == list(range(1, 121))
    first, second = (entry.n for entry in book.entries if entry.kind == "attempt started")
    assert {line.attempt for line in book.history if line.step <= 40} == {first}
    assert {line.attempt for line in book.history if line.step > 40} == {second}


def test_a_line_says_loss_world_and_the_digest_of_all_ranks_ids(tmp_path: Path) -> None:
    line = killed_once(tmp_path).book().history[6].as_json()
    assert (line["step"], line["loss"], line["world_size"]) == (7, loss(7), 2)
    assert line["id_digest"] == combine(slot_digest(np.arange(3) + 70 + slot) for slot in range(4))


def test_steps_after_the_newest_checkpoint_are_not_committed_yet(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.steps(one, 1, 20)
    run.save(one, 20)
    run.steps(one, 21, 33)
    book = run.book()
    assert book.history[-1].step == 20
    assert history.lineage(book.entries, book.events)[-1].step == 33


def test_a_damaged_checkpoint_commits_nothing(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one, first, second = run.saved_twice()
    run.end(one, "damaged", 40, "CRC32C")
    run.add("checkpoint damaged", path=second, why="CRC32C")
    two = run.begin(step=20, path=first)
    run.steps(two, 21, 30)
    assert run.book().history[-1].step == 20


def test_the_chain_of_digests_does_not_depend_on_faults(tmp_path: Path) -> None:
    whole = ScriptedRun(tmp_path, name="whole")
    one = whole.begin(world=1)
    whole.steps(one, 1, 120, world=1)
    whole.save(one, 120)
    assert history.chain(whole.book().history) == history.chain(killed_once(tmp_path).book().history)


def test_a_step_without_a_batch_is_of_a_run_that_left_none_out(tmp_path: Path) -> None:
    lines = killed_once(tmp_path).book().history
    assert [line.batch for line in lines] == [line.as_json()["batch"] for line in lines] == list(range(120))
    assert history.left_out(lines) == []


def test_batches_that_no_step_trained_on_are_left_out() -> None:
    trained = [0, 1, 4, 5, 9]
    lines = [
        history.StepLine(step, attempt=1, facts={"batch": batch}) for step, batch in enumerate(trained, 1)
    ]
    assert history.left_out(lines) == [2, 3, 6, 7, 8]
    assert [line.as_json()["batch"] for line in lines] == trained
    assert history.left_out([]) == []


def trained(batches: list[int]) -> list[history.StepLine]:
    """Lines of steps that trained on these batches, whose ids are their items'."""
    return [
        history.StepLine(
            step,
            attempt=1,
            slots={slot: slot_digest(np.arange(5) + 10 * batch + 5 * slot) for slot in range(2)},
            facts={"batch": batch},
        )
        for step, batch in enumerate(batches, 1)
    ]


def test_an_epoch_is_shown_when_all_its_items_are_passed() -> None:
    """25 samples, 10 items a step: epoch 0 ends inside step 3, epoch 1 with step 5."""
    lines = trained(list(range(6)))
    assert [history.epochs(lines[:n], 10, 25) for n in (0, 1, 2)] == [[], [], []]
    first = {"epoch": 0, "steps": 3, "id_digest": combine(line.id_digest for line in lines[:3])}
    assert history.epochs(lines[:3], 10, 25) == history.epochs(lines[:4], 10, 25) == [first]
    second = {"epoch": 1, "steps": 2, "id_digest": combine(line.id_digest for line in lines[3:5])}
    assert history.epochs(lines[:5], 10, 25) == history.epochs(lines, 10, 25) == [first, second]


def test_a_step_may_hold_several_epochs() -> None:
    lines = trained([0, 1])
    assert [each["epoch"] for each in history.epochs(lines, 10, 4)] == [0, 2]


def test_epochs_of_runs_that_left_another_batch_out_differ_there_only() -> None:
    whole, holed = (
        history.epochs(trained(batches), 10, 20) for batches in ([0, 1, 2, 3, 4, 5], [0, 1, 3, 4, 5])
    )
    assert [each["steps"] for each in holed] == [2, 1, 2]
    assert [a["id_digest"] == b["id_digest"] for a, b in zip(whole, holed, strict=True)] == [
        True,
        False,
        True,
    ]


def test_a_steps_batch_is_what_it_trained_on_or_will() -> None:
    lines = trained([0, 1, 3])
    assert [history.batch_of(step, lines, {1, 2, 5}) for step in range(1, 7)] == [0, 1, 3, 4, 6, 7]
    assert [history.batch_of(step, [], {0, 2}) for step in (1, 2, 3)] == [1, 3, 4]


def test_two_runs_are_compared_by_the_steps_that_both_have() -> None:
    one, holed = trained([0, 1, 2, 3]), trained([0, 1, 3, 4, 5])
    assert history.compare(one, one[:2]) == {"steps_compared": 2, "alike": True, "first_difference": None}
    assert history.compare(one, holed) == {"steps_compared": 4, "alike": False, "first_difference": 3}
    assert history.compare(one, []) == {"steps_compared": 0, "alike": True, "first_difference": None}


def test_a_steps_batch_is_known_before_rank_0_has_noted_it(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.note(one, "step", rank=1, step=1, batch=4, slots={"1": "ab"})
    book = run.book()
    (line,) = history.lineage(book.entries, book.events)
    assert (line.batch, line.as_json()["loss"]) == (4, None)


def test_the_command_compares_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, end in (("a", 120), ("b", 100)):
        run = ScriptedRun(tmp_path, name=name)
        one = run.begin(world=1)
        run.steps(one, 1, end, world=1)
        run.save(one, end)
        run.book()
    with pytest.raises(typer.Exit) as done:
        runs.status("a", str(tmp_path), "b", True)
    assert done.value.exit_code == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["steps_compared"], facts["first_difference"], facts["epochs_differing"]) == (100, None, [])
    assert facts["epochs_alike"] == list(range(100 * 128 // 1437))
    run.note(one, "step", step=30, slots={"0": "ffff"}, loss=1.0)
    run.book()
    with pytest.raises(typer.Exit) as done:
        runs.status("a", str(tmp_path), "b", True)
    assert done.value.exit_code == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["alike"], facts["first_difference"]) == (False, 30)
    assert facts["epochs_differing"] == [29 * 128 // 1437]
