"""One driver's hold on a run: what it is, where it is written, where it works, and what is wanted of it now.

Shared by the supervisor and what it does while an attempt works (tending.py, growing.py), so that each of them stays small.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data_pipeline.storage import StoreError
from orchestrator.checkpoints import keeping
from orchestrator.checkpoints.keeping import collect_orphans, whole_uncommitted
from orchestrator.errors import DamagedCheckpoint
from orchestrator.frozen import Frozen
from orchestrator.leading.policy import Observed
from orchestrator.leading.ports import Gauges, Machines
from orchestrator.leading.preemption import going
from orchestrator.leading.requests import Requests
from orchestrator.run_log import Entry, RunLog, log_resources
from orchestrator.run_store import Run
from orchestrator.spec import Spec

if TYPE_CHECKING:
    from clusters.notices import Notice


@dataclass
class Lead:
    """The run under this driver."""

    run: Run
    frozen: Frozen
    log: RunLog
    machines: Machines
    say: Callable[[str], None]
    gauges: Gauges | None = None
    leaving: str | None = None  # set by a signal, or a stop request
    going: dict[str, Notice] = field(default_factory=dict)  # by node: machines that were announced to go
    _unwritten: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.requests = Requests(self.run, self.log)

    def sizes(self) -> Observed:
        """The part of an observation that is about room only."""
        spec = self.frozen.spec
        return Observed(
            available=self.machines.available(spec.workers),
            minimum=spec.workers.min,
            maximum=spec.workers.max,
            slots=spec.train.micro_batches,
            wait_limit_s=spec.recovery.wait.seconds or 0.0,
        )

    # -- notices --------------------------------------------------------------------------------------------------------
    def hear(self) -> list[Notice]:
        """New notices; the machines that go are drained. Touches no store: what is announced may be near."""
        new = self.machines.notices()
        for notice in new:
            if going(notice):
                self.machines.drain(notice)
                self.going[notice.node] = notice
        self._unwritten += new
        return new

    def write_notices(self) -> None:
        """Write down what was heard. StoreError leaves the rest for the next call."""
        while self._unwritten:
            notice = self._unwritten[0]
            self.log.append(
                "notice", node=notice.node, deadline=notice.deadline, cause=notice.cause, source=notice.source
            )
            left = "" if notice.deadline is None else f", in {max(0.0, notice.deadline - time.time()):.0f} s"
            self.say(f"notice: node {notice.node[:12]}: {notice.cause}{left}")
            del self._unwritten[0]

    # -- orders and wishes ----------------------------------------------------------------------------------------------
    def control(self, began: Entry, **orders: Any) -> None:
        """Tell the workers of an attempt."""
        key = f"control/{began.n}.json"
        self.run.write_json(key, {**(self.run.read_json(key) or {}), **orders})

    def obey(self, request: dict[str, Any]) -> None:
        """Do what a request asks, as far as it is not about the attempt at work."""
        if request["kind"] == "stop":
            self.leaving = "mixer stop"
        elif request["kind"] == "scale":
            size = {"min": int(request["min"]), "max": int(request["max"])}
            workers = self.frozen.spec.workers.model_copy(update=size)
            self.set_resources(self.frozen.spec.model_copy(update={"workers": workers}))

    def set_resources(self, spec: Spec) -> None:
        """Go on with the resources of `spec`, and log them."""
        self.frozen = self.frozen.with_resources(spec)
        log_resources(self.log, spec)

    # -- books ----------------------------------------------------------------------------------------------------------
    def commit(self, began: Entry) -> list[Entry]:
        """Make real what the attempt has saved whole; then drop what is older than `checkpoint.keep`, and what no attempt completed."""
        store, made = self.run.store, list[Entry]()
        for path in whole_uncommitted(store, self.log.entries, began.n):
            try:
                entry = keeping.commit(store, self.log, path)
            except DamagedCheckpoint as error:
                self.log.append("checkpoint damaged", path=path, why=str(error))
                continue
            made.append(entry)
            self.say(f"checkpoint of step {entry.facts['step']} committed")
            self._tidy(began)
        return made

    def _tidy(self, began: Entry) -> None:
        """What the store does not take now, the next commit tries again."""
        with suppress(StoreError):
            keeping.prune(self.run.store, self.log, self.frozen.spec.checkpoint.keep)
            collect_orphans(self.run.store, self.log.entries, below=began.n)

    def compile_cache(self) -> dict[str, Any] | None:
        """What an attempt is offered of what earlier ones compiled."""
        train, entry = self.frozen.spec.train, self.log.last("compile cache")
        if entry is None or not (train.compile and train.compile_cache):
            return None
        return {name: entry.facts[name] for name in ("key", "sha256", "path")}

    def keep_compile_cache(self, began: Entry) -> None:
        """Log what the attempt has packed of its compile cache: only what the log names is ever unpacked."""
        packed = (self.run.read_json(f"progress/{began.n}.json") or {}).get("compile_cache")
        known = [entry.facts["path"] for entry in self.log.entries if entry.kind == "compile cache"]
        if packed and packed["path"] not in known:
            self.log.append("compile cache", **packed)

    def show(self, began: Entry) -> None:
        """Refresh the gauges, where there are any."""
        if self.gauges is not None:
            self.gauges.show(self.log.entries, self.run.read_json(f"progress/{began.n}.json") or {})
