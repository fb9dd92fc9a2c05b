"""A run led from here: what `mixer train` and the driver of `mixer submit` do.

lead() claims a resolved run (holder.json, the log), joins the cluster, and lets the Supervisor run attempts until the run ends or must
leave. Signals only set a flag; the second one leaves without saving.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from data_pipeline.storage import StoreError
from orchestrator.errors import DONE, RESUMABLE, StoreLost
from orchestrator.resolving import Resolved, Say, changed, code_versions, freeze
from orchestrator.run_log import ENDS, Entry, RunLog, new_writer
from orchestrator.run_store import Heartbeat, Run

SAME_SIGNAL_S = 1.0
CLAIMS = {"created": "submitted", "submitted": "submitted", **dict.fromkeys(ENDS, "resumed")}


def lead(resolved: Resolved, *, take_over: bool, say: Say, machines: Any = None) -> int:
    """Lead the run until it ends or must leave; the exit code. RunBusy while another driver is alive; Fenced when one takes over."""
    from orchestrator.leading.supervisor import Supervisor

    run = resolved.run
    run.require_free(take_over=take_over)
    writer = new_writer()
    conditional = freeze(resolved, say, submitted=False, writer=writer)
    # A store that is away for a while must not end a healthy run: its driver asks as long as it would wait for machines.
    run = Run(run.url, patience_s=resolved.frozen.spec.recovery.wait.seconds)
    log = run.log(writer, conditional=conditional)
    if log.last("finished"):
        say(f"run {run.name} has finished; `mixer report {run.name}` shows it")
        return DONE
    claim = _claim(log, resolved, take_over=take_over)
    for line in _other_code(resolved):
        say(line)
    with Heartbeat(run, log.writer, job=os.environ.get("MIXER_SUBMISSION_ID"), claim=claim.n):
        gauges = None if machines else _gauges(run)
        supervisor = Supervisor(run, resolved.frozen, log, machines or _ray(resolved, say), say, gauges)
        if changed(resolved, log):
            supervisor.set_resources(resolved.frozen.spec)
        with _signals(supervisor):
            try:
                return supervisor.lead()
            except StoreError as error:
                raise StoreLost(
                    f"{error}; the run goes on with `mixer train {run.name}` once the store answers"
                ) from None


def _claim(log: RunLog, resolved: Resolved, *, take_over: bool) -> Entry:
    """The entry by which this driver leads from now on."""
    facts = {"job": os.environ.get("MIXER_SUBMISSION_ID"), "forced": take_over, "code": code_versions()}
    if not log.entries:  # the one who froze it died before the first entry
        frozen = resolved.frozen
        log.append(
            "created",
            run=resolved.run.name,
            fingerprint=frozen.fingerprint,
            code=frozen.code,
            steps=frozen.steps,
        )
    last = log.entries[-1]
    if resolved.new and last.n == 0 and not last.facts.get("submitted"):
        return last
    return log.append("taken over", **facts, why=CLAIMS.get(last.kind, "no driver was alive"))


def _other_code(resolved: Resolved) -> list[str]:
    """What leads the run now and is not what it was made with."""
    made, now = resolved.frozen.code, code_versions()
    return [
        f"run {resolved.run.name} was made with {package} {made[package]}; here it is {now.get(package)}"
        for package in made
        if made[package] != now.get(package)
    ]


def _ray(resolved: Resolved, say: Say) -> Any:
    from orchestrator.on_ray.machines import RayMachines

    say(
        "joining the Ray cluster at " + os.environ["RAY_ADDRESS"]
        if os.environ.get("RAY_ADDRESS")
        else "starting Ray on this machine"
    )
    spec = resolved.frozen.spec
    return RayMachines(spec.workers, compiles=spec.train.compile, say=say)


def _gauges(run: Run) -> Any:
    from clusters.gauges import RayGauges
    from orchestrator.accounts.metrics import Metrics

    return Metrics(run.name, run.store, RayGauges())


@contextmanager
def _signals(supervisor: Any) -> Iterator[None]:
    """SIGINT and SIGTERM: save and leave; a second one leaves at once. A keeper, Ray and Slurm all pass on one SIGTERM, so that
    those within a second of the first signal are the same one."""
    first = -SAME_SIGNAL_S

    def handle(number: int, _: object) -> None:
        nonlocal first
        # Says nothing through `say`: this may have interrupted it halfway.
        if number == signal.SIGTERM and time.monotonic() - first < SAME_SIGNAL_S:
            return
        first = time.monotonic()
        if supervisor.leaving:
            os.write(2, b"left at once; the run resumes from its newest checkpoint\n")
            os._exit(RESUMABLE)
        supervisor.leaving = f"{signal.Signals(number).name} of the driver"
        os.write(2, b"saving, then leaving (once more: at once)\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
