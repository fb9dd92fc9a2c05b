"""Saving without stopping: copy this rank's fragments to host memory, then write them behind the step.

save(): copy into the one buffer that all saves share (the only part a step waits for). Behind it, in a thread: one safetensors file,
streamed from the buffer with checksums made on the way -> this rank's events -> this rank's receipt; rank 0 then waits for all
receipts and writes the manifest. What was written the node's memory gets too (orchestrator/near). A save that finds the one before
it still on its way waits for it, and notes "save waited": the buffer is one. No collective here: ranks meet in the bucket. The
driver's log entry makes the checkpoint real (orchestrator/checkpoints).
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import google_crc32c

from data_pipeline.storage import Bytes, Store, StoreError
from orchestrator import tensor_file
from orchestrator.checkpoints.manifest import KINDS, Manifest, Slice, folder, rank_file, receipt
from orchestrator.errors import MixerError
from orchestrator.near.client import Near
from orchestrator.redact import redact
from orchestrator.training.events import Events
from orchestrator.training.fragments import Fragment
from orchestrator.training.host_memory import Copied, HostMemory

SLICE_ELEMENTS = 1 << 20  # 4 MB: the unit that a checksum covers and that a reader fetches
RECEIPT_TIMEOUT_S = 1800.0


class ReceiptMissing(MixerError):
    """A rank has not written its part of a save."""


class Saver:
    """The saves of one rank of one attempt, one at a time."""

    def __init__(
        self,
        store: Store,
        events: Events,
        *,
        attempt: int,
        rank: int,
        world: int,
        shapes: dict[str, list[int]],
        kinds: Sequence[str] = KINDS,
        near: Near | None = None,
    ) -> None:
        self._store, self._events, self._shapes, self._kinds = store, events, shapes, kinds
        self._near = near or Near(None)
        self._attempt, self._rank, self._world = attempt, rank, world
        self._memory = HostMemory()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.last_step: int | None = None
        self.upload_s = 0.0  # from the copy until the newest whole save was whole

    def prepare(self, owned: list[Fragment]) -> None:
        """Begin to make the buffer for saves of `owned`, behind whatever is done next. Without it the first save makes it."""
        self._memory.prepare(owned)

    def save(self, owned: list[Fragment], *, step: int, position: int, state: dict[str, Any]) -> None:
        """Copy `owned` and return; the rest happens behind. Waits for the save before, and notes its error."""
        self._wait_for_last(step)
        with self._events.span("copy"):
            copies = self._memory.copy(owned)
        self.last_step = step
        self._thread = threading.Thread(
            target=self._run, args=(copies, step, position, state), name=f"save-{step}", daemon=True
        )
        self._thread.start()

    def _wait_for_last(self, step: int) -> None:
        behind, began = self._thread is not None and self._thread.is_alive(), time.monotonic()
        try:
            self.wait()
        except (StoreError, ReceiptMissing) as error:
            # The state in memory is whole: what counts is that this save succeeds.
            self._events.note("save failed", step=self.last_step, error=redact(str(error))[:500])
        if behind:
            self._events.note(
                "save waited", step=step, behind=self.last_step, seconds=time.monotonic() - began
            )

    def wait(self) -> None:
        """Until this rank's save is written (on rank 0: until the manifest is). Raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, copies: list[Copied], step: int, position: int, state: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            with self._events.span("upload"):
                path = folder(step, self._attempt)
                self._events.note("saving", step=step)
                facts = self._write_file(path, list(_slices(copies)))
                self._events.flush()
                self._store.put(f"{path}/{receipt(self._rank)}", json.dumps(facts).encode())
                if self._rank == 0:
                    self._write_manifest(path, step, position, state)
            self._near.hold(path)
            self.upload_s = time.monotonic() - began
        except BaseException as error:
            self._error = error
            with suppress(StoreError):  # so that rank 0 does not wait for what will not come
                self._store.put(
                    f"{folder(step, self._attempt)}/{receipt(self._rank)}",
                    json.dumps({"failed": True}).encode(),
                )

    def _write_file(self, path: str, slices: list[Copied]) -> dict[str, Any]:
        name = rank_file(self._rank)
        header, offsets = _header(slices)
        size = len(header) + sum(values.nbytes for *_, values in slices)
        digest, crcs = hashlib.sha256(header), list[int]()
        self._near.begin(name, size)
        self._near.write(header)

        def chunks() -> Iterator[Bytes]:
            yield header
            for *_, values in slices:
                raw = values.view("u1")
                digest.update(raw.data)
                crcs.append(google_crc32c.value(raw))
                self._near.write(raw.data)
                yield raw.data

        self._store.put_stream(f"{path}/{name}", size, chunks())
        listed = [
            [param, kind, start, len(values), name, offset, crc]
            for (param, kind, start, values), offset, crc in zip(slices, offsets, crcs, strict=True)
        ]
        return {"name": name, "bytes": size, "sha256": digest.hexdigest(), "slices": listed}

    def _write_manifest(self, path: str, step: int, position: int, state: dict[str, Any]) -> None:
        receipts = [self._receipt(path, rank) for rank in range(self._world)]
        manifest = Manifest(
            step=step,
            position=position,
            attempt=self._attempt,
            params=self._shapes,
            files={facts["name"]: {"bytes": facts["bytes"], "sha256": facts["sha256"]} for facts in receipts},
            slices=[Slice(*item) for facts in receipts for item in facts["slices"]],
            state=state,
            kinds=self._kinds,
        )
        manifest.check_cover()
        self._store.put_if_absent(f"{path}/manifest.json", manifest.to_bytes())

    def _receipt(self, path: str, rank: int) -> dict[str, Any]:
        key, deadline, pause = f"{path}/{receipt(rank)}", time.monotonic() + RECEIPT_TIMEOUT_S, 0.02
        while self._store.head(key) is None:
            if time.monotonic() > deadline:
                raise ReceiptMissing(
                    f"{key} did not appear in {RECEIPT_TIMEOUT_S:.0f} s; its rank has not written its part"
                )
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)
        facts: dict[str, Any] = json.loads(self._store.get(key))
        if "failed" in facts:
            raise ReceiptMissing(f"rank {rank} could not write its part of {path}; its own notes say why")
        return facts


def _slices(copies: list[Copied]) -> Iterator[Copied]:
    """The copies, cut into slices of at most SLICE_ELEMENTS."""
    for param, kind, first, values in copies:
        for start in range(0, len(values), SLICE_ELEMENTS):
            yield param, kind, first + start, values[start : start + SLICE_ELEMENTS]


def _header(slices: list[Copied]) -> tuple[bytes, list[int]]:
    """The header of a rank's file, and where in it each slice's bytes begin."""
    return tensor_file.header(
        (f"{kind}/{param}/{start}", [len(values)], values.nbytes) for param, kind, start, values in slices
    )
