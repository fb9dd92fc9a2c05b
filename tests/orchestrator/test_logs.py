"""`mixer logs`: one line for each entry and notable event, by time, without credentials or commands to a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.logs import lines, stamp
from orchestrator.redact import first_line, redact
from orchestrator.run_log import Entry
from tests.scripted_run import START, ScriptedRun, killed_once


def test_lines_tell_the_run_in_order_of_time(tmp_path: Path) -> None:
    book = killed_once(tmp_path).book()
    said = list(lines(book.entries, book.events))
    assert [line[:20] for line in said] == sorted(line[:20] for line in said)
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  \S+ +\S", line) and "\n" not in line for line in said
    )
    text = "\n".join(said)
    for words in (
        "run digits-abc123 created: 120 steps",
        "attempt starts at step 0 with 2 workers: room for 2",
        "rank 1 works on node-1, process 101",
        "step 25: loss ",
        "step 40: accuracy 84.00%",
        "checkpoint of step 40 committed, ",
        "error: RuntimeError: gloo: Connection closed by peer",
        "died at step 53: rank 1 died: SIGKILL",
        "rank 0 left at step 120: finished",
        "finished at step 120",
    ):
        assert words in text


def test_steps_are_said_now_and_then_and_at_the_start_of_an_attempt(tmp_path: Path) -> None:
    book = killed_once(tmp_path).book()
    steps = [
        int(found[1])
        for line in lines(book.entries, book.events)
        if (found := re.search(r"  step (\d+): loss", line))
    ]
    assert steps == [1, 25, 50, 41, 50, 75, 100]
    assert not any(
        ": loss" in line and "accuracy" not in line for line in lines([], book.events, step_every=0)
    )


def test_every_kind_of_entry_has_its_words() -> None:
    entries = [
        Entry(0, "request", "w", START, {"id": "1", "asks": "scale", "min": 1, "max": 3}),
        Entry(1, "resources changed", "w", START, {"spec": {"workers": {"min": 1, "max": 3}}}),
        Entry(2, "waiting", "w", START, {"why": "room for 0 workers"}),
        Entry(3, "checkpoint damaged", "w", START, {"path": "checkpoints/1-2", "why": "CRC32C"}),
        Entry(4, "checkpoint deleted", "w", START, {"path": "checkpoints/1-2", "why": "keep: 2"}),
        Entry(5, "gave up", "w", START, {"why": "5 failures"}),
        Entry(6, "stopped", "w", START, {"why": "mixer stop"}),
        Entry(7, "of a later version", "w", START, {"colour": "red"}),
        Entry(8, "attempt ended", "w", START, {"odd": 1}),
    ]
    said = [line.split("  ", 2)[2].strip() for line in lines(entries, [])]
    assert said == [
        "asked to scale: workers 1..3",
        "resources changed: workers 1..3",
        "waiting for machines: room for 0 workers",
        "checkpoint checkpoints/1-2 is damaged: CRC32C",
        "checkpoint checkpoints/1-2 deleted: keep: 2",
        "gave up: 5 failures",
        "stopped, resumable: mixer stop",
        "of a later version: colour red",
        "attempt ended: odd 1",
    ]


def test_a_bad_sample_is_named(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.note(one, "bad sample", id=3, item=9, substitute=4, why="truncated\nJPEG")
    assert any(
        "bad sample 3 (item 9), 4 in its place: truncated" in line for line in lines([], run.book().events)
    )


def test_a_stamp_is_utc() -> None:
    assert stamp(0) == "1970-01-01 00:00:00Z"


@pytest.mark.parametrize(
    ("given", "secret"),
    [
        ("PUT https://key:hunter2@host/bucket failed", "hunter2"),
        ("no access for AKIAIOSFODNN7EXAMPLE here", "AKIAIOSFODNN7EXAMPLE"),
        ("GET http://h/b?X-Amz-Signature=abcdef0123&x=1", "abcdef0123"),
        ("aws_secret_access_key = wJalrXUtnFEMIK7MDENG", "wJalrXUtnFEMIK7MDENG"),
        ("{'Authorization': 'Bearer abc.def'}", "abc.def"),
    ],
)
def test_credentials_are_taken_out(given: str, secret: str) -> None:
    assert secret not in redact(given)
    assert "***" in redact(given)


def test_values_of_the_environment_that_are_secret_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "quite+a/secret=value")
    assert redact("bad signature for quite+a/secret=value") == "bad signature for ***"


def test_control_characters_never_reach_a_terminal() -> None:
    assert redact("a\x1b[2Jb\x07c\rd") == "abcd"
    assert first_line("\n\n  one\ttwo \nthree") == "one two"
    assert first_line("x" * 50, 10) == "x" * 9 + "…"


def test_data_that_is_late_is_named(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    facts = {"position": 64, "seconds": 10.2, "start": 5, "length": 7, "asked_s": 9.6}
    run.note(one, "data late", object="s3://b/s-000001.tar", **facts)
    run.note(one, "data late", object="", **facts)
    told = "\n".join(lines([], run.book().events))
    assert "rank 0 has waited 10 s for its data: s3://b/s-000001.tar, bytes 5+7, asked for 10 s ago" in told
    assert "for its data: the decoding" in told
