"""Faults between a real S3 server and loaders: what is delivered is right, what is not is named. `benchmarks.data.faults` plays 1,000."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from data_pipeline.storage import s3_ranges
from tests.ceph import Gateway
from tests.data_faults.kinds import LASTING, PASSING
from tests.data_faults.play import play
from tests.data_faults.scene import furnished

FAULTS = 60


@pytest.mark.timeout(400)
def test_no_fault_of_a_store_changes_a_batch(
    rgw: Gateway, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_ranges, "READ_TIMEOUT_S", 1.5)
    with furnished(rgw, short_folder, "faults-test", seed=11) as scene:
        told = play(scene, seed=11, faults=FAULTS)
    assert not told.lost, told.lost
    assert told.faults == FAULTS
    assert told.retries > 20
    assert set(told.met) <= {*PASSING, *LASTING}
    assert len(told.met) > 15
    assert told.raised.keys() <= {"CorruptBlock", "NotFound", "Unavailable", "StoreError"}
    assert sum(told.raised.values()) == sum(Counter({kind: told.met[kind] for kind in LASTING}).values())
