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
from orchestrator.errors import DONE, RESUMABLE, DamagedCheckpoint
from orchestrator.frozen import Frozen
from orchestrator.policy import Budget, Decision, Done, GiveUp, Leave, Observed, Outcome, Start, Wait, decide
from orchestrator.redact import redact
from orchestrator.run_log import Entry, RunLog, acknowledged, live_checkpoints, log_resources
from orchestrator.run_store import Run
from orchestrator.spec import Spec, Workers

POLL_S, TEND_EVERY_S = 0.2, 1.0
NODE_NEWS_S = 20.0  # a cluster knows of a dead node some seconds after the processes on it have gone
LAST_LOOKS = 5


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
    def release(self) -> None: ...


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
        self._since = _addressed_from(log.entries)

    def lead(self) -> int:
        """Run attempts until the run ends or must leave; the exit code. Fenced when another driver takes over."""
        try:
            self._dismiss()
            return self._lead()
        except BaseException:
            self.machines.release()  # no worker goes on without a driver
            raise

    def _lead(self) -> int:
        while True:
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
        began = self.log.last("attempt started", "attempt ended")
        if began and began.kind == "attempt started":
            self._commit(began)
            self._control(began, leave="the run was taken over")

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
            bereft=self.log.last("checkpoint committed") is not None
            and not live_checkpoints(self.log.entries),
        )

    def _sizes(self) -> Observed:
        """The part of an observation that is about room only."""
        spec = self.frozen.spec
        return Observed(
            available=self.machines.available(spec.workers),
            minimum=spec.workers.min,
            maximum=spec.workers.max,
            slots=spec.train.micro_batches,
            wait_limit_s=spec.recovery.wait.seconds or 0.0,
        )

    def _wait(self, why: str) -> None:
        self.memory.waiting_since = self.memory.waiting_since or time.time()
        if self.log.entries[-1].kind != "waiting":
            self.log.append("waiting", why=why)
            self._say(f"waiting for machines: {why}")
        time.sleep(TEND_EVERY_S)

    def _end(self, decision: Decision) -> int:
        if not isinstance(decision, GiveUp):
            checkpoints.collect_orphans(self.run.store, self.log.entries, below=len(self.log.entries))
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
            case GiveUp(why, code):
                self.log.append("gave up", why=redact(why)[:4000])
                self._say(f"gave up: {why}")
                return code
        raise AssertionError(decision)

    # -- an attempt -----------------------------------------------------------------------------------------------------
    def _attempt(self, start: Start) -> None:
        self._back_off()
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
        outcome = self._require_last(self._name(outcome, began, nodes), began)
        self.log.append(
            "attempt ended",
            attempt=began.n,
            outcome=outcome.kind,
            cause=redact(outcome.cause)[:4000],
            step=outcome.step,
        )
        self._say(
            f"attempt {began.n} {outcome.kind} at step {outcome.step} {outcome.cause.splitlines()[0] if outcome.cause else ''}"
        )
        self._charge(outcome, place, gained=outcome.step > began.facts["step"])

    def _back_off(self) -> None:
        """After several setbacks in a row without a new checkpoint, each start waits twice as long as the one before."""
        setbacks = self.memory.failures + self.memory.losses
        until = time.monotonic() + (min(60.0, 2.0 ** (setbacks - 1)) if setbacks > 1 else 0.0)
        while time.monotonic() < until and not self.leaving:
            time.sleep(POLL_S)

    def _tend(self, work: Work, began: Entry) -> Outcome:
        """Keep the books of a working attempt until it ends."""
        told, next_look = False, 0.0
        while (outcome := work.poll()) is None:
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + TEND_EVERY_S
                try:
                    self._commit(began)
                    self._take_requests()
                    if (why := self.leaving or self._resize) and not told:
                        told = self._control(began, leave=why)
                except StoreError as error:
                    self._say(f"the store does not answer, trying on: {error}")
            work.wait(POLL_S)
        return outcome

    def _commit(self, began: Entry) -> None:
        """Make real what the attempt has saved whole, then drop what is older than `checkpoint.keep`, and what no attempt completed."""
        store = self.run.store
        for path in checkpoints.whole_uncommitted(store, self.log.entries, began.n):
            try:
                entry = checkpoints.commit(store, self.log, path)
            except DamagedCheckpoint as error:
                self.log.append("checkpoint damaged", path=path, why=str(error))
                continue
            self.memory.failures = self.memory.losses = 0
            self.memory.last = None  # a failure before this checkpoint is not the same as one after it
            self._say(f"checkpoint of step {entry.facts['step']} committed")
            checkpoints.prune(store, self.log, self.frozen.spec.checkpoint.keep)
            checkpoints.collect_orphans(store, self.log.entries, below=began.n)

    def _require_last(self, outcome: Outcome, began: Entry) -> Outcome:
        """A run has finished when its last step is committed; a store's list may show it a moment late."""
        for _ in range(LAST_LOOKS):
            live = live_checkpoints(self.log.entries)
            if outcome.kind != "finished" or (live and live[-1].facts["step"] >= self.frozen.steps):
                return outcome
            time.sleep(TEND_EVERY_S)
            self._commit(began)
        return replace(
            outcome,
            kind="failed",
            cause="the workers finished, but their last checkpoint is not in the store",
        )

    def _name(self, outcome: Outcome, began: Entry, nodes: set[str]) -> Outcome:
        """The outcome with what the bucket and the cluster know of it."""
        progress = self.run.read_json(f"progress/{began.n}.json") or {}
        outcome = replace(outcome, step=int(progress.get("step", began.facts["step"])))
        if outcome.kind == "finished" and progress.get("exit") == "stopped":
            return replace(outcome, kind="stopped", cause=self.leaving or self._resize or "asked to")
        gone = nodes - self.machines.nodes()
        patient_until = time.monotonic() + (NODE_NEWS_S if outcome.kind == "vanished" else 0.0)
        while not gone and time.monotonic() < patient_until:
            time.sleep(POLL_S)
            gone = nodes - self.machines.nodes()
        if outcome.kind in ("died", "vanished"):
            news = f"{len(gone)} node(s) gone; " if gone else ""
            return replace(outcome, kind="lost" if gone else "died", cause=news + outcome.cause)
        return outcome

    def _charge(self, outcome: Outcome, place: dict[str, Any] | None, *, gained: bool) -> None:
        memory = self.memory
        if gained:
            memory.waiting_since = None
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
            stale = request["time"] < self._since
            self.log.append(
                "request",
                **{key: value for key, value in request.items() if key not in ("kind", "time")},
                asks=request["kind"],
                stale=stale,
            )
            self.memory.seen_requests.add(request["id"])  # now, not before: the log may not have taken it
            if not stale:
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
        log_resources(self.log, spec)


def _addressed_from(entries: list[Entry]) -> float:
    """From when on a request is meant for this driver: its claim, or the submission that led to it."""
    since = 0.0
    for entry in entries:
        if entry.kind in ("created", "submitted") or (
            entry.kind == "taken over" and entry.facts.get("why") != "submitted"
        ):
            since = entry.time
    return since
