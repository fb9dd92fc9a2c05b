"""Submit a run: freeze it into the bucket from here, then let a Ray job lead it there. The code travels as the job's working directory.

What the job gets is the run's url and no credentials: those belong to the cluster's machines. The laptop may go away.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from clusters import jobs, local
from orchestrator.errors import UserError
from orchestrator.launch import freeze, resolve

PASSED_ON = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
)  # where, never who


def submit(
    target: str,
    *,
    store: str | None,
    name: str | None,
    overrides: Sequence[str],
    cluster: str | None,
    take_over: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Start or resume the run that `target` means as a Ray job. run, url, job and cluster of it.

    `cluster` is `local` (what `mixer cluster up local` started), a dashboard's address, or None for RAY_ADDRESS. UserError when a
    driver is alive on the run, or the cluster cannot be reached.
    """
    resolved = resolve(target, store=store, name=name, overrides=overrides)
    resolved.run.require_free(take_over=take_over)
    address = _address(cluster)
    freeze(resolved, say, submitted=True)
    job = f"{resolved.run.name}-{secrets.token_hex(3)}"
    again = [] if resolved.new else [part for item in overrides for part in ("--set", item)]
    command = [
        "-m",
        "orchestrator",
        "train",
        resolved.run.url,
        *again,
        *(["--take-over"] if take_over else []),
    ]
    python = sys.executable if cluster == "local" else "python"
    with tempfile.TemporaryDirectory(prefix="mixer-code-") as folder:
        try:
            jobs.submit(
                address,
                shlex.join([python, *command]),
                working_dir=jobs.pack_code(folder),
                env={
                    "MIXER_SUBMISSION_ID": job,
                    **{key: os.environ[key] for key in PASSED_ON if key in os.environ},
                },
                submission_id=job,
                metadata={"mixer_run": resolved.run.name},
            )
        except jobs.JobError as error:
            raise UserError(
                f"{error}; the run is frozen, so `mixer submit {resolved.run.name}` tries again"
            ) from None
    return {
        "run": resolved.run.name,
        "url": resolved.run.url,
        "job": job,
        "cluster": address or "RAY_ADDRESS",
    }


def _address(cluster: str | None) -> str | None:
    if cluster == "local":
        os.environ.update(local.env_for("local"))
        return None
    if cluster is None and not (os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_API_SERVER_ADDRESS")):
        raise UserError(
            "no cluster given; use --cluster local (after `mixer cluster up local`), --cluster http://head:8265, or RAY_ADDRESS"
        )
    return cluster
