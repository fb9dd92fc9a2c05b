"""The faulty proxy before real stores: it does what a rule says, counts it, and the product's client loses nothing behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.storage import Store, open_store
from tests.chaos.front import Front, fronting
from tests.chaos.proxy import Rule


@pytest.fixture(params=["rclone_store", pytest.param("rgw", marks=pytest.mark.rgw)])
def front(
    request: pytest.FixtureRequest, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Front]:
    """A proxy before a real store; this process asks through it."""
    store = request.getfixturevalue(request.param)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with fronting(store.endpoint, short_folder, seed=1) as front:
        for name, value in {**store.env, "AWS_ENDPOINT_URL": front.endpoint}.items():
            monkeypatch.setenv(name, value)
        yield front


@pytest.mark.parametrize("deed", ["503", "reset", "cut", "lost", "truncate", "latency", "freeze"])
def test_a_store_behind_the_proxy_loses_nothing(front: Front, deed: str) -> None:
    store = _bucket(f"proxy-{deed}")
    store.put("before", b"x" * 100_000)
    limits: dict[str, Any] = {"until": time.time() + 1.0} if deed == "freeze" else {"times": 4}
    front.add(Rule(deed, path="proxy-", number=5, seconds=0.1, **limits))
    assert store.get("before") == b"x" * 100_000
    store.put("large", b"y" * 300_000)
    assert store.put_if_absent("once", b"first")
    assert not store.put_if_absent("once", b"second")
    assert front.end(5) >= 1
    assert (store.get("large"), store.get("once")) == (b"y" * 300_000, b"first")
    if deed not in ("latency", "freeze"):
        assert store.retries >= 1
    assert sorted(info.key for info in store.list()) == ["before", "large", "once"]


def test_the_proxy_hits_what_a_rule_names_and_counts_it(front: Front) -> None:
    store = _bucket("proxy-rules")
    store.put("runs/a/checkpoints/x", b"0123456789")
    store.put("other", b"0123456789")
    assert front.asked("PUT checkpoints") == 1
    front.add(Rule("flip", method="GET", path="/checkpoints/", times=1, number=2))
    assert store.get("other") == b"0123456789"
    assert store.get("runs/a/checkpoints/x") == b"01234\x34" + b"6789"
    assert store.get("runs/a/checkpoints/x") == b"0123456789"
    assert front.end(2) == 1
    front.add(Rule("lost", conditional=True, number=3))
    store.put("other", b"plain")
    assert front.end(3) == 0
    with pytest.raises(ValueError, match="deed got 'flood'; allowed are 503"):
        Rule("flood")


def _bucket(name: str) -> Store:
    from data_pipeline.storage.s3_client import new_session

    new_session().client("s3").create_bucket(Bucket=name)
    return open_store(f"s3://{name}")
