"""The driver's part: a checkpoint becomes real by an entry of the log, old ones go by another, and what was torn is cleared away."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from data_pipeline.storage import Store, StoreError
from orchestrator.checkpoints.manifest import Manifest
from orchestrator.errors import DamagedCheckpoint
from orchestrator.run_log import Entry, RunLog, live_checkpoints

_FOLDER = re.compile(r"checkpoints/[0-9]{10}-([0-9]+)")


def whole_uncommitted(store: Store, entries: Iterable[Entry], attempt: int) -> list[str]:
    """Folders of `attempt` that have a manifest and are not named in the log yet, by step."""
    known = {entry.facts["path"] for entry in entries if entry.kind.startswith("checkpoint ")}
    names = (info.key.split("/") for info in store.list("checkpoints/"))
    paths = sorted({"/".join(parts[:2]) for parts in names if parts[-1] == "manifest.json"})
    return [path for path in paths if path.endswith(f"-{attempt}") and path not in known]


def commit(store: Store, log: RunLog, path: str) -> Entry:
    """Make the checkpoint at `path` real. Checks cover and file sizes first. Fenced when another driver leads."""
    data = store.get(f"{path}/manifest.json")
    manifest = Manifest.from_bytes(data, path)
    manifest.check_cover()
    for name, facts in manifest.files.items():
        info = store.head(f"{path}/{name}")
        if info is None or info.size != facts["bytes"]:
            raise DamagedCheckpoint(
                f"{path}/{name}: {info.size if info else 'no'} bytes in the store, {facts['bytes']} were written"
            )
    return log.append(
        "checkpoint committed",
        path=path,
        step=manifest.step,
        position=manifest.position,
        bytes=manifest.bytes,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def prune(store: Store, log: RunLog, keep: int) -> list[str]:
    """Delete all but the newest `keep` committed checkpoints; their paths. The log says so BEFORE the bytes go."""
    old = live_checkpoints(log.entries)[:-keep]
    for entry in old:
        log.append(
            "checkpoint deleted", path=entry.facts["path"], step=entry.facts["step"], why=f"keep: {keep}"
        )
        remove(store, entry.facts["path"])
    return [entry.facts["path"] for entry in old]


def collect_orphans(store: Store, entries: Sequence[Entry], below: int) -> list[str]:
    """Delete folders of attempts before `below` that the log does not hold as live: torn saves and half-done deletes.

    What those attempts had begun to write and not completed goes too, where the store lets us see it.
    """
    keep = {
        entry.facts["path"] for entry in entries if entry.kind == "checkpoint damaged"
    }  # for somebody to look at
    keep |= {entry.facts["path"] for entry in live_checkpoints(entries)}
    paths = {"/".join(info.key.split("/")[:2]) for info in store.list("checkpoints/")}

    def dead(path: str) -> bool:
        return (match := _FOLDER.fullmatch(path)) is not None and int(match[1]) < below

    orphans = sorted(path for path in paths - keep if dead(path))
    for path in orphans:
        remove(store, path)
    with suppress(StoreError):  # may need a right that a run does not need otherwise
        store.sweep("checkpoints", 0.0, dead)
    return orphans


def collect_starts(store: Store, kept: str | None) -> list[str]:
    """Delete copies of first weights other than the run's own: left by a start that was killed before there was a run."""
    paths = {"/".join(info.key.split("/")[:2]) for info in store.list("init/")}
    orphans = sorted(paths - {kept})
    for path in orphans:
        remove(store, path)
    return orphans


def remove(store: Store, path: str) -> None:
    """Delete a checkpoint's objects, the manifest first so that no reader takes the rest for whole."""
    store.delete(f"{path}/manifest.json")
    for info in list(store.list(f"{path}/")):
        store.delete(info.key)
