"""Rank 0's line to the driver, through the bucket: progress out, orders in. A thread of its own, once a second.

Out: `progress/<n>.json`, rewritten in place. In: `control/<n>.json`, written by the driver: {"leave": why, "deadline": Unix seconds or
null, "save": number}, each where there is such an order. An order only sets a flag; ranks agree on it in a collective.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import Any

from data_pipeline.storage import NotFound, Store, StoreError

EVERY_S = 1.0


def evaluated_by(store: Store, attempts: range, step: int) -> bool:
    """Whether one of `attempts` has told that it evaluated `step`."""
    for info in store.list("progress/"):
        number = int(info.key.removeprefix("progress/").removesuffix(".json"))
        if number in attempts and json.loads(store.get(info.key)).get("evaluation", {}).get("step") == step:
            return True
    return False


class Contact:
    """Progress out and orders in for attempt `attempt`."""

    def __init__(self, store: Store, attempt: int) -> None:
        self._store, self._attempt = store, attempt
        self._progress: dict[str, Any] = {}
        self._orders: dict[str, Any] = {}
        self._saved = 0
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="contact", daemon=True)
        with suppress(StoreError):  # what was ordered before is known before the first step
            self._read()
        self._thread.start()

    def tell(self, **facts: Any) -> None:
        """Change what the next progress object says."""
        with self._lock:
            self._progress |= facts

    @property
    def leave(self) -> bool:
        """Whether the driver wants this attempt to save and leave."""
        return "leave" in self._orders

    @property
    def deadline(self) -> float | None:
        """When a machine of this attempt goes, in Unix seconds, if that is why it should leave."""
        deadline = self._orders.get("deadline")
        return None if deadline is None else float(deadline)

    def take_save(self) -> bool:
        """Whether a save was asked for since the last call."""
        number = int(self._orders.get("save", 0))
        asked, self._saved = number > self._saved, number
        return asked

    def close(self, **facts: Any) -> None:
        """Say the last words and stop."""
        self.tell(**facts)
        self._done.set()
        self._thread.join(timeout=30)
        for _ in range(3):  # the supervisor tells stopped from finished by these words
            try:
                return self._write()
            except StoreError:
                continue
        return None

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                self._read()
                self._write()
            except StoreError:
                pass  # both are told again in a second; what must not be lost goes through events and checkpoints
            self._done.wait(EVERY_S)

    def _read(self) -> None:
        try:
            self._orders = json.loads(self._store.get(f"control/{self._attempt}.json"))
        except NotFound:
            return

    def _write(self) -> None:
        with self._lock:
            body = json.dumps({"attempt": self._attempt, **self._progress})
        self._store.put(f"progress/{self._attempt}.json", body.encode())
