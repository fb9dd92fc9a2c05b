"""Pictures of a run's newest weights: a section of the report, and the sheet that `mixer report RUN --weights` writes.

    the log's newest checkpoint -> the few parameters that are drawn, by ranged reads -> mixer_model.pictures -> page or PNG

Nothing else of the checkpoint is fetched, and torch is not needed: it works where a report does.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.storage import StoreError
from mixer_model.config import MixerConfig, config
from orchestrator.accounts.status import Book
from orchestrator.checkpoints import reading
from orchestrator.checkpoints.manifest import load_manifest
from orchestrator.checkpoints.reading import Want
from orchestrator.errors import MixerError, UserError
from orchestrator.pages.headline import model_name
from orchestrator.pages.page import Html, section, tag
from orchestrator.redact import first_line
from orchestrator.run_log import live_checkpoints

if TYPE_CHECKING:
    from mixer_model.pictures import Panel

TITLE = "What the network looks at"
MOST = 96  # of the units of a layer, in the report; the sheet has all
PANEL, STRIP = 660, 2160  # pixels across, about twice what the page shows: sharp on a fine screen


@dataclass(frozen=True)
class Gallery:
    """What was drawn, of which step; `missing` says what there is no picture of, or nothing."""

    step: int
    tokens: list[Panel]
    stem: Panel | None
    missing: str


def gallery(book: Book, most: int | None = None) -> Gallery:
    """The newest checkpoint's panels, at most `most` tiles each.

    UserError without a checkpoint; DamagedCheckpoint, StoreError; ValueError where a weight is not finite.
    """
    from mixer_model.pictures import panels, wanted

    saved = live_checkpoints(book.entries)
    if not saved:
        name = book.run.name
        raise UserError(f"{name} has no committed checkpoint yet; `mixer logs {name}` shows what it does")
    shape = _shape(book)
    path = saved[-1].facts["path"]
    manifest = load_manifest(book.run.store, path, saved[-1].facts["sha256"])
    held = {name: np.empty(manifest.params[name], np.float32) for name in wanted(shape, manifest.params)}
    wants = [Want(name, "weight", 0, values.size) for name, values in held.items()]
    reading.fill(book.run.store, path, manifest, wants, [values.reshape(-1) for values in held.values()])
    tokens, stem = panels(held, shape, most)
    return Gallery(manifest.step, tokens, stem, "" if tokens else _missing(shape))


def write_weights(book: Book, path: Path) -> dict[str, Any]:
    """Write the sheet of the newest weights, every unit and filter on it, to `path`; what it shows."""
    from mixer_model.sheets import write_sheet

    try:
        found = gallery(book)
        words = f"{model_name(book)}, step {found.step}. {found.missing}".rstrip()
        width, height = write_sheet(path, f"{book.run.name}: weights", words, found.tokens, found.stem)
    except ValueError as error:
        raise MixerError(f"the weights of {book.run.name} cannot be drawn: {error}") from None
    panels = [*found.tokens, *([found.stem] if found.stem else [])]
    return {
        "run": book.run.name,
        "step": found.step,
        "file": str(path),
        "pixels": f"{width} x {height}",
        "panels": [{"of": p.title, "units": p.units, "full_colour_at": p.full} for p in panels],
        **({"missing": found.missing} if found.missing else {}),
    }


def weights(book: Book) -> Html:
    """The report's section; why there is no picture, where there is none."""
    if not live_checkpoints(book.entries):
        return section(TITLE, tag("p", "No checkpoint has been committed yet.", class_="note"))
    try:
        found = gallery(book, MOST)
    except (MixerError, StoreError, ValueError) as error:
        return section(TITLE, tag("p", f"It cannot be drawn: {first_line(str(error))}", class_="note"))
    from mixer_model.pictures import columns

    parts: list[Html] = []
    if found.tokens:
        each = [_figure(p, p.pixels(columns(len(p.tiles)), PANEL)) for p in found.tokens]
        parts += [tag("div", *each, class_="maps"), tag("p", found.tokens[0].says, class_="note")]
    else:
        parts.append(tag("p", found.missing, class_="note"))
    if found.stem:
        parts += [
            _figure(found.stem, found.stem.strip(STRIP, 0.25)),
            tag("p", found.stem.says, class_="note"),
        ]
    note = f"Weights of step {found.step}, the newest checkpoint's. `mixer report {book.run.name} --weights` draws every unit."
    return section(TITLE, *parts, note=note, class_="weights")


def _figure(panel: Panel, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Html:
    from mixer_model.pictures import png

    image = f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"
    low, high = panel.ends
    scale = tag("span", low, tag("i"), high, class_="scale") if panel.full else ""
    head = tag("figcaption", tag("b", panel.title), f" {panel.under} ", scale)
    return tag("figure", head, tag("img", src=image, alt=f"{panel.title}, {panel.under}. {panel.says}"))


def _missing(shape: MixerConfig) -> str:
    return (
        f"There is no picture of token mixing: {shape.mixer!r} has no weight for each position of the image."
    )


def _shape(book: Book) -> MixerConfig:
    spec = book.frozen.spec.model
    return config(spec.preset, **spec.overrides())
