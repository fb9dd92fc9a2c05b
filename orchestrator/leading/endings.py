"""How an attempt really ended: what its workers, the bucket and the cluster know, put together."""

from __future__ import annotations

import time
from dataclasses import replace

from orchestrator.leading.policy import Outcome
from orchestrator.leading.ports import Machines
from orchestrator.run_log import Entry
from orchestrator.run_store import Run

POLL_S = 0.2
NODE_NEWS_S = 20.0  # a cluster knows of a dead node some seconds after the processes on it have gone


def name(
    outcome: Outcome, began: Entry, run: Run, machines: Machines, nodes: set[str], told: str | None
) -> Outcome:
    """`outcome` with its step and its right name. `nodes`: where it worked; `told`: why it was told to leave, if it was."""
    progress = run.read_json(f"progress/{began.n}.json") or {}
    outcome = replace(outcome, step=int(progress.get("step", began.facts["step"])))
    if outcome.kind == "finished" and progress.get("exit") == "stopped":
        return replace(outcome, kind="stopped", cause=told or "asked to")
    if outcome.kind == "diverged" and outcome.batch is None:
        return replace(outcome, kind="failed")
    if outcome.kind not in ("died", "vanished", "hung"):
        return outcome
    gone = _gone(machines, nodes, NODE_NEWS_S if outcome.kind == "vanished" else 0.0)
    if gone:
        return replace(outcome, kind="lost", cause=f"{len(gone)} node(s) gone; {outcome.cause}")
    return replace(outcome, kind="died") if outcome.kind == "vanished" else outcome


def _gone(machines: Machines, nodes: set[str], patience_s: float) -> set[str]:
    """Those of `nodes` that are no longer there, waiting so long for the news of one."""
    until = time.monotonic() + patience_s
    while not (gone := nodes - machines.nodes()) and time.monotonic() < until:
        time.sleep(POLL_S)
    return gone
