"""Commands about data: pack, index, verify."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.commands.shared import Json, bar, err, out, print_facts, print_json
from orchestrator.errors import MixerError
from orchestrator.packed import closing_lines, pack_table


def pack(
    source: Annotated[
        str,
        typer.Argument(
            help="a folder of class folders or class tars, a .tar of them, a table of path and label "
            "(.csv, .jsonl, .parquet), or sklearn:digits; here or at s3://"
        ),
    ],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="s3://bucket/prefix or a folder")],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="labels of a tar or folder of images: one a line in name order, or name and label",
        ),
    ] = None,
    labels_base: Annotated[
        int | None, typer.Option(help="0 or 1: what the first class is called where labels are numbers")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="names of the classes, one a line, in the order of their numbers; or the index.json of a packed set",
        ),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(
            help="share of the images put into DEST/val, the rest into DEST/train; else all into DEST (digits: 0.2)"
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="scale longer images down to this many pixels per short side")
    ] = None,
    encode: Annotated[
        str | None,
        typer.Option(help="store every image as jpeg:QUALITY, webp:QUALITY or png; else as it came"),
    ] = None,
    shard_mb: Annotated[float | None, typer.Option(help="size of a shard in MB; else 134")] = None,
    seed: Annotated[
        int, typer.Option(help="of the split, of the mixing at write time, and of the sheet")
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(help="images, and shards, at once; else one per core, at least 4")
    ] = None,
    sheet: Annotated[
        str | None,
        typer.Option(metavar="PATH|none", help="where the contact sheet goes; else DEST/contact-sheet.png"),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="leave out images that do not decode, and list them")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace shards that lie in DEST, and begin again")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack images into WebDataset shards with an index. After a kill, the same command goes on."""
    from data_pipeline.packing.classes import read_classes
    from data_pipeline.packing.pack import BrokenImages
    from data_pipeline.packing.pack import pack as run_pack

    shard_bytes = int(shard_mb * 1e6) if shard_mb else None
    names = read_classes(classes) if classes else None
    options: dict[str, Any] = {
        "labels": labels,
        "labels_base": labels_base,
        "classes": names,
        "val_share": val_share,
    }
    options |= {"size": size, "encode": encode, "shard_bytes": shard_bytes, "seed": seed, "threads": threads}
    options |= {"skip_broken": skip_broken, "overwrite": overwrite, "sheet": sheet}
    try:
        with bar("packing", as_json) as progress:
            facts = run_pack(source, dest, **options, progress=progress)
    except BrokenImages as error:
        for item in error.broken:
            err.print(f"{item['path']}: {item['why']}", markup=False)
        raise
    if as_json:
        print_json(facts)
        return
    out.print(pack_table(facts))
    for line in closing_lines(facts):
        out.print(line, markup=False)


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
