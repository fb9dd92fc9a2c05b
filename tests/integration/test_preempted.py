"""Machines that are announced to go, and machines that come: the run leaves in time, loses nothing, and grows where it pays."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from clusters.notices import Notice
from orchestrator.accounts.status import Book
from orchestrator.leading.policy import Outcome
from orchestrator.run_log import Entry
from orchestrator.run_store import Run
from orchestrator.watch import newest_progress
from tests import killing
from tests.gang import GangMachines
from tests.runs import Small, wait_for

pytestmark = pytest.mark.timeout(240)


def slow(config: dict[str, Any]) -> Any:
    """A worker whose steps take a twentieth of a second more."""
    return _worker(config, lambda task: 0.05)


def slow_at_the_start(config: dict[str, Any]) -> Any:
    """The first attempt's first step takes ten minutes, as a compilation might."""
    return _worker(config, lambda task: 600.0 if config["attempt"] == 1 else 0.0)


def slow_to_come(config: dict[str, Any]) -> Any:
    """A worker that takes six seconds to be there, and then takes its time, too."""
    time.sleep(6)
    return slow(config)


def held(*steps: int, until: str = "") -> dict[str, Any]:
    """Workers that wait after so many steps for what is to come: attempt by attempt."""
    return {"fn": killing.main, "env": killing.hold(*steps, until=until)}


def stuck_at_20(config: dict[str, Any]) -> Any:
    """The first attempt does not come past step 20 for ten minutes."""
    return _worker(config, lambda task: 600.0 if config["attempt"] == 1 and task.step == 20 else 0.0)


def sick(config: dict[str, Any]) -> Any:
    """A worker whose loss is not a number on the batches named in SICK."""
    from orchestrator.training import worker
    from orchestrator.training.engine import Engine

    true_pass, batches = Engine.forward_backward, [int(number) for number in os.environ["SICK"].split()]

    def forward_backward(self: Engine, images: Any, labels: Any, item: int, *, real: bool) -> Any:
        return true_pass(self, images, labels, item, real=real) * (
            float("nan") if item // 64 in batches else 1.0
        )

    Engine.forward_backward = forward_backward  # type: ignore[method-assign]
    return worker.main(config)


def _worker(config: dict[str, Any], pause: Any) -> Any:
    from orchestrator.training import loop, worker

    true_step = loop.one_step

    def one_step(task: loop.Task) -> tuple[bool, bool]:
        time.sleep(pause(task))
        return true_step(task)

    loop.one_step = one_step
    return worker.main(config)


def notice(node: int, seconds: float | None = 120.0) -> Notice:
    return Notice(
        f"node-{node}", None if seconds is None else time.time() + seconds, "spot interruption", "aws"
    )


def reached(run: Run, step: int, attempts: int = 1) -> None:
    """Wait until the newest of so many attempts has done a step, and is at `step` or beyond."""

    def there() -> bool:
        began = [entry.n for entry in run.log().entries if entry.kind == "attempt started"]
        said = (run.read_json(f"progress/{began[-1]}.json") or {}) if len(began) >= attempts else {}
        return "loss" in said and said["step"] >= step

    wait_for(there, timeout=120)


def kinds(book: Book, kind: str) -> list[Entry]:
    return [entry for entry in book.entries if entry.kind == kind]


def worlds(book: Book) -> list[int]:
    return [entry.facts["world"] for entry in kinds(book, "attempt started")]


def causes(book: Book) -> list[str]:
    return [f"{e.facts['outcome']} {e.facts['cause']}".strip() for e in kinds(book, "attempt ended")]


def adds_up(book: Book) -> bool:
    ledger = book.ledger
    return sum(ledger.seconds.values()) == pytest.approx(ledger.wall_s, rel=1e-6)


def losses(book: Book) -> list[float]:
    return [line.facts["loss"] for line in book.history]


