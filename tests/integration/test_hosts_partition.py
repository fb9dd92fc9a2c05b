"""The driver's host loses its cable; another driver takes over; the first one comes back and finds itself replaced.

On real hosts, and on Ceph RGW, which the cut host cannot reach either. Minutes long: wants MIXER_LONG_TESTS=1.
"""

from __future__ import annotations

import os

import pytest

from orchestrator.accounts.status import Book
from orchestrator.run_store import Run
from tests.ceph import Gateway
from tests.conftest import BucketMaker
from tests.hosts import reason_missing
from tests.one_history import check_checkpoints, check_log
from tests.ray_hosts import ray_hosts
from tests.runs import make_small

pytestmark = [
    pytest.mark.ray,
    pytest.mark.rgw,
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.skipif(not os.environ.get("MIXER_LONG_TESTS"), reason="minutes long: set MIXER_LONG_TESTS=1"),
    pytest.mark.skipif(reason_missing() is not None, reason=reason_missing() or "they can be"),
]

RUN = "partition"


def test_a_driver_behind_a_cut_cable_comes_back_to_a_run_that_is_not_its_own(
    rgw: Gateway, rgw_bucket: BucketMaker, digits: str
) -> None:
    with ray_hosts(3, [0, 1, 1], store=rgw_bucket(), s3=rgw.env) as cluster:
        make_small(cluster.folder, digits)
        options = ["--store", cluster.store, "--name", RUN, "--set", "train.steps=100000"]
        first = cluster.mixer("train", str(cluster.folder / "small.yaml"), *options, on=1)
        cluster.wait_for_step(RUN, 20, 120)
        cluster.group[1].cut()
        second = cluster.mixer("train", RUN, "--store", cluster.store, "--take-over", on=2)
        cluster.wait_for_attempt(RUN, 2, 120)
        assert first.poll() is None  # it lives, and cannot know
        cluster.group[1].heal()
        assert first.wait(100) in (1, 3), cluster.said()
        cluster.wait_for_step(RUN, cluster.step(RUN) + 20)
        assert second.poll() is None
        assert cluster.mixer("stop", RUN, "--store", cluster.store, on=3).wait(60) == 0, cluster.said()
        assert second.wait(30) == 3, cluster.said()
        book = Book(Run(f"{cluster.store}/runs/{RUN}"))
        check_log(book)
        check_checkpoints(book)
        assert sum(entry.kind == "taken over" for entry in book.entries) == 1
