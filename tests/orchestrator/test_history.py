"""The committed history: one line a step, whatever attempts it took."""

from __future__ import annotations

from pathlib import Path

from orchestrator import history
from orchestrator.digests import combine, slot_digest
from tests.scripted_run import ScriptedRun, killed_once, loss


def test_every_step_stands_once_and_from_the_attempt_that_counts(tmp_path: Path) -> None:
    book = killed_once(tmp_path).book()
    assert [line.step for line in book.history] == list(range(1, 121))
    first, second = (entry.n for entry in book.entries if entry.kind == "attempt started")
    assert {line.attempt for line in book.history if line.step <= 40} == {first}
    assert {line.attempt for line in book.history if line.step > 40} == {second}


def test_a_line_says_loss_world_and_the_digest_of_all_ranks_ids(tmp_path: Path) -> None:
    import numpy as np

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
    one = run.begin()
    run.steps(one, 1, 20)
    first = run.save(one, 20)
    run.steps(one, 21, 40)
    second = run.save(one, 40)
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
