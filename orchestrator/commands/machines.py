"""Commands about machines: cluster up, cluster down, and notice, for whoever sits on a node."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.shared import Json, out, print_json
from orchestrator.errors import UserError


def cluster_up(
    name: Annotated[str, typer.Argument(help="`local`: Ray on this machine")] = "local",
    nodes: Annotated[int, typer.Option(help="raylets")] = 1,
    cpus: Annotated[
        int | None, typer.Option(help="CPUs per node, as Ray counts them; else this machine's, divided")
    ] = None,
    durable: Annotated[
        bool,
        typer.Option(
            "--durable", help="a head of its own that keeps its state; `up` again restarts it when it died"
        ),
    ] = False,
) -> None:
    """Start a Ray cluster, with token authentication, on loopback; or the lost head of a durable one."""
    from clusters import local

    _known_cluster(name)
    made = local.up(nodes=nodes, cpus=cpus, durable=durable)
    out.print(f"{len(made.nodes)} node(s) up; dashboard {made.dashboard}", markup=False)
    out.print(
        "`mixer submit SPEC --cluster local` sends a run there; `mixer cluster down local` ends it",
        markup=False,
    )


def cluster_down(name: Annotated[str, typer.Argument(help="`local`")] = "local") -> None:
    """End a cluster that `up` started, and only that."""
    from clusters import local

    _known_cluster(name)
    out.print("ended" if local.down(name) else "there was none", markup=False)


def _known_cluster(name: str) -> None:
    if name != "local":
        raise UserError(
            f"cluster got {name!r}; this version knows `local` (Slurm, Kubernetes and clouds are not there yet)"
        )


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
    as_json: Json = False,
) -> None:
    """Say that this machine goes soon: runs save and leave it. For Kubernetes' preStop, Slurm's signals, and people."""
    from clusters.notices import NoticeError, write_notice

    try:
        path = write_notice(seconds, cause, node)
    except NoticeError as error:
        raise UserError(str(error)) from None
    facts = {"file": str(path), "in": seconds, "cause": cause, "node": node}
    print_json(facts) if as_json else out.print(str(path), markup=False)
