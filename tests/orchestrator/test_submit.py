"""A submitted run on a real Ray cluster whose head is no place for drivers: its driver is killed, and it goes on; then it is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusters import jobs, local
from clusters.local_state import NODE_MARK
from clusters.object_store import ObjectStore
from orchestrator.accounts.status import Book
from orchestrator.errors import UserError
from orchestrator.follow import scale_run, stop_run
from orchestrator.run_log import RunLog, new_writer
from orchestrator.run_store import Run
from orchestrator.submit import submit
from tests.conftest import _set
from tests.one_history import check_checkpoints
from tests.runs import Small, make_small, wait_for

CLUSTER = "test-submit"


@pytest.mark.parametrize(
    "word", ["driver", "driver=", "=1", "driver=x", "driver=0", "driver=-1", "driver=inf", "CPU=nan"]
)
def test_resources_that_are_none_are_refused(word: str) -> None:
    with pytest.raises(UserError, match="write KEY=N with N above 0"):
        submit(
            "x",
            store="/",
            name=None,
            overrides=[],
            cluster=None,
            take_over=False,
            say=print,
            driver_resources=[word],
        )


@pytest.fixture
def here(tmp_path: Path, digits: str) -> Small:
    """A small run in a folder, and no cluster."""
    return make_small(tmp_path, digits)


def submitted(small: Small, target: str, *overrides: str, name: str | None = None) -> dict[str, Any]:
    """Where there is no cluster."""
    return submit(
        target,
        store=small.store,
        name=name,
        overrides=overrides,
        cluster="http://127.0.0.1:1",
        take_over=False,
        say=small.said.append,
    )


def test_a_finished_run_is_not_submitted_again(here: Small) -> None:
    code, before = here.lead("done", "train.steps=2", "workers.max=1")
    assert code == 0
    for target, name in (("done", None), (str(here.folder / "small.yaml"), "done")):
        facts = submitted(here, target, "train.steps=2", "workers.max=2", name=name)
        assert facts == {"run": "done", "url": before.run.url, "state": "finished"}
        assert here.said[-1] == "run done has finished; `mixer report done` shows it"
    for ask in (lambda: stop_run(before.run, wait=False), lambda: scale_run(before.run, "1:2")):
        with pytest.raises(UserError, match=r"done has finished: no driver leads it, and none will$"):
            ask()
    after = Book(before.run)
    assert after.entries == before.entries
    assert (after.state(), after.ledger.wall_s) == ("finished", before.ledger.wall_s)


def test_a_warmup_longer_than_the_run_is_said(here: Small) -> None:
    """As a recipe's 10,000 steps are on a small data set."""
    spec = str(here.folder / "small.yaml")
    for name, warmup in (("fits", 4), ("long", 16)):
        with pytest.raises(UserError, match="no Ray dashboard answers"):
            submitted(here, spec, "train.steps=4", f"train.warmup_steps={warmup}", name=name)
    remarks = [line for line in here.said if "warmup" in line]
    assert remarks == [
        "train.warmup_steps is 16 and the run has 4 steps: its rate ends at 0.00075 and never gets to 0.003; "
        "give fewer, such as `5 epochs`, or a longer run"
    ]


def test_a_job_that_leads_before_its_submission_is_noted_goes_on_leading(
    here: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[RunLog] = []

    def quick(*_: object, **__: object) -> None:
        logs.append(Run(f"{here.store}/runs/quick").log(new_writer()))
        logs[0].append("taken over", why="submitted")

    monkeypatch.setattr("clusters.jobs.submit", quick)
    submitted(here, str(here.folder / "small.yaml"), name="quick")
    logs[0].append("waiting", why="room for 0 workers")
    assert [entry.kind for entry in logs[0].refresh()] == ["created", "taken over", "waiting"]


@pytest.fixture
def small(tmp_path: Path, rclone_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Small]:
    """A small run in a bucket, and a cluster whose machines have the credentials: a durable head, one node."""
    from data_pipeline.packing.pack import pack

    pack("sklearn:digits", str(tmp_path / "digits"))
    _set(monkeypatch, rclone_store.env)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with local.running(nodes=1, cpus=1, name=CLUSTER, env=rclone_store.env, durable=True):
        for key, value in local.env_for(CLUSTER).items():
            monkeypatch.setenv(key, value)
        yield make_small(tmp_path, str(tmp_path / "digits"), rclone_store.bucket("test-submit"))


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_a_submitted_driver_is_off_the_head_and_may_be_killed(small: Small) -> None:
    said: list[str] = []
    facts = submit(
        str(small.folder / "small.yaml"),
        store=small.store,
        name="run",
        overrides=["workers.max=1", "train.steps=4000", "checkpoint.keep=1"],
        cluster=None,
        take_over=False,
        say=said.append,
        driver_resources=["driver=1"],
    )
    run = Run(facts["url"])
    first = wait_for(lambda: leader(run, facts["job"]), timeout=120)
    environment = Path(f"/proc/{first}/environ").read_bytes().split(b"\0")
    mark = next(word for word in environment if word.startswith(f"{NODE_MARK}=".encode()))
    assert mark.endswith(b"/1")  # the head is node 0
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: (pid := leader(run, facts["job"])) != first and pid, timeout=120)
    assert jobs.stop(None, facts["job"])
    job = jobs.wait(None, facts["job"], timeout_s=100)
    assert job.state == "STOPPED"
    assert not Path(f"/proc/{second}").exists()
    book = Book(run)
    assert [entry.facts["why"] for entry in book.entries if entry.kind == "taken over"] == [
        "submitted",
        "no driver was alive",
    ]
    assert book.entries[-1].kind == "stopped"
    assert book.entries[-1].facts["why"] == "SIGTERM of the driver"
    check_checkpoints(book)


def leader(run: Run, job: str) -> int:
    """The pid of the driver that leads and has committed a checkpoint of its own; 0 before."""
    assert not jobs.status(None, job).done, jobs.logs(None, job)
    holder = run.holder()
    whole = [entry for entry in run.log().entries if entry.kind == "checkpoint committed"]
    return holder.pid if holder and whole and whole[-1].writer == holder.writer else 0
