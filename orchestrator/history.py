"""The committed history of a run: one line per step, whatever attempts it took.

Each attempt begins at the step of the checkpoint it starts from; what earlier attempts noted beyond that step
is not part of the history. Slots of a step come from all ranks; their digests in slot order make the step's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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

    def as_json(self) -> dict[str, Any]:
        """step, batch, loss (all digits), world_size, id_digest and what else rank 0 noted."""
        keys = ("loss", "world_size", "position", "lr", "norm")
        return {
            "step": self.step,
            "batch": self.batch,
            **{key: self.facts.get(key) for key in keys},
            "id_digest": combine(self.slots[slot] for slot in sorted(self.slots)),
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


def _add(lines: dict[int, StepLine], event: dict[str, Any]) -> None:
    line = lines.setdefault(event["step"], StepLine(event["step"], event["attempt"]))
    line.slots |= {int(slot): digest for slot, digest in event["slots"].items()}
    line.ids |= {int(slot): ids for slot, ids in event.get("ids", {}).items()}
    if "loss" in event:
        line.facts = event


def chain(lines: Iterable[StepLine]) -> str:
    """The digest of all sample ids of `lines`, step by step."""
    return combine(str(line.as_json()["id_digest"]) for line in lines)