def test_a_node_that_is_to_go_is_left_before_its_deadline_and_no_step_is_lost(small: Small) -> None:
    def during(run: Run, machines: GangMachines) -> None:
        reached(run, 14)
        machines.announced.append(notice(1))

    code, book = small.lead("spot", "train.steps=60", room=2, **held(15), during=during)
    assert code == 0
    assert worlds(book) == [2, 1]
    (first, last) = causes(book)
    assert first == "stopped preempted: node node-1: spot interruption"
    assert last == "finished"
    (told,) = kinds(book, "notice")
    ended, restarted = kinds(book, "attempt ended")[0], kinds(book, "attempt started")[1]
    assert restarted.facts["step"] == ended.facts["step"] > 13, "what was done is saved, to the last step"
    steps = [e for e in book.events if e["kind"] == "step" and e["attempt"] == restarted.n and e["rank"] == 0]
    assert steps[0]["t"] < told.facts["deadline"]
    assert adds_up(book)
    seconds = book.ledger.seconds
    assert seconds["lost work"] < 0.01
    assert seconds["recovery"] > 0
    assert set(book.ledger.recoveries()[0]) >= {"place", "import", "engine", "load"}
    code, whole = small.lead("whole", "train.steps=60", room=2)
    assert code == 0
    saved = restarted.facts["step"]
    assert losses(book)[:saved] == losses(whole)[:saved]
    assert losses(book)[saved : saved + 10] == pytest.approx(losses(whole)[saved : saved + 10], rel=1e-4)
    assert [line.as_json()["id_digest"] for line in book.history] == [
        line.as_json()["id_digest"] for line in whole.history
    ]


def test_before_the_first_step_there_is_nothing_to_wait_for(small: Small) -> None:
    def during(run: Run, machines: GangMachines) -> None:
        wait_for(lambda: "world_size" in newest_progress(run))  # it is about to begin its first step
        machines.announced.append(notice(1))

    began = time.monotonic()
    code, book = small.lead("compile", room=2, fn=slow_at_the_start, during=during)
    assert code == 0
    assert time.monotonic() - began < 200, "the first attempt would have taken ten minutes"
    assert worlds(book) == [2, 1]
    assert causes(book) == ["stopped preempted: node node-1: spot interruption", "finished"]
    assert kinds(book, "attempt ended")[0].facts["step"] == 0
    assert adds_up(book)


def test_workers_that_do_not_leave_are_ended_before_the_deadline(small: Small) -> None:
    def during(run: Run, machines: GangMachines) -> None:
        reached(run, 20)
        machines.announced.append(notice(1, 5.0))

    code, book = small.lead("stuck", room=2, fn=stuck_at_20, during=during)
    assert code == 0
    assert worlds(book) == [2, 1]
    (told,) = kinds(book, "notice")
    ended, restarted = kinds(book, "attempt ended")[0], kinds(book, "attempt started")[1]
    assert ended.facts["outcome"] == "stopped"
    assert told.facts["deadline"] - 2 < ended.time
    assert restarted.facts["step"] == 20
    assert adds_up(book)


def test_two_nodes_go_one_after_the_other(small: Small) -> None:
    def during(run: Run, machines: GangMachines) -> None:
        reached(run, 5)
        machines.announced.append(notice(2))
        reached(run, 1, attempts=2)
        machines.announced.append(notice(1))

    code, book = small.lead(
        "twice",
        "train.steps=60",
        "workers.max=3",
        "recovery.preemptions=1",
        room=3,
        **held(5, 5),
        during=during,
    )
    assert code == 0, "each is charged to a checkpoint of its own"
    assert worlds(book) == [3, 2, 1]
    ended = [entry.facts["step"] for entry in kinds(book, "attempt ended")]
    assert [entry.facts["step"] for entry in kinds(book, "attempt started")[1:]] == ended[:-1]
    assert [entry.facts["node"] for entry in kinds(book, "notice")] == ["node-2", "node-1"]
    assert adds_up(book)
    assert book.ledger.seconds["lost work"] < 0.01


