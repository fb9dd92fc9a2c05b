"""One run on real hosts that loses its head, a cable and a machine: driver on h1, workers on h2 and h3, head on h0.

The hosts are network namespaces; the head keeps its state (RocksDB). What the run wrote is then read as
anybody would: one history, whole checkpoints, every sample as often as it should be.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from data_pipeline.order import Order
from orchestrator.accounts.status import Book
from orchestrator.run_store import Run
from orchestrator.training.events import read_events
from tests.hosts import reason_missing
from tests.one_history import check_checkpoints, check_log
from tests.ray_hosts import RayHosts, ray_hosts
from tests.runs import make_small

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(280),
    pytest.mark.skipif(reason_missing() is not None, reason=reason_missing() or "they can be"),
]

RUN = "losses"
HEAD_AWAY_S = 8.0


@pytest.fixture(scope="module")
def cluster(digits: str) -> Iterator[RayHosts]:
    """A durable head, a host for the driver, two hosts of one CPU for workers."""
    with ray_hosts(3, [0, 1, 1], durable=True) as made:
        make_small(made.folder, digits)
        yield made


def test_a_run_survives_head_cable_and_machine(cluster: RayHosts) -> None:
    options = ["--store", cluster.store, "--name", RUN, "--set", "train.steps=100000"]
    options += ["--set", "checkpoint.every=20 steps"]
    driver = cluster.mixer("train", str(cluster.folder / "small.yaml"), *options)
    cluster.wait_for_step(RUN, 20, 120)
    cluster.wait_for_save(RUN)
    _head_without_power(cluster)
    _cut_cable(cluster)
    _machine_without_power(cluster)
    assert cluster.mixer("stop", RUN, "--store", cluster.store).wait(60) == 0, cluster.said()
    assert driver.wait(30) == 3, cluster.said()
    print(cluster.said())
    _check(cluster)


def _head_without_power(cluster: RayHosts) -> None:
    """The head's host goes and comes back: the same attempt trains on, by the same processes."""
    before, began = _workers(cluster), time.time()
    assert len(before) == 2, before
    cluster.group[0].power_off()
    time.sleep(HEAD_AWAY_S)
    cluster.boot(0)
    back = time.time()
    cluster.wait_for_nodes(4)
    cluster.wait_for_save(RUN)
    _print(cluster, "head without power", began)
    assert len(cluster.attempts(RUN)) == 1, cluster.log(RUN)
    assert _workers(cluster) == before
    steps = [event["t"] for event in _events(cluster, "step") if event["rank"] == 0]
    assert len([t for t in steps if began + 1 < t < back]) > 10  # it trained while there was no head


def _cut_cable(cluster: RayHosts) -> None:
    """A worker's host cannot be reached: the run shrinks. It comes back with workers that live: they do no harm."""
    attempts, cut = len(cluster.attempts(RUN)), time.time()
    cluster.group[3].cut()
    cluster.wait_for_attempt(RUN, attempts + 1, 90)
    began = cluster.attempts(RUN)[attempts]
    assert began["world"] == 1, began
    cluster.group[3].heal()
    cluster.wait_for_nodes(4)
    cluster.wait_for_save(RUN)
    _print(cluster, "cable cut", cut)


def _machine_without_power(cluster: RayHosts) -> None:
    """The host that trains loses its power: the run goes on where there is one."""
    attempts, cut = len(cluster.attempts(RUN)), time.time()
    cluster.group[2].power_off()
    cluster.wait_for_attempt(RUN, attempts + 1, 90)
    assert cluster.attempts(RUN)[-1]["world"] == 1
    cluster.wait_for_save(RUN)
    _print(cluster, "machine without power", cut)


def _check(cluster: RayHosts) -> None:
    book = Book(Run(f"{cluster.store}/runs/{RUN}"))
    check_log(book)
    check_checkpoints(book)
    outcomes = [entry.facts["outcome"] for entry in book.entries if entry.kind == "attempt ended"]
    assert outcomes[-1] == "stopped"
    assert "failed" not in outcomes
    assert [line.step for line in book.history] == [*range(1, book.status()["step"] + 1)]
    order, batch = Order(book.frozen.geometry), book.frozen.spec.train.global_batch
    for line in book.history:
        given = [sample for slot in sorted(line.ids) for sample in line.ids[slot]]
        assert given == order.sample_ids(order.step_items(line.batch * batch, batch)).tolist()


def _workers(cluster: RayHosts) -> set[tuple[str, int]]:
    """Host and pid of the ranks of the newest attempt."""
    newest = cluster.attempts(RUN)[-1]["n"]
    found = [event for event in _events(cluster, "worker") if event["attempt"] == newest]
    return {(event["host"], event["pid"]) for event in found}


def _events(cluster: RayHosts, kind: str) -> list[dict[str, Any]]:
    run = Run(f"{cluster.store}/runs/{RUN}")
    return [event for event in read_events(run.store) if event["kind"] == kind]


def _print(cluster: RayHosts, what: str, since: float) -> None:
    """For `pytest -s`, and for whoever reads a failure."""
    print(f"\n{what}", *cluster.timeline(RUN, since), sep="\n")
