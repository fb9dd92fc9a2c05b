"""Short schedules of faults on real runs, as `benchmarks/survival/chaos.py` plays long ones: nothing of them shows in what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ceph import Gateway
from tests.chaos.gangs import on_gangs
from tests.chaos.scene import on_rgw
from tests.chaos.schedule import plan
from tests.chaos.schedules import Told, run_schedule

pytestmark = pytest.mark.timeout(420)

SEED = 3
# Ranks that are killed and stopped on Ray: test_ray_restarts; killed and judged: below; cut replies: test_proxy, test_storage_s3.
SHORT = ("kill driver", "cut power", "join", "notice", "store 503", "store lost", "store freeze")


@pytest.mark.ray
@pytest.mark.rgw
def test_seven_faults_leave_the_run_as_it_was(rgw: Gateway, short_folder: Path) -> None:
    said: list[str] = []
    with on_rgw(rgw, short_folder, bucket="chaos", steps=230, seed=SEED) as scene:
        planned = plan(SEED, len(SHORT), SHORT)
        *_, told = run_schedule(scene, planned, seed=SEED, tell=lambda line, _: said.append(line))
    _check(told, len(SHORT) - 2, 230, said)  # a fault of the store may meet no request


def test_drivers_and_ranks_that_die_without_ray(short_folder: Path) -> None:
    said: list[str] = []
    with on_gangs(short_folder, steps=150, mark=short_folder.name) as scene:
        planned = plan(SEED, 4, ("kill rank", "kill driver", "rival driver", "scale"))
        *_, told = run_schedule(scene, planned, seed=SEED, tell=lambda line, _: said.append(line))
    _check(told, 3, 150, said)  # a run may end before the last one


def _check(told: Told, faults: int, steps: int, said: list[str]) -> None:
    verdict, text = told.verdict, "\n".join(said)
    assert verdict.problems == [], text
    assert verdict.clean, text
    assert verdict.faults >= faults, text
    assert verdict.steps == steps * len(told.runs)
    assert sum(verdict.ledger[name] for name in verdict.ledger if name != "wall") == pytest.approx(
        verdict.ledger["wall"], rel=0.01
    )
