"""Told to leave in the middle of something: an evaluation, a long step, a first step, an upload. Nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from orchestrator.accounts.proof import delivered_once
from tests.direct import Direct
from tests.runs import Small, wait_for
from tests.trouble import main, trouble

pytestmark = pytest.mark.timeout(240)
FAR, NEAR = 600.0, 1.0  # seconds to a deadline
Said = list[tuple[Any, ...]]


def evaluated(direct: Direct) -> list[int]:
    return [event["step"] for event in direct.book().events if event["kind"] == "evaluated"]


def told_while(what: str, within: float | None = None, step: int = 0) -> Any:
    """Tell an attempt to leave, with a deadline `within` seconds or none, once rank 0 does `what` after `step`."""

    def during(direct: Direct, n: int) -> None:
        begun = time.time()
        if step:
            wait_for(lambda: direct.progress(n).get("step", 0) >= step)
            begun = time.time()
        wait_for(lambda: (direct.run.read_json(f"test/{what}-{n}.json") or {}).get("since", 0.0) > begun)
        direct.order(n, leave="the test says so", deadline=None if within is None else time.time() + within)

    return during


def unbroken(small: Small, *overrides: str) -> Direct:
    """The run as it is when nobody disturbs it; every step saved."""
    direct = Direct.begin(small, "unbroken", *overrides, "checkpoint={every: 1 steps, keep: 1000}")
    direct.attempt(2)
    return direct


def files(direct: Direct, step: int) -> set[str]:
    """The checksums of the files of the checkpoint of `step`."""
    entry = next(
        e for e in direct.log.entries if e.kind == "checkpoint committed" and e.facts["step"] == step
    )
    store, path = direct.run.store, entry.facts["path"]
    return {json.loads(store.get(f"{path}/rank-{rank:05d}.json"))["sha256"] for rank in range(2)}


STOPPED: Said = [("ok", "stopped")] * 2
FINISHED: Said = [("ok", "finished")] * 2


@pytest.mark.parametrize("step", [10, 20], ids=["between", "last"])
def test_an_evaluation_is_left_and_done_again_once(small: Small, step: int) -> None:
    every = f"evaluate.every={step} steps" if step < 20 else "evaluate.every=null"  # always at the end
    given = ("train.steps=20", every, "checkpoint.every=100 steps")
    whole = Direct.begin(small, "whole", *given)
    whole.attempt(2)
    direct = Direct.begin(small, "left", *given)
    env = trouble(evaluation_s=0.3)
    assert direct.attempt(2, main, env=env, during=told_while("evaluating", FAR)) == STOPPED
    assert evaluated(direct) == [], "what was interrupted is not noted"
    assert direct.saved()[-1] == step
    assert direct.attempt(2) == FINISHED
    assert evaluated(direct) == evaluated(whole) == sorted({step, 20})
    assert direct.losses() == whole.losses()
    results = [
        [event["accuracy"] for event in each.book().events if event["kind"] == "evaluated"]
        for each in (direct, whole)
    ]
    assert results[0] == results[1]


def test_an_evaluation_that_was_done_after_the_save_is_not_done_again(small: Small) -> None:
    given = ("train.steps=20", "evaluate.every=10 steps", "checkpoint.every=10 steps")
    direct = Direct.begin(small, "once", *given)

    def kill(each: Direct, n: int) -> None:
        wait_for(lambda: (each.progress(n).get("evaluation") or {}).get("step") == 10)
        each.order(n, leave="the test says so")

    assert direct.attempt(2, main, env=trouble(micro_s=0.2, upload_s=3.0), during=kill) == STOPPED
    assert direct.saved()[0] == 10
    direct.log.append("checkpoint deleted", path=_path(direct, direct.saved()[-1]), step=0, why="test")
    assert direct.attempt(2) == FINISHED
    assert evaluated(direct) == [10, 20]


def _path(direct: Direct, step: int) -> str:
    return next(
        str(e.facts["path"])
        for e in direct.log.entries
        if e.kind == "checkpoint committed" and e.facts["step"] == step
    )


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_long_step_is_left_between_micro_batches(small: Small, zero: int) -> None:
    """4 micro-batches a worker and step, 2.4 s in all; the deadline is nearer than that."""
    given = (f"train.zero={zero}", "train.steps=8")
    whole = unbroken(small, *given)
    direct = Direct.begin(small, "dropped", *given, "checkpoint.every=100 steps")
    said = direct.attempt(2, main, env=trouble(micro_s=0.6), during=told_while("computing", NEAR, step=2))
    assert said == STOPPED
    dropped = [
        (event["rank"], event["step"], event["turn"])
        for event in direct.book().events
        if event["kind"] == "step dropped"
    ]
    (step,) = direct.saved()
    assert sorted(dropped) == [(rank, step + 1, dropped[0][2]) for rank in (0, 1)]
    assert files(direct, step) == files(whole, step), "the state is that of the last completed step"
    assert direct.newest().position == step * 64
    assert direct.attempt(2) == FINISHED
    assert direct.losses() == whole.losses()
    assert direct.ids() == whole.ids()
    assert delivered_once(direct.book()) == (0, 0)


def test_a_step_whose_end_is_before_the_deadline_is_finished(small: Small) -> None:
    direct = Direct.begin(small, "time", "train.steps=8", "checkpoint.every=100 steps")
    said = direct.attempt(2, main, env=trouble(micro_s=0.6), during=told_while("computing", FAR, step=2))
    assert said == STOPPED
    assert not [event for event in direct.book().events if event["kind"] == "step dropped"]
    assert direct.saved()[-1] >= 3


def test_the_first_step_is_left_with_nothing_to_save(small: Small) -> None:
    direct = Direct.begin(small, "first", "train.steps=6")
    said = direct.attempt(2, main, env=trouble(micro_s=1.0), during=told_while("computing", NEAR))
    assert said == STOPPED
    assert direct.saved() == []
    assert direct.book().history == []
    assert direct.attempt(2) == FINISHED
    assert [line.step for line in direct.book().history] == list(range(1, 7))


def test_told_before_the_first_step_it_does_none(small: Small) -> None:
    direct = Direct.begin(small, "early", "train.steps=6")
    n = len(direct.log.entries)
    direct.order(n, leave="the test says so")
    assert direct.attempt(2, main, env=trouble(micro_s=0.05)) == STOPPED
    assert [event for event in direct.book().events if event["kind"] == "step"] == []


def test_leaving_during_an_upload_saves_after_it(small: Small) -> None:
    direct = Direct.begin(small, "upload", "train.steps=40", "checkpoint.every=15 steps")

    def during(each: Direct, n: int) -> None:
        wait_for(lambda: each.progress(n).get("step", 0) >= 16)
        each.order(n, leave="the test says so", deadline=time.time() + FAR)

    env = trouble(upload_s=3.0, held=True, micro_s=0.05)
    assert direct.attempt(2, main, env=env, during=during) == STOPPED
    due, last = direct.saved()
    assert due == 15
    assert 16 <= last < 30
    waited = [(e["step"], e["behind"]) for e in direct.book().events if e["kind"] == "save waited"]
    assert waited == [(last, 15)] * 2
    assert direct.attempt(2) == FINISHED


def test_leaving_during_the_upload_of_the_same_step_uses_it(small: Small) -> None:
    direct = Direct.begin(small, "same", "train.steps=40", "checkpoint.every=1 steps")
    env = trouble(upload_s=8.0, micro_s=0.9)
    assert direct.attempt(2, main, env=env, during=told_while("computing", NEAR, step=1)) == STOPPED
    events = direct.book().events
    dropped = next(event for event in events if event["kind"] == "step dropped")
    uploads = [event for event in events if event["kind"] == "span" and event["name"] == "upload"]
    assert direct.saved() == list(range(1, dropped["step"]))
    assert len(uploads) == 2 * len(direct.saved()), "one a rank and step"
    assert uploads[-1]["t"] > dropped["t"], "it was under way"


def test_save_now_saves_and_goes_on(small: Small) -> None:
    direct = Direct.begin(small, "now", "train.steps=20", "checkpoint.every=100 steps")

    def during(each: Direct, n: int) -> None:
        wait_for(lambda: each.progress(n).get("step", 0) >= 2)
        each.order(n, save=1)

    assert direct.attempt(2, main, env=trouble(micro_s=0.06), during=during) == FINISHED
    now, last = direct.saved()
    assert 2 < now < last == 20
