"""What a run is doing and has done, read from the bucket alone: no cluster, no torch, from any machine with the credentials."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import mixer_model
from mixer_model.config import config as mixer_config
from orchestrator.accounts import history, ledger, loading, waterfall
from orchestrator.frozen import Frozen
from orchestrator.run_log import Entry, left_out, live_checkpoints, standing
from orchestrator.run_store import Run, effective
from orchestrator.training.events import read_events

STATES = {"stopped": "stopped", "gave up": "failed", "finished": "finished", "submitted": "submitted"}


@dataclass
class Book:
    """Everything written about a run, read once."""

    run: Run

    @cached_property
    def entries(self) -> list[Entry]:
        return self.run.log().entries

    @cached_property
    def frozen(self) -> Frozen:
        return effective(self.run.frozen(), self.entries)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return list(read_events(self.run.store))

    @cached_property
    def ledger(self) -> ledger.Ledger:
        return ledger.build(self.entries, self.events, time.time(), abandoned=self.state() == "abandoned")

    @cached_property
    def waterfall(self) -> list[dict[str, Any]]:
        return waterfall.attempts(self.entries, self.events, self.ledger)

    @cached_property
    def history(self) -> list[history.StepLine]:
        return history.committed(self.entries, self.events)

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """The whole epochs of the committed history, each with the digest of its sample ids."""
        return history.epochs(self.history, self.frozen.spec.train.global_batch, self.frozen.geometry.samples)

    @cached_property
    def loader(self) -> dict[str, float] | None:
        """What the loaders of the newest attempt have done, and the seconds that its steps waited for them."""
        found = loading.figures(self.events, self.attempt.n) if self.attempt else None
        return found and {**found, "data_wait_s": self.waterfall[-1]["ledger"].get("data wait", 0.0)}

    @property
    def attempt(self) -> Entry | None:
        """The newest attempt."""
        return next((entry for entry in reversed(self.entries) if entry.kind == "attempt started"), None)

    @cached_property
    def progress(self) -> dict[str, Any]:
        """What rank 0 of the newest attempt said last."""
        return (self.run.read_json(f"progress/{self.attempt.n}.json") or {}) if self.attempt else {}

    def state(self) -> str:
        """submitted (its job has not begun), running, waiting, starting, abandoned (no driver alive), stopped, failed, finished."""
        last = standing(self.entries)
        if last in STATES:
            return STATES[last]
        holder = self.run.holder()
        if holder is None or not holder.alive(time.time()):
            return "abandoned"
        return {"waiting": "waiting"}.get(last, "running" if self.attempt else "starting")

    def images_per_s(self) -> float | None:
        """Images per second of wall time inside steps, median over the newest 50 steps."""
        steps = [event for event in self.events if event["kind"] == "step" and event["rank"] == 0][-50:]
        seconds = [event["t"] - event["start"] for event in steps]
        return self.frozen.spec.train.global_batch / statistics.median(seconds) if seconds else None

    def status(self) -> dict[str, Any]:
        """The contract's object of `mixer status --json`."""
        saved = live_checkpoints(self.entries)
        steps = [event for event in self.events if event["kind"] == "step" and event["rank"] == 0]
        newest = steps[-1] if steps else {}
        step = max(int(self.progress.get("step", 0)), self.history[-1].step if self.history else 0)
        bad = sum(event["kind"] == "bad sample" for event in self.events)
        return {
            "run": self.run.name,
            "state": self.state(),
            "step": step,
            "steps": self.frozen.steps,
            "samples_seen": step * self.frozen.spec.train.global_batch,
            "world_size": self.attempt.facts["world"] if self.attempt else None,
            "attempt": self.attempt.n if self.attempt else None,
            "attempts": self.waterfall,
            "last_checkpoint": saved[-1].facts["path"] if saved else None,
            "loss": self.progress.get("loss", newest.get("loss")),
            "images_per_s": self.images_per_s(),
            "mfu": self.mfu(),
            "goodput": self.ledger.goodput,
            "wall_s": self.ledger.wall_s,
            "ledger": self.ledger.seconds,
            "loader": self.loader,
            "id_digest": history.chain(self.history),
            "epochs": self.epochs,
            "evaluation": self.progress.get("evaluation"),
            "bad_samples": bad,
            "left_out": list(left_out(self.entries)),
            "notices": sum(entry.kind == "notice" for entry in self.entries),
            "fingerprint": self.frozen.fingerprint,
            "init": asdict(self.frozen.init) if self.frozen.init else None,
        }

    def mfu(self) -> float | None:
        """Model FLOPs per second over the devices' peak; None where the peak is not known (CPUs)."""
        peak = next((event.get("peak_flops") for event in self.events if event["kind"] == "device"), None)
        rate = self.images_per_s()
        if not peak or not rate or not self.attempt:
            return None
        spec = self.frozen.spec.model
        flops = mixer_model.cost(mixer_config(spec.preset, **spec.overrides())).flops_train
        return float(rate * flops / (peak * self.attempt.facts["world"]))


def same_epochs(one: Book, other: Book) -> dict[str, list[int]]:
    """The epochs that both runs have to their end, by whether their sample digests are alike."""
    theirs = {each["epoch"]: each for each in other.epochs}
    both = [each for each in one.epochs if each["epoch"] in theirs]
    alike = [each["epoch"] for each in both if each == theirs[each["epoch"]]]
    return {"epochs_alike": alike, "epochs_differing": [e["epoch"] for e in both if e["epoch"] not in alike]}
