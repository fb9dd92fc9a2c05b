"""Workers with batches that give bad numbers, and with slow micro-batches, evaluations and uploads, so that an order meets them there.

What to do comes in the environment (`trouble`), since a gang's ranks are processes of their own. Nothing of the product's part is replaced:
the loss of a poisoned batch goes through the real backward, collectives and judgement.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from data_pipeline.storage import Bytes, Store
from orchestrator.run_store import Run
from orchestrator.training import engine, worker

_TROUBLE = "MIXER_TEST_TROUBLE"
Losses = Any


def trouble(**what: Any) -> dict[str, str]:
    """The environment of troubled workers.

    poison: {batch: "nan", "gradient" (it overflows, the loss does not), "loss" (30 times) or "norm" (a million times)}.
    micro_s, evaluation_s, upload_s: seconds longer for each micro-batch, evaluation batch, file of a checkpoint; held: that only begins to
    count when the attempt has been given an order.
    """
    return {_TROUBLE: json.dumps(what)}


def main(config: dict[str, Any]) -> str:
    """The main of a rank: the product's, and what the environment asks for."""
    what = json.loads(os.environ.get(_TROUBLE, "{}"))
    _arm(engine.Engine, what.get("poison", {}), what.get("micro_s", 0), what.get("evaluation_s", 0), config)
    if seconds := what.get("upload_s"):
        _slow_uploads(seconds, f"control/{config['attempt']}.json" if what.get("held") else None)
    return worker.main(config)


def _arm(
    kind: type[engine.Engine], poison: dict[str, str], micro_s: float, evaluation_s: float, config: Any
) -> None:
    forward_backward, logits = kind.forward_backward, kind.logits

    def troubled(self: engine.Engine, images: Any, labels: Any, item: int, *, real: bool) -> torch.Tensor:
        if item % self.spec.train.global_batch == 0:  # the first micro-batch of a step
            _mark(config, "computing")
        time.sleep(micro_s)
        how, plain = poison.get(str(item // self.spec.train.global_batch)), self.losses
        self.losses = partial(_poisoned, plain, how) if how else plain
        try:
            return forward_backward(self, images, labels, item, real=real)
        finally:
            self.losses = plain

    def slow_logits(self: engine.Engine, images: torch.Tensor) -> torch.Tensor:
        _mark(config, "evaluating")
        time.sleep(evaluation_s)
        return logits(self, images)

    vars_of: Any = kind
    vars_of.forward_backward, vars_of.logits = troubled, slow_logits


def _poisoned(losses: Losses, how: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = losses(logits, labels)
    if how in ("nan", "loss"):
        return found * {"nan": float("nan"), "loss": 30.0}[how]
    times = {"gradient": 1e38, "norm": 1e3}[how]
    return found + (found - found.detach()) * times * times  # the value is the same


def _mark(config: dict[str, Any], what: str) -> None:
    """Let the test see that rank 0 is there."""
    if os.environ["RANK"] == "0":
        Run(config["run"]).write_json(f"test/{what}-{config['attempt']}.json", {"since": time.time()})


def _slow_uploads(seconds: float, order: str | None) -> None:

    class SlowRun(Run):
        def __init__(self, url: str, **options: Any) -> None:
            super().__init__(url, **options)
            self.store: Any = _SlowStore(self.store, seconds, order)

    vars(worker)["Run"] = SlowRun


class _SlowStore:
    """A store that takes `seconds` longer for the file of a checkpoint, counted from when `order` is there."""

    def __init__(self, store: Store, seconds: float, order: str | None) -> None:
        self._store, self._seconds, self._order = store, seconds, order

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_stream(self, key: str, size: int, chunks: Iterator[Bytes]) -> None:
        while self._order and self._store.head(self._order) is None:
            time.sleep(0.05)
        time.sleep(self._seconds)
        self._store.put_stream(key, size, chunks)
