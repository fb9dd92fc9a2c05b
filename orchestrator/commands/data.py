"""Commands about data: pack, index, verify."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.commands.shared import Json, bar, err, out, print_facts, print_json, shard_bar
from orchestrator.errors import MixerError, UserError
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
            help="names of the classes, one a line, in the order of their numbers; or the index.json of a packed set, or the JSON beside "
            "weights",
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
        typer.Option(
            metavar="PATH|none", help="file or folder for the contact sheet; else DEST/contact-sheet.png"
        ),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="leave out images that cannot be used, and list them")
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
    from data_pipeline.packing.sheet import as_file

    shard_bytes = None if shard_mb is None else shard_mb * 1e6
    names = read_classes(classes) if classes else None
    options: dict[str, Any] = {
        "labels": labels,
        "labels_base": labels_base,
        "classes": names,
        "val_share": val_share,
    }
    options |= {"size": size, "encode": encode, "shard_bytes": shard_bytes, "seed": seed, "threads": threads}
    options |= {
        "skip_broken": skip_broken,
        "overwrite": overwrite,
        "sheet": as_file(sheet) if sheet else None,
    }
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


def index(
    urls: Annotated[
        list[str],
        typer.Argument(
            metavar="URL...",
            help="folders, or patterns with {000..099}, {a,b}, *, ?, [0-9], **: s3://bucket/set/train-{000000..001023}.tar",
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option("--out", metavar="URL", help="where the index is written; else beside the shards"),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="the member that holds the label: cls, txt, json, json:key.path; else found out"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="names of the classes, one a line, in the order of their numbers; or the index.json of another set",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="shards read at a time")] = 16,
    as_json: Json = False,
) -> None:
    """Index shards that somebody else wrote. Again: reads only what is new."""
    from data_pipeline.packing.classes import read_classes
    from data_pipeline.shards.build import index_shards

    names = read_classes(classes) if classes else None
    with shard_bar("indexing", as_json) as progress:
        done = index_shards(urls, progress, out=to, label=label, classes=names, threads=threads)
    facts = done.to_json()
    if as_json:
        print_json(facts)
        return
    shown = ("samples", "bytes", "max_label", "labels_per_sample", "image_exts", "skipped", "shards")
    out.print(f"{done.url}: the labels stand in {facts['label']} ({done.rule_from})", markup=False)
    out.print(f"shards: {done.kept} kept, {done.read} read, {len(done.dropped)} dropped", markup=False)
    print_facts({key: facts[key] for key in shown} | {"classes": _class_count(facts["classes"])})
    print_facts({"digest": facts["digest"]})
    if done.old_digest not in (None, facts["digest"]):
        out.print(_changed(done.old_digest, facts["digest"]), markup=False)


def verify(
    url: Annotated[
        str, typer.Argument(help="packed or indexed shards, or <store>/runs/<run> for its checkpoints")
    ],
    fix: Annotated[
        bool, typer.Option("--fix-index", help="write the index again where shards differ from it")
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop-missing", help="with --fix-index: leave out shards that are gone")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read everything, compare it with the index (of a run: with its manifests), and say what is wrong."""
    done: list[str] = []
    is_run = _is_run(url)
    if (fix and is_run) or (drop and not fix):
        raise UserError("--fix-index is for data sets, and --drop-missing goes with --fix-index")
    problems = _verify_run(url) if is_run else _verify_data(url, fix, drop, as_json, done)
    if as_json:
        print_json({"url": url, "whole": not problems, "problems": problems, "fixed": done})
    else:
        for line in done + (problems or [f"{url}: every byte is what was written"]):
            out.print(line, markup=False)
    raise typer.Exit(1 if problems else 0)


def _verify_data(url: str, fix: bool, drop: bool, as_json: bool, done: list[str]) -> list[str]:
    """What is wrong with a data set, in the end; `done` gets what was wrong and what was done about it."""
    from data_pipeline.errors import BadDataset
    from data_pipeline.shards.repair import fix_index
    from data_pipeline.shards.verify import verify as run_verify

    with shard_bar("verifying", as_json) as progress:
        report = run_verify(url, progress=progress)
    differ, missing = report.shards_that("differs"), report.shards_that("missing")
    if not fix or not differ | missing:
        return [str(problem) for problem in report.problems]
    try:
        if missing and not drop:
            raise BadDataset(f"{len(missing)} shards are missing: bring them back, or add --drop-missing")
        with shard_bar("fixing", as_json) as progress:
            fixed = fix_index(url, differ, missing, progress)
            again = run_verify(url, progress=progress, only=differ)
    except BadDataset as error:
        return [*map(str, report.problems), f"the index was left as it was: {error}"]
    left = [problem for problem in report.problems if problem.kind not in ("differs", "missing")]
    done += [f"was: {problem}" for problem in report.problems if problem not in left]
    done.append(
        f"read again: {', '.join(fixed.read_again) or 'none'}; dropped: {', '.join(fixed.dropped) or 'none'}"
    )
    done.append(f"samples: {fixed.samples[0]}, now {fixed.samples[1]}. {_changed(*fixed.digests)}")
    return [str(problem) for problem in [*again.problems, *(p for p in left if p not in again.problems)]]


def _changed(old: str | None, new: str) -> str:
    if old == new:
        return f"The digest is still {new[:12]}"
    return f"The digest was {str(old)[:12]} and is {new[:12]}: runs that were started on the old one will refuse this data set"


def _class_count(classes: list[str] | None) -> str:
    if classes is None:
        return "numbers, without names"
    return f"{len(classes)}: {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"


def _is_run(url: str) -> bool:
    from orchestrator.run_store import Run

    return "/runs/" in url and Run(url).exists()


def _verify_run(url: str) -> list[str]:
    from data_pipeline.errors import StoreError
    from orchestrator.checkpoints import reading
    from orchestrator.checkpoints.manifest import load_manifest
    from orchestrator.run_log import live_checkpoints
    from orchestrator.stores import find_run

    run = find_run(url)
    init, problems = run.frozen().init, list[str]()
    places = [(init.path, init.manifest)] if init else []
    places += [(entry.facts["path"], entry.facts["sha256"]) for entry in live_checkpoints(run.log().entries)]
    for path, sha256 in places:
        try:
            manifest = load_manifest(run.store, path, sha256)
            problems += reading.verify(run.store, path, manifest)
        except (MixerError, StoreError) as error:
            problems.append(str(error))
    return problems
