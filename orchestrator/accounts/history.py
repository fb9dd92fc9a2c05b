"""The committed history of a run: one line per step, whatever attempts it took.

Each attempt begins at the step of the checkpoint it starts from; what earlier attempts noted beyond that step
is not part of the history. Slots of a step come from all ranks; their digests in slot order make the step's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orchestrator.digests import combine
from orchestrator.run_log import Entry


@dataclass
class StepLine:
    """What all ranks noted of one step. `ids` only where the spec asks for them."""

    step: int
    attempt: int
    slots: dict[int, str] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Which batch of the order it trained on: its items are those from batch * B on. Runs that leave none out need not say."""
        return int(self.facts.get("batch", self.step - 1))

    @cached_property
    def id_digest(self) -> str:
        """Of the sample ids that were delivered, slot by slot."""
        return combine(self.slots[slot] for slot in sorted(self.slots))

    def as_json(self) -> dict[str, Any]:
        """step, batch, loss (all digits), world_size, id_digest and what else rank 0 noted."""
        keys = ("loss", "world_size", "position", "lr", "norm")
        return {
            "step": self.step,
            "batch": self.batch,
            **{key: self.facts.get(key) for key in keys},
            "id_digest": self.id_digest,
            "attempt": self.attempt,
        }


def committed(entries: Sequence[Entry], events: Iterable[dict[str, Any]]) -> list[StepLine]:
    """Steps 1..the newest committed one, in order."""
    damaged = {entry.facts["path"] for entry in entries if entry.kind == "checkpoint damaged"}
    whole = [
        entry
        for entry in entries
        if entry.kind == "checkpoint committed" and entry.facts["path"] not in damaged
    ]
    newest = max((entry.facts["step"] for entry in whole), default=0)
    return [line for line in lineage(entries, events) if line.step <= newest]


def lineage(entries: Sequence[Entry], events: Iterable[dict[str, Any]]) -> list[StepLine]:
    """All steps that lead to where the run is now, committed or not, in order."""
    noted: dict[int, dict[int, StepLine]] = defaultdict(dict)
    for event in events:
        if event["kind"] == "step":
            _add(noted[event["attempt"]], event)
    lines: dict[int, StepLine] = {}
    for entry in entries:
        if entry.kind == "attempt started":
            begin = entry.facts["step"]
            lines = {step: line for step, line in lines.items() if step <= begin}
            lines |= {step: line for step, line in noted[entry.n].items() if step > begin}
    return [lines[step] for step in sorted(lines)]


def left_out(lines: Sequence[StepLine]) -> list[int]:
    """The batches before the newest of `lines` that none of them trained on, in order."""
    trained = {line.batch for line in lines}
    return [batch for batch in range(max(trained, default=0)) if batch not in trained]


def batch_of(step: int, lines: Sequence[StepLine], left_out: Collection[int]) -> int:
    """The batch that `step` trained on, by the `lines` of the run; beyond them the one it will, if just `left_out` are left out.

    A batch that a step of `lines` trained on stays trained on, though it was left out later.
    """
    before = [line for line in lines if line.step <= step]
    number, steps = (before[-1].batch, step - before[-1].step) if before else (-1, step)
    while steps:
        number += 1
        steps -= number not in left_out
    return number


def epochs(lines: Sequence[StepLine], batch: int, samples: int) -> list[dict[str, Any]]:
    """epoch, steps and id_digest of each epoch that `lines` hold to its end, for global batches of `batch` items.

    A step belongs to the epoch of its first item, `batch number * batch // samples`, also where its last items are of the next one; so
    the rule rests on the order alone, and two runs of one order compare epoch by epoch. The digest is over the steps' digests in order.
    """
    found: dict[int, list[str]] = defaultdict(list)
    for line in lines:
        found[line.batch * batch // samples].append(line.id_digest)
    over = (lines[-1].batch + 1) * batch // samples if lines else 0
    return [
        {"epoch": epoch, "steps": len(digests), "id_digest": combine(digests)}
        for epoch, digests in sorted(found.items())
        if epoch < over
    ]


def compare(one: Sequence[StepLine], other: Sequence[StepLine]) -> dict[str, Any]:
    """Whether two runs trained on the same samples, by the steps that both have: steps_compared, alike, and the first step that differs."""
    pairs = list(zip(one, other, strict=False))
    differs = next((a.step for a, b in pairs if a.id_digest != b.id_digest), None)
    return {"steps_compared": len(pairs), "alike": differs is None, "first_difference": differs}


def _add(lines: dict[int, StepLine], event: dict[str, Any]) -> None:
    line = lines.setdefault(event["step"], StepLine(event["step"], event["attempt"]))
    line.slots |= {int(slot): digest for slot, digest in event["slots"].items()}
    line.ids |= {int(slot): ids for slot, ids in event.get("ids", {}).items()}
    if "loss" in event:
        line.facts = event
    elif "batch" in event:  # rank 0's notes may come later
        line.facts.setdefault("batch", event["batch"])


def chain(lines: Iterable[StepLine]) -> str:
    """The digest of all sample ids of `lines`, step by step."""
    return combine(line.id_digest for line in lines)
