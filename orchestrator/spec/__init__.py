"""The spec of a run: what its keys are, what they mean and which values are allowed. A module for each of its larger parts.

`spec_text.py` makes a Spec of what a user wrote; `frozen.py` binds it to a data set and freezes it beside the run. Spec knows nothing
of buckets.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from orchestrator.spec.images import Augment, Cache, Data, RandAugment
from orchestrator.spec.living import Checkpoint, Evaluate, Events, Recovery, Spike, Workers
from orchestrator.spec.network import Model
from orchestrator.spec.section import Bytes, Interval, Section, Steps
from orchestrator.spec.training import Optimizer, Train

__all__ = [
    "Augment",
    "Bytes",
    "Cache",
    "Checkpoint",
    "Data",
    "Evaluate",
    "Events",
    "Interval",
    "Model",
    "Optimizer",
    "RandAugment",
    "Recovery",
    "Section",
    "Spec",
    "Spike",
    "Steps",
    "Train",
    "Workers",
]


class Spec(Section):
    """A run, as its user wants it."""

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?$", description="lower case, digits, `-` and `.`"
    )
    recipe: str | None = Field(
        None,
        description="values for all keys that are left out: [a published way to train](recipes.md), by its name in `mixer recipes`",
    )
    store: str | None = Field(None, description="s3://bucket/prefix or a folder; else --store or MIXER_STORE")
    model: Model
    data: Data
    train: Train
    checkpoint: Checkpoint = Checkpoint()
    workers: Workers
    recovery: Recovery = Recovery()
    evaluate: Evaluate = Evaluate()
    events: Events = Events()

    @model_validator(mode="after")
    def _fits(self) -> Spec:
        slots = self.train.micro_batches
        if self.workers.max > slots:
            raise ValueError(
                f"workers.max got {self.workers.max}; a step has {slots} micro-batches (global_batch / micro_batch), "
                f"so at most {slots} workers have work"
            )
        return self
