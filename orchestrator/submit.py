"""Submit a run: freeze it into the bucket from here, then let a Ray job lead it there. The code travels as the job's working directory.

The job is a keeper, which starts the driver and starts it again should it be killed. It runs on the head node, unless the driver is
given resources that another node has: then it outlives the head, where Ray's own state does (RocksDB or Redis).
What the job gets is the run's url and no credentials: those belong to the cluster's machines. The laptop may go away.
"""

from __future__ import annotations

import math
import os
import secrets
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from clusters import jobs, local
from clusters.capacity import endpoint_env
from clusters.settings import DRIVER
from orchestrator.errors import Fenced, UserError
from orchestrator.recipe_page import said
from orchestrator.resolving import changed, freeze, resolve
from orchestrator.run_log import log_resources, new_writer


def submit(
    target: str,
    *,
    store: str | None,
    name: str | None,
    overrides: Sequence[str],
    cluster: str | None,
    take_over: bool,
    say: Callable[[str], None],
    driver_resources: Sequence[str] = (),
) -> dict[str, Any]:
    """Start or resume the run that `target` means as a Ray job. run, url, job and cluster of it; of a finished run no job.

    `cluster` is `local` (what `mixer cluster up local` started), a dashboard's address, or None for RAY_ADDRESS. `driver_resources`,
    each KEY=N, are what the driver's node must have free; on a durable local cluster they put it off the head by themselves. UserError
    when a driver is alive on the run, or the cluster cannot be reached.
    """
    cpus, custom = _wanted(driver_resources or _off_the_head(cluster))
    resolved = resolve(target, store=store, name=name, overrides=overrides)
    run = resolved.run
    run.require_free(take_over=take_over)
    if run.log().last("finished"):  # there is nothing to lead, and its log and its ledger have ended
        say(f"run {run.name} has finished; `mixer report {run.name}` shows it")
        return {"run": run.name, "url": run.url, "state": "finished"}
    for line in (*said(resolved.frozen.spec), *resolved.frozen.remarks):
        say(line)
    address = _address(cluster)
    conditional = freeze(resolved, say, submitted=True)
    log = run.log(new_writer(), conditional=conditional)
    job = f"{run.name}-{secrets.token_hex(3)}"
    python = sys.executable if cluster == "local" else "python"
    driver = [python, "-m", "orchestrator", "train", run.url, *(["--take-over"] if take_over else [])]
    if changed(resolved, log):
        log_resources(log, resolved.frozen.spec)
    with tempfile.TemporaryDirectory(prefix="mixer-code-") as folder:
        try:
            jobs.submit(
                address,
                shlex.join([python, "-m", "orchestrator.keeper", "--", *driver]),
                working_dir=jobs.pack_code(folder),
                env={"MIXER_SUBMISSION_ID": job, **endpoint_env()},
                submission_id=job,
                metadata={"mixer_run": run.name},
                entrypoint_num_cpus=cpus,
                entrypoint_resources=custom,
            )
        except jobs.JobError as error:
            raise UserError(f"{error}; the run is frozen, so `mixer submit {run.name}` tries again") from None
    with suppress(Fenced):  # the job was quicker and leads the run already
        log.append("submitted", job=job)
    init = resolved.frozen.init
    begun = {"begun from": init.words} if init else {}
    return {"run": run.name, "url": run.url, "job": job, "cluster": cluster or "RAY_ADDRESS", **begun}


def _wanted(given: Sequence[str]) -> tuple[float, dict[str, float]]:
    """CPUs and custom resources of `KEY=N` words. UserError."""
    wanted: dict[str, float] = {}
    for word in given:
        key, _, number = word.partition("=")
        try:
            wanted[key] = float(number)
        except ValueError:
            wanted[key] = -1.0
        if not key or not 0 < wanted[key] < math.inf:
            raise UserError(
                f"--driver-resources got {word!r}; write KEY=N with N above 0, for example driver=1 or CPU=1"
            )
    return wanted.pop("CPU", 0.0), wanted


def _off_the_head(cluster: str | None) -> list[str]:
    """A small share, so that several drivers find room on one node."""
    found = local.state("local") if cluster == "local" else None
    return [f"{DRIVER}=0.01"] if found and found.durable else []


def _address(cluster: str | None) -> str | None:
    if cluster == "local":
        os.environ.update(local.env_for("local"))
        return None
    if cluster is None and not (os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_API_SERVER_ADDRESS")):
        raise UserError(
            "no cluster given; use --cluster local (after `mixer cluster up local`), --cluster http://head:8265, or RAY_ADDRESS"
        )
    return cluster
