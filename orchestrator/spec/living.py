"""How a run lives: when it saves, on how many workers, what may go wrong, when it evaluates. No part of its identity."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.durations import Duration
from orchestrator.spec.section import Interval, Section, Steps


class Checkpoint(Section):
    """When state is saved, and how many of the saved states stay."""

    every: Interval = Field(
        Duration(500, "steps"),
        description="steps, images, epochs or wall time (`10 min`); `auto`: as often as loses least, by what a save costs and how "
        "often work is lost",
    )
    keep: int = Field(3, ge=1, description="newest whole checkpoints that stay")
    async_: bool = Field(True, alias="async", description="upload behind the step; false waits for it")
    in_memory: bool = Field(
        True,
        description="the newest one also in the memory of the nodes, each rank's part on its own and on one other; where there is room",
    )


class Workers(Section):
    """How many processes train, and what each one takes."""

    min: int = Field(1, ge=1, description="fewer than this: wait")
    max: int = Field(ge=1, description="never more; at most global_batch / micro_batch")
    gpus: int = Field(0, ge=0, le=1, description="per worker")
    cpus: float = Field(1, gt=0, description="per worker")

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min got {self.min}, more than max {self.max}")
        return self


class Spike(Section):
    """When a step's loss or gradient norm is so far above the usual that its batch is left out."""

    loss: float | None = Field(3.0, gt=1, description="times the median of the window; null is off")
    norm: float | None = Field(10.0, gt=1, description="the gradient's norm, likewise")
    window: int = Field(50, ge=20, le=1000, description="newest steps the median is of; judged from 20 on")


class Recovery(Section):
    """What may go wrong before the run gives up. The budgets refill when a newer checkpoint is committed."""

    failures: int = Field(5, ge=0, description="errors of the code, in a row without a new checkpoint")
    preemptions: Annotated[int, Field(ge=0)] | Literal["unlimited"] = Field(
        "unlimited", description="machines lost"
    )
    wait: Steps = Field(Duration(60, "minutes"), description="longest wait for machines, wall time")
    spike: Spike | None = Field(None, description="off when left out: only what is not finite counts")
    left_out: int = Field(
        3, ge=0, description="batches with a loss or gradient that cannot be used, in the whole run"
    )
    stragglers: Literal["report", "replace"] = Field(
        "report",
        description="a node slower than the others: say so, or leave it too where there is room without it",
    )

    @model_validator(mode="after")
    def _wall(self) -> Recovery:
        if self.wait.seconds is None:
            raise ValueError(f"wait got {self.wait}; give wall time (`60 min`)")
        return self


class Evaluate(Section):
    """When the validation set is run through."""

    every: Steps | None = Field(
        None, description="steps, images or epochs; always at the end when data.val is given"
    )

    @model_validator(mode="after")
    def _countable(self) -> Evaluate:
        if self.every is not None and self.every.seconds is not None:
            raise ValueError(f"every got {self.every}; give steps, images or epochs")
        return self


class Events(Section):
    """What is written down besides what the ledger needs."""

    sample_ids: bool = Field(False, description="the ids of every sample of every step (8 bytes each)")
