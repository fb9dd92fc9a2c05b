"""An attempt at work, from its first poll to its end: books kept, orders given, notices heeded, growth considered.

Orders go to rank 0 through `control/<n>.json`. An attempt is told to leave for one reason at a time, the most urgent: the run is to
stop, a machine goes, another world size. What is told changes when a nearer deadline comes.
"""

from __future__ import annotations

import time
from typing import Any

from clusters.notices import Notice
from data_pipeline.storage import StoreError
from orchestrator.leading.growing import Growing
from orchestrator.leading.lead import Lead
from orchestrator.leading.pace import Pace
from orchestrator.leading.policy import RESIZE, Outcome, Start, decide
from orchestrator.leading.ports import Work
from orchestrator.leading.preemption import Preemption, answer
from orchestrator.run_log import Entry

POLL_S, LOOK_EVERY_S = 0.2, 1.0
HASTY_S, CHECK_EVERY_S = 10.0, 10.0


class Tending:
    """Tends one attempt."""

    def __init__(self, lead: Lead, work: Work, began: Entry, pace: Pace, growing: Growing) -> None:
        self._lead, self._work, self._began, self._pace, self._growing = lead, work, began, pace, growing
        self._preemption = Preemption()
        self._answered: set[str] = set()
        self._resize: str | None = None
        self._saves = 0
        self._told: dict[str, Any] = {}
        self._started = self._killed = self._mute = False
        self._next_check = 0.0
        self.committed = 0

    @property
    def why(self) -> str | None:
        """Why the attempt is to leave."""
        return self._lead.leaving or self._preemption.why or self._resize

    def tend(self) -> Outcome:
        """Until it ends; how, as the workers tell it. Meanwhile a store that is away is not waited for: other things are due."""
        store = self._lead.run.store
        patience, store.patience_s = store.patience_s, min(store.patience_s, HASTY_S)
        try:
            return self._tend()
        finally:
            store.patience_s = patience

    def _tend(self) -> Outcome:
        next_look = 0.0
        while (outcome := self._work.poll()) is None:
            self._heed()
            self._tell(self._order)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK_EVERY_S
                self._tell(self._look)
            self._work.wait(POLL_S)
        return outcome

    def _tell(self, what: Any) -> None:
        """Do what needs the store; while it does not answer the attempt goes on."""
        try:
            what()
            self._mute = False
        except StoreError as error:
            if not self._mute:
                self._lead.say(f"the store does not answer, trying on: {error}")
            self._mute = True

    # -- notices --------------------------------------------------------------------------------------------------------
    def _heed(self) -> None:
        """Answer what was announced. Ranks may come to a node that goes after its notice, so all that go are looked at."""
        new = self._lead.hear()
        if not self._started and self._work.started():
            self._started = True
            self._pace.first_step()
        nodes = self._work.nodes()
        for notice in new + [n for node, n in self._lead.going.items() if node not in self._answered]:
            match answer(notice, ours=notice.node in nodes, started=self._started):
                case "leave":
                    self._leave_by(notice)
                case "kill":
                    self._leave_by(notice)
                    self._kill()
                case "save":
                    self._saves += 1
        if self._preemption.overdue(time.time()):
            self._kill()

    def _leave_by(self, notice: Any) -> None:
        self._preemption.add(notice)
        self._answered.add(notice.node)

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._work.kill(self.why or "")

    # -- orders and books -----------------------------------------------------------------------------------------------
    def _order(self) -> None:
        """Tell the workers what they have not been told yet."""
        orders: dict[str, Any] = {"save": self._saves} if self._saves else {}
        if self.why:
            orders |= {"leave": self.why, "deadline": self._preemption.deadline}
        if orders != self._told:
            self._lead.control(self._began, **orders)
            self._told = orders
        self._lead.write_notices()

    def _look(self) -> None:
        """Once a second: what has been saved, what is asked, what room there is. Now and then: whether the run is still ours."""
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_EVERY_S
            self._lead.log.check()
        made = self._lead.commit(self._began)
        self.committed += len(made)
        for request in self._lead.requests.take():
            self._obey(request)
        self._growing.look()
        self._tell_the_slow()
        if made and not self.why:
            cause = self._growing.at_checkpoint(self._began, made[-1].facts["step"])
            self._resize = f"{RESIZE}: {cause}" if cause else None
        self._order()
        if made:
            self._lead.keep_compile_cache(self._began)
            self._lead.show(self._began)

    def _tell_the_slow(self) -> None:
        """A node that is slower than the others is told of; with `recovery.stragglers: replace`, and room elsewhere, it is left."""
        lead = self._lead
        for node, why in self._work.slow().items():
            lead.log.append("straggler", node=node, why=why)
            lead.say(f"node {node[:12]} is slow: {why}")
            if self._spare(node) and not self.why:
                lead.machines.drain(Notice(node, None, "slow", "mixer"))
                self._resize = f"{RESIZE}: node {node[:12]} is slow, there is room without it"

    def _spare(self, node: str) -> bool:
        """Whether a slow node is to be left, and its ranks have another place."""
        spec = self._lead.frozen.spec
        room = self._lead.machines.available(spec.workers, without=node)
        return spec.recovery.stragglers == "replace" and room >= self._began.facts["world"]

    def _obey(self, request: dict[str, Any]) -> None:
        self._lead.obey(request)
        if request["kind"] == "save":
            self._saves += 1
        elif request["kind"] == "scale":
            self._scaled()

    def _scaled(self) -> None:
        """A person has changed the bounds: what follows from them is done at once, whether it pays or not."""
        workers, world = self._lead.frozen.spec.workers, self._began.facts["world"]
        decision = decide(self._lead.sizes())
        if not workers.min <= world <= workers.max:
            self._resize = f"{RESIZE}: workers {workers.min}..{workers.max}"
        elif isinstance(decision, Start) and decision.world != world:
            self._resize = f"{RESIZE}: {world} -> {decision.world} workers"
