"""The loop in the driver: observe, decide, run an attempt, keep its books, until the run is done or must leave.

It writes the run's log, and nothing is real before it stands there. It never touches tensors and never imports training/: what
workers do it sees in the bucket (manifests, progress), what it wants from them it writes there (control).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from orchestrator.checkpoints.keeping import collect_orphans, collect_starts
from orchestrator.errors import DONE, RESUMABLE
from orchestrator.frozen import Frozen
from orchestrator.leading import endings
from orchestrator.leading.growing import Growing
from orchestrator.leading.lead import Lead
from orchestrator.leading.memory import Memory
from orchestrator.leading.pace import Pace
from orchestrator.leading.policy import (
    Decision,
    Done,
    GiveUp,
    Leave,
    Observed,
    Outcome,
    Start,
    Wait,
    decide,
    hurts,
)
from orchestrator.leading.ports import Gauges, Machines
from orchestrator.leading.tending import Tending
from orchestrator.redact import first_line, redact
from orchestrator.run_log import Entry, RunLog, left_out, live_checkpoints, standing
from orchestrator.run_store import Run
from orchestrator.spec import Spec

POLL_S, WAIT_EVERY_S = 0.2, 1.0
LAST_LOOKS = 5


class Supervisor:
    """Leads one run."""

    def __init__(
        self,
        run: Run,
        frozen: Frozen,
        log: RunLog,
        machines: Machines,
        say: Callable[[str], None] = lambda _: None,
        gauges: Gauges | None = None,
    ) -> None:
        self._lead = Lead(run, frozen, log, machines, say, gauges)
        self._pace = Pace(log.entries)
        self._growing = Growing(self._lead, self._pace)
        self.memory = Memory()

    @property
    def leaving(self) -> str | None:
        """Why the run is to stop; set by a signal, or a stop request."""
        return self._lead.leaving

    @leaving.setter
    def leaving(self, why: str) -> None:
        self._lead.leaving = why

    def set_resources(self, spec: Spec) -> None:
        """Go on with the resources of `spec`, and log them."""
        self._lead.set_resources(spec)

    def lead(self) -> int:
        """Run attempts until the run ends or must leave; the exit code. Fenced when another driver takes over."""
        try:
            self._dismiss()
            return self._decide()
        finally:
            self._lead.machines.release()  # no worker goes on without a driver

    def _decide(self) -> int:
        while True:
            self._back_off()
            decision = decide(self._observe())
            match decision:
                case Start():
                    self._attempt(decision)
                case Wait():
                    self._wait(decision.why)
                case _:
                    return self._end(decision)

    def _dismiss(self) -> None:
        """Keep what the attempt of the driver before this one saved whole, and tell its workers to leave, should they live."""
        began = self._lead.log.last("attempt started", "attempt ended")
        if began and began.kind == "attempt started":
            self._lead.commit(began)
            self._lead.keep_compile_cache(began)
            self._lead.control(began, leave="the run was taken over")

    # -- between attempts -----------------------------------------------------------------------------------------------
    def _observe(self) -> Observed:
        lead, memory = self._lead, self.memory
        self._listen()
        entries = lead.log.entries
        return replace(
            lead.sizes(),
            last=Outcome("finished") if lead.log.last("finished") else memory.last,
            before=memory.before,
            budget=memory.budget(lead.frozen.spec.recovery, entries),
            waited_s=time.time() - memory.waiting_since if memory.waiting_since else 0.0,
            leaving=lead.leaving,
            bereft=lead.log.last("checkpoint committed") is not None and not live_checkpoints(entries),
        )

    def _listen(self) -> None:
        """What was announced and asked while no attempt works: machines that go are drained, nothing else is owed to them."""
        self._lead.hear()
        self._lead.write_notices()
        for request in self._lead.requests.take():
            self._lead.obey(request)

    def _wait(self, why: str) -> None:
        self.memory.waiting_since = self.memory.waiting_since or time.time()
        if standing(self._lead.log.entries) != "waiting":
            self._lead.log.append("waiting", why=why)
            self._lead.say(f"waiting for machines: {why}")
        self._growing.look()
        time.sleep(WAIT_EVERY_S)

    def _end(self, decision: Decision) -> int:
        lead = self._lead
        self._growing.withdraw()
        if not isinstance(decision, GiveUp):
            entries = lead.log.entries
            collect_orphans(lead.run.store, entries, below=len(entries))
            collect_starts(lead.run.store, lead.frozen.init.path if lead.frozen.init else None)
        match decision:
            case Done():
                if lead.log.last("finished") is None:
                    lead.log.append("finished", step=lead.frozen.steps)
                lead.say("finished")
                return DONE
            case Leave(why):
                lead.log.append("stopped", why=why)
                lead.say(f"stopped, resumable: {why}")
                return RESUMABLE
            case GiveUp(why, code):
                lead.log.append("gave up", why=redact(why)[:4000])
                lead.say(f"gave up: {why}")
                return code
        raise AssertionError(decision)

    # -- an attempt -----------------------------------------------------------------------------------------------------
    def _attempt(self, start: Start) -> None:
        lead = self._lead
        live = live_checkpoints(lead.log.entries)
        origin = live[-1] if live else None
        place = {"path": origin.facts["path"], "sha256": origin.facts["sha256"]} if origin else None
        began = lead.log.append(
            "attempt started",
            world=start.world,
            why=start.why,
            checkpoint=place,
            step=origin.facts["step"] if origin else 0,
        )
        number = sum(entry.kind == "attempt started" for entry in lead.log.entries)
        lead.say(f"attempt {number}: {start.world} workers from step {began.facts['step']} ({start.why})")
        outcome = self._work(began, self._config(began))
        if outcome.kind == "diverged":
            lead.log.append(
                "batch left out", batch=outcome.batch, step=outcome.step, why=redact(outcome.cause)[:4000]
            )
            lead.say(f"batch {outcome.batch} is left out from now on")
        lead.log.append(
            "attempt ended",
            attempt=began.n,
            outcome=outcome.kind,
            cause=redact(outcome.cause)[:4000],
            step=outcome.step,
        )
        cause = f": {first_line(outcome.cause)}" if outcome.cause else ""
        lead.say(f"attempt {number} {outcome.kind} at step {outcome.step}{cause}")
        self._charge(outcome, place, gained=outcome.step > began.facts["step"])
        lead.show(began)

    def _config(self, began: Entry) -> dict[str, Any]:
        """What the workers of an attempt are told."""
        lead = self._lead
        return {
            "run": lead.run.url,
            "attempt": began.n,
            "frozen": lead.frozen.to_yaml(),
            "checkpoint": began.facts["checkpoint"],
            "left_out": sorted(set(left_out(lead.log.entries))),
            "loss_every_s": self._pace.loss_every_s(),
            "compile_cache": lead.compile_cache(),
        }

    def _work(self, began: Entry, config: dict[str, Any]) -> Outcome:
        """Run an attempt to its end, and keep what it saved."""
        lead = self._lead
        nodes = lead.machines.nodes()
        work = lead.machines.attempt(
            f"{lead.run.name}-{began.n}", began.facts["world"], lead.frozen.spec.workers, config
        )
        tending = Tending(lead, work, began, self._pace, self._growing)
        work.start()
        outcome = tending.tend()
        self._pace.attempt_over()
        self._commit(began, tending.committed)
        lead.keep_compile_cache(began)
        outcome = endings.name(outcome, began, lead.run, lead.machines, work.nodes() or nodes, tending.why)
        return self._require_last(outcome, began)

    def _commit(self, began: Entry, before: int = 0) -> None:
        if len(self._lead.commit(began)) + before:
            self.memory.refill()

    def _back_off(self) -> None:
        """After several setbacks in a row without a new checkpoint, each start waits twice as long as the one before."""
        until = time.monotonic() + self.memory.take_back_off_s()
        while time.monotonic() < until and not self.leaving:
            self._lead.hear()
            time.sleep(POLL_S)

    def _require_last(self, outcome: Outcome, began: Entry) -> Outcome:
        """A run has finished when its last step is committed; a store's list may show it a moment late."""
        for _ in range(LAST_LOOKS):
            live = live_checkpoints(self._lead.log.entries)
            if outcome.kind != "finished" or (live and live[-1].facts["step"] >= self._lead.frozen.steps):
                return outcome
            time.sleep(WAIT_EVERY_S)
            self._commit(began)
        return replace(
            outcome,
            kind="failed",
            cause="the workers finished, but their last checkpoint is not in the store",
        )

    def _charge(self, outcome: Outcome, place: dict[str, Any] | None, *, gained: bool) -> None:
        self.memory.charge(outcome, gained=gained)
        if hurts(outcome.kind, outcome.cause):
            self._growing.hurt()
        if outcome.kind == "damaged" and place:
            self._lead.log.append("checkpoint damaged", path=place["path"], why=outcome.cause)
