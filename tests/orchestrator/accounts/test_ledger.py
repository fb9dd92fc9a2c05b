"""Every second has a name: the names add up, and a fault's recovery is split into its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.accounts import ledger
from orchestrator.accounts.timeline import Stroke, flatten
from tests.scripted_run import START, ScriptedRun, killed_once


def adds_up(book: ledger.Ledger) -> bool:
    """Whether names add up to the wall time and spans follow one another without gaps."""
    ends = [book.start, *(span.end for span in book.spans)]
    starts = [*(span.start for span in book.spans), book.end]
    return sum(book.seconds.values()) == pytest.approx(book.wall_s, abs=1e-4) and ends == starts


def test_flatten_keeps_the_top_and_leaves_no_gap() -> None:
    line = flatten(
        [
            Stroke(0, 10, "a"),
            Stroke(2, 12, "b", layer=2),
            Stroke(4, 5, "c", layer=1),
            Stroke(3, 4, "d", layer=2),
        ],
        0,
        10,
    )
    assert [(s.start, s.end, s.name) for s in line] == [(0, 2, "a"), (2, 3, "b"), (3, 4, "d"), (4, 10, "b")]


def test_nothing_written_is_no_time() -> None:
    assert ledger.build([], [], 5.0).seconds == dict.fromkeys(ledger.NAMES, 0.0)


def test_a_run_without_attempts_is_starting_up(tmp_path: Path) -> None:
    book = ledger.build(ScriptedRun(tmp_path).book().entries, [], START + 7)
    assert book.seconds["startup"] == pytest.approx(7)


def test_names_of_a_killed_run_add_up_to_its_wall_time(tmp_path: Path) -> None:
    book = killed_once(tmp_path).book().ledger
    assert adds_up(book)
    seconds = book.seconds
    assert seconds["lost work"] == pytest.approx(13 * 0.5, abs=1e-4)
    assert seconds["data wait"] == pytest.approx(119 * 0.1, abs=1e-3)
    assert seconds["compile"] == pytest.approx(4, abs=1e-4)
    assert seconds["save"] == pytest.approx(0.8 + 0.4, abs=1e-4)  # four stalls, and the last upload's end
    assert seconds["evaluation"] == pytest.approx(4 * 0.3, abs=1e-4)
    assert seconds["nobody"] == seconds["waiting"] == 0


def test_recovery_is_split_from_the_last_sign_of_life_to_the_first_new_micro_batch(tmp_path: Path) -> None:
    book = killed_once(tmp_path).book().ledger
    (parts,) = book.recoveries()
    expected = {
        "detect": 0.8, "decide": 0.3, "place": 1.5, "import": 3.0, "engine": 1.0, "load": 0.5, "data": 0.25,
        "first batch": 0.1, "compile": 4.0,
    }  # fmt: skip
    assert parts == pytest.approx(expected, abs=1e-4)
    assert sum(parts.values()) == pytest.approx(book.seconds["recovery"])


def test_a_dead_driver_is_nobody_then_a_recovery_of_its_own(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.steps(one, 1, 20, fresh=True)
    path = run.save(one, 20)
    run.steps(one, 21, 30)
    run.log.writer = "other/2/bb"
    run.add("taken over", after=60.0, why="resumed")
    two = run.begin(step=20, path=path)
    run.steps(two, 21, 40, fresh=True)
    run.end(two, "died", 40, "rank 0 died", after=1.0)
    three = run.begin(step=20, path=path)
    run.steps(three, 21, 25, fresh=True)
    book = run.book()
    line = ledger.build(book.entries, book.events, START + run.now)
    assert adds_up(line)
    assert line.seconds["nobody"] == pytest.approx(60, abs=1e-3)
    assert list(line.faults()) == [one, two]
    assert "detect" not in line.faults()[one]
    assert line.faults()[two]["detect"] == pytest.approx(1.0, abs=1e-4)
    assert line.seconds["lost work"] == pytest.approx(10 * 0.5 + 19 * 0.5, abs=1e-3)


def test_steps_that_an_older_checkpoint_undoes_are_lost_in_every_attempt(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one, first, second = run.saved_twice()
    run.end(one, "died", 40, "rank 1 died")
    two = run.begin(step=40, path=second)
    run.end(two, "damaged", 40, "fails its CRC32C")
    run.add("checkpoint damaged", path=second, why="fails its CRC32C")
    three = run.begin(step=20, path=first)
    run.steps(three, 21, 60)
    book = run.book()
    line = ledger.build(book.entries, book.events, START + run.now)
    assert adds_up(line)
    assert line.seconds["lost work"] == pytest.approx(20 * 0.5 + 0.2, abs=0.01)  # and the save of step 40


def test_lost_steps_are_known_by_the_peers_when_rank_0_died_with_its_notes(tmp_path: Path) -> None:
    run = killed_once(tmp_path)
    book = run.book()
    dead = book.entries[2].n
    heard = [
        event
        for event in book.events
        if (event["attempt"], event["rank"]) != (dead, 0) or event["t"] < START + 31
    ]
    line = ledger.build(book.entries, heard, START + run.now)
    assert adds_up(line)
    assert line.seconds["lost work"] == pytest.approx(13 * 0.5, abs=0.6)
    assert line.recoveries()[0]["detect"] == pytest.approx(0.8, abs=1e-4)


def test_waiting_for_machines_is_not_recovery(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.steps(one, 1, 5)
    run.end(one, "lost", 5, "1 node(s) gone", after=2)
    run.add("waiting", after=1, why="room for 0 workers")
    run.now += 100
    two = run.begin()
    run.steps(two, 1, 5)
    book = run.book()
    line = ledger.build(book.entries, book.events, START + run.now)
    assert adds_up(line)
    assert line.seconds["waiting"] == pytest.approx(100, abs=1e-3)
    assert line.recoveries()[0]["decide"] == pytest.approx(1, abs=1e-4)


def test_a_stop_and_a_resume_are_shutdown_nobody_and_startup(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.steps(one, 1, 5)
    path = run.save(one, 5)
    run.note(one, "left", outcome="stopped", step=5)
    run.end(one, "stopped", 5, "mixer stop", after=1)
    run.add("stopped", why="mixer stop")
    run.log.writer = "other/2/bb"
    run.add("taken over", after=50, why="resumed")
    two = run.begin(step=5, path=path)
    run.steps(two, 6, 10)
    book = run.book()
    line = ledger.build(book.entries, book.events, START + run.now)
    assert adds_up(line)
    assert line.recoveries() == []
    assert line.seconds["shutdown"] == pytest.approx(1, abs=1e-4)
    assert line.seconds["nobody"] == pytest.approx(50, abs=1e-3)
    assert line.seconds["startup"] == pytest.approx(6.25 + 6.75, abs=1e-3)


def test_an_abandoned_run_is_nobodys_since_its_last_sign_of_life(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.steps(one, 1, 5)
    book = run.book()
    line = ledger.build(book.entries, book.events, START + run.now + 500, abandoned=True)
    assert adds_up(line)
    assert line.seconds["nobody"] == pytest.approx(500, abs=1e-3)


def test_a_preemption_is_a_recovery_in_which_nothing_was_lost(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.steps(one, 1, 20)
    run.add("notice", node="abc", deadline=START + 1000, cause="spot", source="aws")
    run.steps(one, 21, 25)
    path = run.save(one, 25)
    run.note(one, "left", outcome="stopped", step=25)
    run.end(one, "stopped", 25, "preempted: node abc: spot", after=0.4)
    run.now += 0.2
    two = run.begin(world=1, step=25, path=path, place=1.5)
    run.steps(two, 26, 40, world=1, fresh=True)
    book = run.book()
    line = ledger.build(book.entries, book.events, START + run.now)
    assert adds_up(line)
    assert line.seconds["lost work"] == 0
    assert list(line.faults()) == [one]
    (parts,) = line.recoveries()
    assert parts["detect"] == pytest.approx(0.4, abs=1e-4)
    assert parts["decide"] == pytest.approx(0.2, abs=1e-4)
    assert parts["place"] == pytest.approx(1.5, abs=1e-4)
    assert line.seconds["shutdown"] == 0


@pytest.mark.parametrize("outcome", ["diverged", "hung", "lost"])
def test_what_a_batch_or_a_hang_undid_is_lost_work(tmp_path: Path, outcome: str) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.steps(one, 1, 20)
    path = run.save(one, 20)
    run.steps(one, 21, 25)
    run.note(one, "error", error="Diverged: step 26, batch 25: the loss is nan")
    if outcome == "diverged":
        run.add("batch left out", batch=25, step=25, why="nan", after=1)
    run.end(one, outcome, 25, "step 26, batch 25: the loss is nan", after=1)
    two = run.begin(step=20, path=path)
    run.steps(two, 21, 40)
    book = run.book()
    line = ledger.build(book.entries, book.events, START + run.now)
    assert adds_up(line)
    assert line.seconds["lost work"] == pytest.approx(5 * 0.5, abs=1e-3)
    assert list(line.faults()) == [one]


def test_the_attempts_and_the_start_of_the_driver_share_out_the_wall_time(tmp_path: Path) -> None:
    book = killed_once(tmp_path).book()
    listed = book.waterfall
    assert [item["outcome"] for item in listed] == ["died", "finished"]
    assert [(item["from_step"], item["to_step"]) for item in listed] == [(0, 53), (40, 120)]
    for item in listed:
        assert sum(item["ledger"].values()) == pytest.approx(item["wall_s"], abs=1e-4)
    assert sum(item["wall_s"] for item in listed) + 0.5 == pytest.approx(book.ledger.wall_s, abs=1e-4)
    assert listed[0]["ledger"]["lost work"] == pytest.approx(13 * 0.5, abs=1e-4)
    assert "lost work" not in listed[1]["ledger"]
    assert book.status()["attempts"] == listed
