"""Growth while an attempt works: what room there is and for how long, whether to use it, and asking for more of it.

The rule itself is pure and lies in growth.py. A growth is an order to leave with the cause `resize: ...`, which the log keeps with the
attempt's end. A refusal is said once, until its reason changes.
"""

from __future__ import annotations

import time

from data_pipeline.order import useful_world
from orchestrator.leading import growth
from orchestrator.leading.lead import Lead
from orchestrator.leading.pace import Pace
from orchestrator.run_log import Entry

ASK_EVERY_S = 30.0


class Growing:
    """One driver's eye on the room of its cluster."""

    def __init__(self, lead: Lead, pace: Pace) -> None:
        self._lead, self._pace = lead, pace
        self._room = growth.Room()
        self._steady = 0
        self._grown_at: float | None = None
        self._lost_since = False
        self._refused = ""
        self._asked: tuple[int, float] | None = None

    def look(self) -> None:
        """Note the room there is now, and ask for what is missing."""
        sizes, now = self._lead.sizes(), time.monotonic()
        self._steady = self._room.look(min(sizes.available, sizes.maximum), now)
        wanted = useful_world(sizes.maximum, sizes.slots)
        if sizes.available < wanted:
            self._ask(wanted, now)

    def _ask(self, count: int, now: float) -> None:
        if self._asked and self._asked[0] == count and now - self._asked[1] < ASK_EVERY_S:
            return
        self._lead.machines.ask_for(count, self._lead.frozen.spec.workers)
        self._asked = count, now

    def withdraw(self) -> None:
        """Ask for nothing any more."""
        if self._asked:
            self._lead.machines.ask_for(0, self._lead.frozen.spec.workers)
            self._asked = None

    def hurt(self) -> None:
        """An attempt was lost."""
        self._lost_since = True

    def at_checkpoint(self, began: Entry, step: int) -> str | None:
        """Why to leave and grow, now that `step` is committed; None to go on."""
        lead = self._lead
        train = lead.frozen.spec.train
        progress = lead.run.read_json(f"progress/{began.n}.json") or {}
        verdict = growth.consider(
            growth.Seen(
                world=began.facts["world"],
                room=self._steady,
                slots=train.micro_batches,
                step_s=self._pace.step_s(progress, train.global_batch),
                steps_left=lead.frozen.steps - step,
                restart_s=self._pace.restart_s,
                loss_every_s=self._pace.loss_every_s(),
                since_growth_s=None if self._grown_at is None else time.monotonic() - self._grown_at,
                lost_since=self._lost_since,
            )
        )
        if verdict.world is None:
            self._refuse(verdict.why)
            return None
        self._grown_at, self._lost_since, self._refused = time.monotonic(), False, ""
        return verdict.why

    def _refuse(self, why: str) -> None:
        if why and why != self._refused:
            self._lead.say(f"not growing {why}")
        self._refused = why
