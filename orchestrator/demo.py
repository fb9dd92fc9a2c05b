"""All of it on this machine in minutes: pack, train, kill a worker, recover, compare with an unbroken run, report.

A real S3 server on loopback -> real digits packed into it -> two runs of runs/digits.yaml on Ray, one with a worker killed by SIGKILL
in the middle -> every loss and every sample id of every step compared -> a table and a page.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clusters import object_store
from data_pipeline.packing.pack import pack
from data_pipeline.storage import StoreError
from orchestrator.accounts.proof import Comparison, compare
from orchestrator.accounts.status import Book
from orchestrator.errors import FAILED, MixerError, UserError
from orchestrator.launch import lead
from orchestrator.pages.report import write_report
from orchestrator.resolving import resolve
from orchestrator.run_store import Run
from orchestrator.tables import ledger_table
from orchestrator.training.events import read_events
from orchestrator.watch import newest_progress, watching

SPEC = Path(__file__).resolve().parent.parent / "runs" / "digits.yaml"
KILL_AT = 0.45  # of the run: between two checkpoints, so that there is work to do again


def run_demo(folder: Path, *, keep: bool, as_json: bool) -> int:
    """Run the demo below `folder`; its exit code. The S3 server is ended unless `keep`."""
    if not SPEC.exists():
        raise UserError(f"{SPEC} is not there; run the demo from a checkout of the repository")
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    server = object_store.start(folder / "s3", tied=not keep)
    try:
        os.environ.update(server.env)
        os.environ.pop("RAY_ADDRESS", None)  # another cluster's machines could not reach this server
        # Ray prints on stdout what its raylet says, and with --json nothing but JSON belongs there.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            facts = _demo(server.bucket(f"mixer-demo-{time.time_ns() // 10**6}"), folder, console)
    finally:
        if not keep:
            server.stop()
    facts["seconds"] = time.monotonic() - started
    console.print(f"took {facts['seconds']:.0f} s")
    if keep:
        _say_how(server, facts, folder, console)
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    return (
        0
        if facts["bit_identical"] and not facts["samples_skipped"] and not facts["samples_repeated"]
        else FAILED
    )


def _demo(bucket: str, folder: Path, console: Console) -> dict[str, Any]:
    console.rule("1  pack the digits into a real S3 bucket")
    for found in pack("sklearn:digits", f"{bucket}/digits")["sets"]:
        console.print(
            f"{found['url']}: {found['samples']} images in {found['shards']} shards, digest {found['digest'][:12]}",
            markup=False,
        )
    console.rule("2  train on 2 workers, and kill one in the middle")
    broken, kill = _train(bucket, "broken", console, kill=True)
    console.rule("3  the same spec again, unbroken")
    unbroken, _ = _train(bucket, "unbroken", console, kill=False)
    console.rule("4  compare")
    compared = compare(broken, unbroken, kill)
    page = write_report(broken, folder / "report.html")
    facts = {**_facts(broken, compared, page), "store": bucket}
    console.print(_table(facts, compared, kill))
    console.print(f"report: {page.resolve()}", markup=False)
    return facts


def _train(bucket: str, name: str, console: Console, *, kill: bool) -> tuple[Book, int]:
    """A run of the demo's spec, and the step at which a worker was killed."""
    overrides = [f"data.train={bucket}/digits/train", f"data.val={bucket}/digits/val"]
    resolved = resolve(str(SPEC), store=bucket, name=f"digits-{name}", overrides=overrides, remember=False)
    killer = _Killer(resolved.run, int(resolved.frozen.steps * KILL_AT), console) if kill else None
    with watching(resolved.run, resolved.frozen.steps, console, label=name) as say:
        if killer:
            killer.start()
        code = lead(resolved, take_over=False, say=say)
    if code:
        raise MixerError(f"the run {resolved.run.name} ended with code {code}; see above")
    if killer and killer.killed_at is None:
        raise MixerError("the run ended before a worker could be killed; nothing was shown")
    return Book(resolved.run), killer.killed_at or 0 if killer else 0


class _Killer(threading.Thread):
    """Sends SIGKILL to the process of rank 1 once the run has reached a step."""

    def __init__(self, run: Run, step: int, console: Console) -> None:
        super().__init__(name="killer", daemon=True)
        self._run, self._step, self._console = run, step, console
        self.killed_at: int | None = None

    def run(self) -> None:
        while self.killed_at is None:
            time.sleep(0.1)
            try:
                seen = newest_progress(self._run)
                if seen.get("step", 0) >= self._step:
                    self._kill(seen)
            except StoreError:
                continue

    def _kill(self, seen: dict[str, Any]) -> None:
        workers = [
            event for event in read_events(self._run.store, seen["attempt"]) if event["kind"] == "worker"
        ]
        victim = next(event for event in workers if event["rank"] == 1)
        os.kill(victim["pid"], signal.SIGKILL)
        self.killed_at = int(seen["step"])
        self._console.print(
            f"--- killed worker 1 (pid {victim['pid']}) with SIGKILL at step {self.killed_at} ---"
        )


def _facts(book: Book, compared: Comparison, page: Path) -> dict[str, Any]:
    status = book.status()
    parts = (book.ledger.recoveries() or [{}])[0]
    return {
        "accuracy": status["evaluation"]["accuracy"],
        "bit_identical": compared.bit_identical and compared.equal_digests,
        "steps_compared": compared.steps,
        "samples_skipped": compared.skipped,
        "samples_repeated": compared.repeated,
        "recovery_s": {"total": sum(parts.values()), **parts},
        "images_per_s": status["images_per_s"],
        "ledger": status["ledger"],
        "wall_s": status["wall_s"],
        "report": str(page.resolve()),
    }


def _table(facts: dict[str, Any], compared: Comparison, killed_at: int) -> Table:
    table = Table(show_header=False, title="what came of it", title_justify="left")
    recovery = dict(facts["recovery_s"])
    total = recovery.pop("total")
    rows = {
        "accuracy on validation": f"{facts['accuracy']:.2%}",
        "images/s, 2 workers": f"{facts['images_per_s']:.0f}",
        "losses bit-identical": f"{'yes' if compared.bit_identical else 'NO'}: {compared.equal_losses} of {compared.steps} steps, "
        f"{compared.steps_after_kill} of them after the kill at step {killed_at}",
        "samples": f"{compared.skipped} skipped, {compared.repeated} repeated; "
        f"digests of every step {'equal' if compared.equal_digests else 'DIFFER'}",
        "time to recover": f"{total:.1f} s = "
        + " + ".join(f"{part} {value:.1f}" for part, value in recovery.items()),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    table.add_row("where the seconds went", ledger_table(facts["ledger"]))
    return table


def _say_how(server: object_store.ObjectStore, facts: dict[str, Any], folder: Path, console: Console) -> None:
    env = server.save_env(folder / "env.sh").resolve()
    bucket = facts["store"]
    console.print(
        f"kept: the S3 server runs on (end it with `{server.stop_command}`). To play:\n"
        f"  . {env}\n  export MIXER_STORE={bucket}\n  .venv/bin/mixer ls\n  .venv/bin/mixer status digits-broken\n"
        "  .venv/bin/mixer export digits-broken",
        markup=False,
    )
