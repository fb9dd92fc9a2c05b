"""The loop in the driver: observe, decide, run an attempt, keep its books, until the run is done or must leave.

It writes the run's log, and nothing is real before it stands there. It never touches tensors and never imports training/: what
workers do it sees in the bucket (manifests, progress), what it wants from them it writes there (control).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from data_pipeline.storage import StoreError
from orchestrator import checkpoints
from orchestrator.errors import DONE, FAILED, RESUMABLE, DamagedCheckpoint
from orchestrator.frozen import Frozen
from orchestrator.policy import Budget, Decision, Done, GiveUp, Leave, Observed, Outcome, Start, Wait, decide
from orchestrator.run_log import Entry, RunLog, acknowledged, live_checkpoints
from orchestrator.run_store import Run
from orchestrator.spec import Spec, Workers

POLL_S, TEND_EVERY_S = 0.2, 1.0


class Work(Protocol):
    """What the supervisor needs of an attempt."""

    def start(self) -> None: ...
    def poll(self) -> Outcome | None: ...
    def wait(self, seconds: float) -> None: ...


class Machines(Protocol):
    """What the supervisor needs of a cluster."""

    def available(self, workers: Workers) -> int: ...
    def nodes(self) -> set[str]: ...
    def attempt(self, name: str, world: int, workers: Workers, config: dict[str, Any]) -> Work: ...


@dataclass
class Memory:
    """What one driver remembers between decisions. All that must survive it is in the log."""

    last: Outcome | None = None
    before: Outcome | None = None
    failures: int = 0
    losses: int = 0
    waiting_since: float | None = None
    saves_asked: int = 0
    seen_requests: set[str] = field(default_factory=set)


class Supervisor:
    """Leads one run."""

    def __init__(
        self,
        run: Run,
        frozen: Frozen,
        log: RunLog,
        machines: Machines,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.run, self.frozen, self.log, self.machines, self._say = run, frozen, log, machines, say
        self.memory = Memory(seen_requests=acknowledged(log.entries))
        self.leaving: str | None = None  # set by a signal, or a stop request
        self._resize: str | None = None

    def lead(self) -> int:
        """Run attempts until the run ends or must leave; the exit code. Fenced when another driver takes over."""
        while True:
            decision = decide(self._observe())
            match decision:
                case Start():
                    self._attempt(decision)
                case Wait():
                    self._wait(decision.why)
                case _:
                    return self._end(decision)

    # -- between attempts -----------------------------------------------------------------------------------------------
    def _observe(self) -> Observed:
        self._take_requests()
        memory = self.memory
        budget = self.frozen.spec.recovery.preemptions
        return replace(
            self._sizes(),
            last=Outcome("finished") if self.log.last("finished") else memory.last,
            before=memory.before,
            budget=Budget(
                memory.failures,
                self.frozen.spec.recovery.failures,
                memory.losses,
                None if budget == "unlimited" else int(budget),
            ),
            waited_s=time.time() - memory.waiting_since if memory.waiting_since else 0.0,
            leaving=self.leaving,
        )

    def _sizes(self) -> Observed:
        """The part of an observation that is about room only."""
        spec = self.frozen.spec
        return Observed(
            available=self.machines.available(spec.workers),
            minimum=spec.workers.min,
            maximum=spec.workers.max,
            slots=spec.train.micro_batches,
            wait_limit_s=spec.recovery.wait.seconds or 3600.0,
        )

    def _wait(self, why: str) -> None:
        if self.memory.waiting_since is None:
            self.memory.waiting_since = time.time()
            self.log.append("waiting", why=why)
            self._say(f"waiting for machines: {why}")
        time.sleep(TEND_EVERY_S)

    def _end(self, decision: Decision) -> int:
        match decision:
            case Done():
                if self.log.last("finished") is None:
                    self.log.append("finished", step=self.frozen.steps)
                self._say("finished")
                return DONE
            case Leave(why):
                self.log.append("stopped", why=why)
                self._say(f"stopped, resumable: {why}")
                return RESUMABLE
            case GiveUp(why):
                self.log.append("gave up", why=why[:4000])
                self._say(f"gave up: {why}")
                return FAILED
        raise AssertionError(decision)

    # -- an attempt -----------------------------------------------------------------------------------------------------
    def _attempt(self, start: Start) -> None:
        self.memory.waiting_since = None
        live = live_checkpoints(self.log.entries)
        origin = live[-1] if live else None
        place = {"path": origin.facts["path"], "sha256": origin.facts["sha256"]} if origin else None
        began = self.log.append(
            "attempt started",
            world=start.world,
            why=start.why,
            checkpoint=place,
            step=origin.facts["step"] if origin else 0,
        )
        checkpoints.collect_orphans(self.run.store, self.log.entries, below=began.n)
        self._say(f"attempt {began.n}: {start.world} workers from step {began.facts['step']} ({start.why})")
        nodes = self.machines.nodes()
        work = self.machines.attempt(
            f"{self.run.name}-{began.n}",
            start.world,
            self.frozen.spec.workers,
            {"run": self.run.url, "attempt": began.n, "frozen": self.frozen.to_yaml(), "checkpoint": place},
        )
        self._resize, self.memory.saves_asked = None, 0
        work.start()
        outcome = self._tend(work, began)
        self._commit(began)
        outcome = self._name(outcome, began, lost_nodes=nodes - self.machines.nodes())
        self.log.append(
            "attempt ended",
            attempt=began.n,
            outcome=outcome.kind,
            cause=outcome.cause[:4000],
            step=outcome.step,
        )
        self._say(
            f"attempt {began.n} {outcome.kind} at step {outcome.step} {outcome.cause.splitlines()[0] if outcome.cause else ''}"
        )
        self._charge(outcome, place)

    def _tend(self, work: Work, began: Entry) -> Outcome:
        """Keep the books of a working attempt until it ends."""
        told, next_look = False, 0.0
        while (outcome := work.poll()) is None:
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + TEND_EVERY_S
                try:
                    self._commit(began)
                    self._take_requests()
                except StoreError as error:
                    self._say(f"the store does not answer, trying on: {error}")
            if (why := self.leaving or self._resize) and not told:
                told = self._control(began, leave=why)
            work.wait(POLL_S)
        return outcome

    def _commit(self, began: Entry) -> None:
        """Make real what the attempt has saved whole, then drop what is older than `checkpoint.keep`."""
        store = self.run.store
        for path in checkpoints.whole_uncommitted(store, self.log.entries, began.n):
            try:
                entry = checkpoints.commit(store, self.log, path)
            except DamagedCheckpoint as error:
                self.log.append("checkpoint damaged", path=path, why=str(error))
                continue
            self.memory.failures = self.memory.losses = 0
            self._say(f"checkpoint of step {entry.facts['step']} committed")
            checkpoints.prune(store, self.log, self.frozen.spec.checkpoint.keep)

    def _name(self, outcome: Outcome, began: Entry, lost_nodes: set[str]) -> Outcome:
        """The outcome with what the bucket and the cluster know of it."""
        progress = self.run.read_json(f"progress/{began.n}.json") or {}
        outcome = replace(outcome, step=int(progress.get("step", began.facts["step"])))
        if outcome.kind == "finished" and progress.get("exit") == "stopped":
            return replace(outcome, kind="stopped", cause=self.leaving or self._resize or "asked to")
        if outcome.kind == "died" and lost_nodes:
            return replace(outcome, kind="lost", cause=f"{len(lost_nodes)} node(s) gone; {outcome.cause}")
        return outcome

    def _charge(self, outcome: Outcome, place: dict[str, Any] | None) -> None:
        memory = self.memory
        memory.before, memory.last = memory.last, outcome
        memory.losses += outcome.kind == "lost"
        memory.failures += outcome.kind in ("failed", "died", "damaged")
        if outcome.kind == "damaged" and place:
            self.log.append("checkpoint damaged", path=place["path"], why=outcome.cause)

    # -- what others ask for --------------------------------------------------------------------------------------------
    def _control(self, began: Entry, **orders: Any) -> bool:
        key = f"control/{began.n}.json"
        self.run.write_json(key, {**(self.run.read_json(key) or {}), **orders})
        return True

    def _take_requests(self) -> None:
        for request in self.run.requests(self.memory.seen_requests):
            self.memory.seen_requests.add(request["id"])
            self.log.append(
                "request",
                **{key: value for key, value in request.items() if key not in ("kind", "time")},
                asks=request["kind"],
            )
            self._obey(request)

    def _obey(self, request: dict[str, Any]) -> None:
        match request["kind"]:
            case "stop":
                self.leaving = "mixer stop"
            case "save":
                self.memory.saves_asked += 1
                began = self.log.last("attempt started")
                if began:
                    self._control(began, save=self.memory.saves_asked)
            case "scale":
                self._scale(int(request["min"]), int(request["max"]))

    def _scale(self, minimum: int, maximum: int) -> None:
        workers = self.frozen.spec.workers.model_copy(update={"min": minimum, "max": maximum})
        self.set_resources(self.frozen.spec.model_copy(update={"workers": workers}))
        began = self.log.last("attempt started", "attempt ended")
        if began and began.kind == "attempt started" and not minimum <= began.facts["world"] <= maximum:
            self._resize = f"resize: workers {minimum}..{maximum}"
        elif began and began.kind == "attempt started":
            self._grow_if_useful(began)

    def _grow_if_useful(self, began: Entry) -> None:
        decision = decide(self._sizes())
        if isinstance(decision, Start) and decision.world != began.facts["world"]:
            self._resize = f"resize: {began.facts['world']} -> {decision.world} workers"

    def set_resources(self, spec: Spec) -> None:
        """Go on with the resources of `spec`, and log them."""
        self.frozen = self.frozen.with_resources(spec)
        self.log.append("resources changed", spec=spec.model_dump(mode="json", by_alias=True))