def test_a_notice_for_another_node_and_mere_advice_change_nothing(small: Small) -> None:
    def during(run: Run, machines: GangMachines) -> None:
        reached(run, 5)
        machines.announced += [notice(4), notice(1, None)]

    code, book = small.lead(
        "spare", "train.steps=30", "checkpoint.every=1000 steps", room=5, **held(5), during=during
    )
    assert code == 0
    assert worlds(book) == [2]
    assert [entry.facts["node"] for entry in kinds(book, "notice")] == ["node-4", "node-1"]
    saved = [entry.facts["step"] for entry in kinds(book, "checkpoint committed")]
    assert len(saved) == 2, "the advice made it save"
    assert saved[0] < 30


def test_a_notice_while_the_run_waits_only_drains(small: Small) -> None:
    def during(run: Run, machines: GangMachines) -> None:
        reached(run, 5)
        machines.announced.append(notice(1))
        wait_for(lambda: run.log().entries[-1].kind == "waiting")
        machines.announced.append(notice(0))
        wait_for(lambda: run.log().entries[-1].kind == "notice")
        assert Book(run).state() == "waiting"
        machines.room = 4

    code, book = small.lead("wait", "train.steps=30", "workers.min=2", room=2, **held(5), during=during)
    assert code == 0
    assert worlds(book) == [2, 2]
    assert len(kinds(book, "waiting")) == 1
    assert book.ledger.seconds["waiting"] > 0
    assert adds_up(book)


def test_it_grows_at_a_checkpoint_and_loses_nothing_by_it(small: Small) -> None:
    def during(run: Run, machines: GangMachines) -> None:
        reached(run, 5)
        machines.room = 2
        reached(run, 1, attempts=2)
        run.request("stop")

    code, book = small.lead("grow", "train.steps=100000", room=1, fn=slow, during=during)
    assert code == 3
    assert worlds(book) == [1, 2]
    first = kinds(book, "attempt ended")[0]
    assert first.facts["cause"].startswith("resize: 1 -> 2 workers: saves ")
    committed = [entry for entry in kinds(book, "checkpoint committed") if entry.n < first.n]
    assert (
        kinds(book, "attempt started")[1].facts["step"] == first.facts["step"] == committed[-1].facts["step"]
    )
    assert adds_up(book)
    assert book.ledger.seconds["lost work"] < 0.01


def test_it_does_not_grow_for_the_last_few_steps(small: Small) -> None:
    used = list[GangMachines]()

    def during(run: Run, machines: GangMachines) -> None:
        used.append(machines)
        reached(run, 5)
        machines.room = 3

    args = ("train.steps=140", "workers.max=3")
    code, book = small.lead("end", *args, room=2, fn=slow_to_come, during=during)
    assert code == 0
    assert worlds(book) == [2]
    refused = [line for line in small.said if line.startswith("not growing")]
    assert refused == ["not growing 2 -> 3 workers: would save less until the end than a restart takes"]
    assert used[0].asked == [3, 0], "the missing worker was asked for, and no longer at the end"


def test_a_batch_that_diverges_is_left_out_and_the_run_finishes(small: Small) -> None:
    code, book = small.lead("nan", fn=sick, env={"SICK": "12"})
    assert code == 0
    assert [cause.split()[0] for cause in causes(book)] == ["diverged", "finished"]
    (left,) = kinds(book, "batch left out")
    assert left.facts["batch"] == 12
    assert "batch 12" in left.facts["why"]
    assert [line.batch for line in book.history] == [b for b in range(41) if b != 12]
    assert adds_up(book)
    assert book.ledger.seconds["lost work"] > 0, "the steps since the checkpoint, and the one that diverged"
    assert book.ledger.seconds["recovery"] > 0
    code, whole = small.lead("whole")
    assert losses(book)[:12] == losses(whole)[:12]


