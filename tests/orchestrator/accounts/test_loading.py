"""What the loaders did, in `mixer status` and the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.accounts import loading
from orchestrator.pages.report import render
from orchestrator.tables import status_table
from tests.direct import Direct
from tests.runs import make_small
from tests.scripted_run import ScriptedRun, killed_once


def shown(run: ScriptedRun) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(status_table(run.book().status()))
        return console.export_text()


def test_figures_are_of_the_newest_attempt_summed_over_its_ranks(tmp_path: Path) -> None:
    run = killed_once(tmp_path)
    first, second = (entry.n for entry in run.log.entries if entry.kind == "attempt started")
    run.note(first, "loader", bytes=9e9, gets=1)
    for rank, (mb, queue) in enumerate([(3, 2), (5, 0)]):
        run.note(second, "loader", rank=rank, bytes=1e6, gets=1, queue=9, queue_limit=2, wait_s=0.25)
        told = {
            "bytes": mb * 1e6,
            "gets": 4,
            "retries": rank,
            "queue": queue,
            "queue_limit": 2,
            "wait_s": 0.5,
        }
        run.note(second, "loader", rank=rank, **told, something_new=1)
    found = run.book().status()["loader"]
    wait = found.pop("data_wait_s")
    assert found == {
        "ranks": 2, "bytes": 8e6, "gets": 8, "retries": 1, "queue": 0, "queue_limit": 2, "wait_s": 1.0, "something_new": 2,
    }  # fmt: skip
    assert wait == pytest.approx(run.book().waterfall[-1]["ledger"]["data wait"])
    text = shown(run)
    for words in (
        "read 8.0 MB",
        "requests 8",
        "retries 1",
        "steps ready 0 of 2",
        "waited 1.0 s",
        "something_new 2",
    ):
        assert words in text
        assert words.rsplit(" ", 1)[0].split(" ")[0] in render(run.book())


def test_a_run_whose_loaders_said_nothing_yet_has_none(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    assert run.book().status()["loader"] is None
    run.begin()
    assert run.book().status()["loader"] is None
    assert "reading" not in shown(run)
    assert "No loader has told anything yet." in render(run.book())


def test_what_an_older_version_did_not_note_is_no_error() -> None:
    events = [{"t": 1.0, "kind": "loader", "attempt": 1, "rank": rank, "bytes": 1} for rank in range(2)]
    events[1] |= {"queue": 3}
    assert loading.figures(events, 1) == {"ranks": 2, "bytes": 2, "queue": 3}
    assert loading.in_words({"ranks": 2, "bytes": 0, "queue": 3}) == [
        ("read", "0.0 MB"),
        ("steps ready", "3"),
    ]


@pytest.mark.timeout(120)
def test_every_rank_notes_its_loader_with_each_part_and_at_the_end(tmp_path: Path, digits: str) -> None:
    run = Direct.begin(make_small(tmp_path, digits), "run", "train.steps=12", "checkpoint.every=4 steps")
    run.attempt(2)
    book = run.book()
    for rank in range(2):
        told = [e["bytes"] for e in book.events if e["kind"] == "loader" and e["rank"] == rank]
        assert len(told) >= 3
        assert told == sorted(told)
        assert told[-1] > 0
    found = book.status()["loader"]
    assert found["ranks"] == 2
    assert found["gets"] > 0
    assert found["wait_s"] >= 0
