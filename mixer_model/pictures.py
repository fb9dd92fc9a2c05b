"""Pictures of what a Mixer has learned: what the units of its first token MLPs look at, and the filters of its stem.

    parameters by name -> wanted(config, shapes) -> panels(weights, config) -> tiles to embed, or one labelled sheet (sheets.py)

After Figures 5, 6 and 7 of the paper (arXiv:2105.01601): the first three token-mixing MLPs, each hidden unit a map of the image, and the
stem's filters as small RGB images. How weights become colours is told in maps.py. It needs no torch: weights are numpy arrays.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from . import maps
from .config import MixerConfig
from .maps import Tiles

BLOCKS: Final = 3  # as many as Fig. 5 shows
STEM: Final = "stem.proj.weight"
OVER_POSITIONS: Final = {
    "mlp": "fc1.weight",
    "resmlp": "mix.weight",
    "gmlp": "gate.weight",
    "ccs": "mix.weight",
}
"""By `model.mixer`, the parameter of a block's token branch that is [n,S]: a weight for every position. The others have none."""
GAP_COLOUR: Final = 186
ASPECT: Final = 1.15  # width over height, a little more than square
MOST_PIXELS, MOST_STRIP = 176, 72  # the side of a tile; of one in a strip
UNITS: Final = {
    "mlp": "one hidden unit of a token-mixing MLP looks at",
    "resmlp": "one token takes from all tokens",
    "gmlp": "the gate of one token takes from all tokens",
    "ccs": "the first token takes from all tokens in one group of channels (the others take the same, moved on)",
}
"""By `model.mixer`, what a row of that parameter is."""
TOKENS_SAY: Final = (
    "Each square is what {unit}, its weights laid out like the patches of the image (red adds, "
    "blue takes away, white is 0), beside the unit most nearly its opposite and sorted by spatial frequency, as in Fig. 5 and 6 of "
    "the MLP-Mixer paper."
)
STEM_SAYS: Final = (
    "Each square is one filter of the stem, the pixels of a patch that it answers to in RGB (mid-grey is 0, each filter to its own "
    "largest weight), strongest first, as in Fig. 7 of the MLP-Mixer paper."
)


@dataclass(frozen=True)
class Panel:
    """Tiles uint8 [n,h,w,3] in the order they are read, of `units` there are."""

    title: str
    tiles: Tiles
    units: int
    noun: str
    full: float | None = None
    """The weight at full colour; None where each tile has its own scale."""
    says: str = ""
    """What each tile is, in a sentence."""

    @property
    def ends(self) -> tuple[str, str]:
        """The weights at the two ends of its colours, as they are written."""
        size = f"{self.full or 0:#.2g}".rstrip(".")
        return f"−{size}", f"+{size}"

    @property
    def under(self) -> str:
        """How many it shows: "all 384 units", "the 96 strongest of 384 units"."""
        shown, noun = len(self.tiles), self.noun + ("" if self.units == 1 else "s")
        if shown < self.units:
            return f"the {shown} strongest of {self.units} {noun}"
        return f"all {shown} {noun}" if shown > 1 else f"1 {noun}"

    def pixels(self, columns: int, wide: int) -> Tiles:
        """The tiles in rows of `columns` with a grey gap around each: RGB, at least `wide` pixels across if tiles need not be too large.

        Tiles are enlarged by a whole number, so that each weight stays a square.
        """
        width, scale = self.tiles.shape[2], 1
        while columns * (width * scale + gap(scale)) < wide and width * (scale + 1) <= MOST_PIXELS:
            scale += 1
        return self.enlarged(columns, scale)

    def enlarged(self, columns: int, scale: int) -> Tiles:
        """As `pixels`, each weight `scale` pixels."""
        _, height, width, _ = self.tiles.shape
        high, across, edge = height * scale + gap(scale), width * scale + gap(scale), gap(scale)
        rows = -(-len(self.tiles) // columns)
        sheet = np.full((rows * high + edge, columns * across + edge, 3), GAP_COLOUR, dtype=np.uint8)
        for index, tile in enumerate(self.tiles):
            top, left = index // columns * high + edge, index % columns * across + edge
            large = tile.repeat(scale, axis=0).repeat(scale, axis=1)
            sheet[top : top + height * scale, left : left + width * scale] = large
        return sheet

    def strip(self, wide: int, share: float = 0.45) -> Tiles:
        """As `pixels`, in a strip of up to `wide` pixels across, as large as keeps it below `share` of that high."""
        count, width = len(self.tiles), self.tiles.shape[2]
        best = (1, 1)
        for scale in range(1, max(1, MOST_STRIP // width) + 1):
            tile = width * scale + gap(scale)
            columns = max(1, (wide - gap(scale)) // tile)
            if scale == 1 or -(-count // columns) * tile <= share * wide:
                best = (columns, scale)
        rows = -(-count // best[0])
        return self.enlarged(-(-count // rows), best[1])


def gap(scale: int) -> int:
    """Pixels between tiles whose weights are `scale` pixels: enough to tell a tile's edge from a weight's."""
    return max(3, scale * 2 // 3)


def png(pixels: Tiles) -> bytes:
    """The picture in a file's bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    return out.getvalue()


def wanted(config: MixerConfig, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """The parameters that `panels` draws, of those there are."""
    name = OVER_POSITIONS.get(config.mixer)
    tokens = [f"blocks.{block}.mlp_tokens.{name}" for block in range(min(BLOCKS, config.depth)) if name]
    return [name for name in [*tokens, STEM] if name in shapes]


def panels(
    weights: Mapping[str, npt.ArrayLike], config: MixerConfig, most: int | None = None
) -> tuple[list[Panel], Panel | None]:
    """The panels of the first token mixers, and of the stem, for what `wanted` names; at most `most` tiles each.

    ValueError, which names the parameter, where one does not fit `config` or is not finite.
    """
    tokens = [
        token_panel(
            value, config.grid, f"block {int(name.split('.')[1]) + 1}", most, name=name, mixer=config.mixer
        )
        for name, value in weights.items()
        if name != STEM
    ]
    return tokens, stem_panel(weights[STEM], most) if STEM in weights else None


def token_panel(
    weight: npt.ArrayLike,
    grid: int,
    title: str,
    most: int | None = None,
    *,
    name: str = "the weight",
    mixer: str = "mlp",
) -> Panel:
    """`weight` [n,S] of a layer over a grid of patches, the `most` strongest units of it."""
    every = maps.token_maps(weight, grid, name)
    shown = maps.strongest(every, most)
    full, says = maps.full_colour(shown), TOKENS_SAY.format(unit=UNITS[mixer])
    return Panel(title, maps.colours(shown[maps.paired_order(shown)], full), len(every), "unit", full, says)


def stem_panel(weight: npt.ArrayLike, most: int | None = None) -> Panel:
    """A stem's `weight` [C,3,P,P], the `most` strongest filters of it."""
    filters = maps.filter_maps(weight, STEM)
    strong = filters[maps.by_energy(filters)[:most]]
    return Panel("stem", maps.filter_colours(strong), len(filters), "filter", says=STEM_SAYS)


def columns(count: int) -> int:
    """Tiles in a row: even, so that pairs stay together, and such that `count` of them come near a square with few places empty."""
    ideal = math.sqrt(count * ASPECT)
    near = [n for n in range(2, count + 2, 2) if 0.75 * ideal <= n <= 1.35 * ideal] or [2]
    return min(count, min(near, key=lambda n: (-count % n / n + abs(n - ideal) / ideal, n)))