def test_too_many_batches_that_diverge_end_the_run_by_name(small: Small) -> None:
    code, book = small.lead("sick", "recovery.left_out=1", fn=sick, env={"SICK": "3 14"})
    assert code == 1
    assert [entry.facts["batch"] for entry in kinds(book, "batch left out")] == [3, 14]
    assert "2 batches diverged (3, 14), recovery.left_out allows 1" in book.entries[-1].facts["why"]
    code, book = small.lead("sick", "recovery.left_out=2", fn=sick, env={"SICK": "3 14"})
    assert code == 0, "a higher limit lets it go on"
    assert [line.batch for line in book.history] == [b for b in range(42) if b not in (3, 14)]
    assert adds_up(book)


def hangs_at_14(run: Run, machines: GangMachines) -> None:
    """Plays the watch over the ranks, which gangs do not have."""
    reached(run, 14)
    machines.attempts[0].ended = Outcome(
        "hung", "rank 1 does not move: in read of step 15 for 100 s (node-1)"
    )


def test_a_rank_that_hangs_is_a_failure_and_tried_again(small: Small) -> None:
    code, book = small.lead("hung", **held(14), during=hangs_at_14)
    assert code == 0
    assert causes(book) == ["hung rank 1 does not move: in read of step 15 for 100 s (node-1)", "finished"]
    assert book.ledger.seconds["recovery"] > 0
    assert adds_up(book)
    code, whole = small.lead("whole")
    assert losses(book) == losses(whole), "at the same world sizes, the same run bit by bit"
    code, book = small.lead("strict", "recovery.failures=0", **held(14), during=hangs_at_14)
    assert code == 1
    assert "1 failures" in book.entries[-1].facts["why"]


def test_a_slow_node_is_told_and_left_where_there_is_room_without_it(small: Small) -> None:
    def during(run: Run, machines: GangMachines) -> None:
        reached(run, 12)
        machines.attempts[0].slowness = {"node-1": "rank 1: 0.9 s of its own work a step, the others 0.3 s"}

    code, book = small.lead("slow", "recovery.stragglers=replace", room=3, **held(12), during=during)
    assert code == 0
    assert [entry.facts["node"] for entry in kinds(book, "straggler")] == ["node-1"]
    assert worlds(book) == [2, 2]
    assert "is slow" in causes(book)[0]
    assert len(book.history) == 40
    assert adds_up(book)


def test_a_slow_node_is_only_told_where_there_is_no_other(small: Small) -> None:
    def during(run: Run, machines: GangMachines) -> None:
        reached(run, 12)
        machines.attempts[0].slowness = {"node-1": "rank 1: 0.9 s of its own work a step, the others 0.3 s"}

    told = held(12, until="straggler")
    code, book = small.lead("slow", "recovery.stragglers=replace", room=2, **told, during=during)
    assert code == 0
    assert len(kinds(book, "straggler")) == 1
    assert worlds(book) == [2]


def test_auto_saves_by_its_own_clock_once_it_knows_what_a_save_costs(small: Small) -> None:
    """A save costs some milliseconds here, so the shortest interval, 10 s, is the best one."""
    told = list[dict[str, Any]]()

    def during(run: Run, machines: GangMachines) -> None:
        reached(run, 5)
        told.append(machines.attempts[0].config)
        run.request("save")
        wait_for(lambda: len(commits(run)) == 3, timeout=90)
        run.request("stop")

    args = ("train.steps=100000", "checkpoint.every=auto")
    code, book = small.lead("auto", *args, fn=slow, during=during)
    assert code == 3
    asked, one, two, *_ = commits(book.run)
    assert two.time - one.time > 5, "10 s, as far as a driver that looks once a second can tell"
    assert one.time - asked.time > 5
    assert told[0]["loss_every_s"] == pytest.approx(3600, rel=0.01)
    assert told[0]["left_out"] == []


def commits(run: Run) -> list[Entry]:
    return [entry for entry in run.log().entries if entry.kind == "checkpoint committed"]
