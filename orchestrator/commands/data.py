"""Commands about data: pack, index, verify."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.commands.shared import Json, bar, out, print_facts, print_json
from orchestrator.errors import MixerError


def pack(
    source: Annotated[
        str, typer.Argument(help="sklearn:digits, a folder of class folders, or a CSV/JSONL of path,label")
    ],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="s3://bucket/prefix or a folder")],
    val_share: Annotated[
        float | None,
        typer.Option(
            help="share of the images put into DEST/val, the rest into DEST/train; else all into DEST (digits: 0.2)"
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="scale longer images down to this many pixels per short side")
    ] = None,
    shard_mb: Annotated[float | None, typer.Option(help="size of a shard in MB; else 134")] = None,
    seed: Annotated[int, typer.Option(help="of the split and of the mixing at write time")] = 0,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="leave out images that do not decode, and list them")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace shards that lie in DEST")] = False,
    as_json: Json = False,
) -> None:
    """Pack images into WebDataset shards with an index."""
    from data_pipeline.packing.pack import pack as run_pack

    shard_bytes = int(shard_mb * 1e6) if shard_mb else None
    options: dict[str, Any] = {"val_share": val_share, "size": size, "shard_bytes": shard_bytes, "seed": seed}
    with bar("packing", as_json) as progress:
        facts = run_pack(
            source, dest, **options, skip_broken=skip_broken, overwrite=overwrite, progress=progress
        )
    if as_json:
        print_json(facts)
        return
    for found in facts["sets"]:
        out.print(
            f"{found['url']}: {found['samples']} images, {len(found['classes'])} classes, {found['shards']} shards, "
            f"{found['bytes'] / 1e6:.1f} MB, digest {found['digest'][:12]}",
            markup=False,
        )
    for item in facts["skipped"]:
        out.print(f"left out {item['path']}: {item['why']}", markup=False)


def index(url: Annotated[str, typer.Argument(help="where the shards lie")], as_json: Json = False) -> None:
    """Index shards that somebody else wrote."""
    from data_pipeline.shards.dataset import build_index

    with bar("indexing", as_json) as progress:
        facts = build_index(url, progress=progress)
    short = {key: value for key, value in facts.items() if key != "shards"} | {"shards": len(facts["shards"])}
    print_json(facts) if as_json else print_facts(short)


def verify(
    url: Annotated[
        str, typer.Argument(help="packed or indexed shards, or <store>/runs/<run> for its checkpoints")
    ],
    as_json: Json = False,
) -> None:
    """Read everything, compare it with the index (of a run: with its manifests), and say what is wrong."""
    if _is_run(url):
        problems = _verify_run(url)
    else:
        from data_pipeline.shards.verify import verify as run_verify

        with bar("verifying", as_json) as progress:
            problems = [str(problem) for problem in run_verify(url, progress=progress).problems]
    if as_json:
        print_json({"url": url, "whole": not problems, "problems": problems})
    else:
        for line in problems or [f"{url}: every byte is what was written"]:
            out.print(line, markup=False)
    raise typer.Exit(1 if problems else 0)


def _is_run(url: str) -> bool:
    from orchestrator.run_store import Run

    return "/runs/" in url and Run(url).exists()


def _verify_run(url: str) -> list[str]:
    from data_pipeline.errors import StoreError
    from orchestrator import checkpoints
    from orchestrator.launch import find_run
    from orchestrator.run_log import live_checkpoints

    run = find_run(url)
    problems: list[str] = []
    for entry in live_checkpoints(run.log().entries):
        try:
            manifest = checkpoints.load_manifest(run.store, entry.facts["path"], entry.facts["sha256"])
            problems += checkpoints.verify(run.store, entry.facts["path"], manifest)
        except (MixerError, StoreError) as error:
            problems.append(str(error))
    return problems
