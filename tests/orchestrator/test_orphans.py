"""What dead attempts left goes, bytes that never became an object included; what lives or is to be looked at stays."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.storage import open_store
from data_pipeline.storage.local import TEMP
from orchestrator.checkpoints.keeping import collect_orphans, collect_starts
from orchestrator.checkpoints.manifest import folder
from orchestrator.run_log import Entry


def test_torn_saves_of_dead_attempts_go_with_their_half_written_files(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    torn, half, committed, living = folder(10, 1), folder(20, 1), folder(30, 1), folder(40, 5)
    for path in (torn, committed, living):
        store.put(f"{path}/rank-00000.safetensors", b"x")
    temps = [tmp_path / path / f"{TEMP}0" for path in (torn, half, committed, living)]
    for temp in temps:
        temp.parent.mkdir(parents=True, exist_ok=True)
        temp.write_bytes(b"half")
    entries = [Entry(0, "checkpoint committed", "w", 0.0, {"path": committed, "step": 30})]
    assert collect_orphans(store, entries, below=5) == [torn]
    assert [temp.exists() for temp in temps] == [False, False, False, True]
    assert sorted(info.key for info in store.list("checkpoints/")) == [
        f"{path}/rank-00000.safetensors" for path in (committed, living)
    ]
    assert not (tmp_path / half).exists()


def test_first_weights_of_a_start_that_never_became_a_run_go_and_the_runs_own_stay(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for path in ("init/aaaa", "init/bbbb"):
        store.put(f"{path}/model.safetensors", b"x")
        store.put(f"{path}/manifest.json", b"{}")
    assert collect_starts(store, "init/bbbb") == ["init/aaaa"]
    assert [info.key for info in store.list()] == ["init/bbbb/manifest.json", "init/bbbb/model.safetensors"]
    assert collect_starts(store, "init/bbbb") == []
    assert collect_starts(store, None) == ["init/bbbb"]
