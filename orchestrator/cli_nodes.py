"""Commands for whoever sits on a node: `mixer notice`. Registered by cli.py."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from orchestrator.errors import UserError


def notice(
    seconds: Annotated[
        float | None,
        typer.Option("--in", help="seconds until the node goes; without it the notice is advice"),
    ] = None,
    cause: Annotated[str, typer.Option("--cause", help="stands in the run's log")] = "mixer notice",
    node: Annotated[
        str | None,
        typer.Option(
            "--node", help="one node of this host (Ray's id, or MIXER_NODE); else all of this user's"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print facts as JSON")] = False,
) -> None:
    """Say that this machine goes soon: runs save and leave it. For Kubernetes' preStop, Slurm's signals, and people."""
    from clusters.notices import NoticeError, write_notice

    try:
        path = write_notice(seconds, cause, node)
    except NoticeError as error:
        raise UserError(str(error)) from None
    facts = json.dumps({"file": str(path), "in": seconds, "cause": cause, "node": node}, indent=2)
    sys.stdout.write(f"{facts if as_json else path}\n")
