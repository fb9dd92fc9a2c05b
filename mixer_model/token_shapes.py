"""Which shapes a token mixer can have, and its fixed numbers. No torch here: the config, the costs and the modules read them.

Each number is its source's, or says why not. They are constants: what a user would vary of a mixer is `token_dim`, its hidden width
(mlp, gmlp, hire).
"""

from __future__ import annotations

from typing import Final

WITH_TOKEN_DIM: Final = ("mlp", "gmlp", "hire")
"""The mixers that have a hidden width between tokens; `token_dim` means nothing to the others."""

S2_GROUPS: Final = 4
"""Channel groups of the spatial shift: one for each direction (arXiv:2106.07477, section 3)."""

CCS_GROUPS: Final = 8
"""Channel groups of CCS, each with its own circulant matrix. The paper's number could not be read: 8 divides every published width."""

CYCLE_SPAN: Final = 3
"""Places that the channels of a Cycle FC read from in turn: one back, its own, one on (arXiv:2107.10224, section 3.2)."""

HIRE_FOLD: Final = 2
"""Rows (columns) of a region. The source has 4, 3, 3, 2 by stage and pads; 2 divides the grids of /16 and /14."""

HIRE_SHIFT: Final = 1
"""Places by which every second block moves its regions, so that they overlap (arXiv:2108.13341, section 3.2)."""

REWEIGHT: Final = 4
"""By how much the little MLP that weighs the branches of cycle and hire is narrower than the tokens (both sources)."""

DEPTHWISE_SIDE: Final = 3
"""Side of ConvMLP's kernel (arXiv:2109.04454, section 3)."""

MS_SHIFTS: Final = (-2, -1, 0, 1, 2)
"""Places by which the channel groups of mix-shift move (arXiv:2202.06510, section 3)."""

MS_SIDES: Final = (1, 1, 3, 3, 3)
"""Sides of their kernels: those of the source's third stage, whose grid is 14x14 like that of a /16 Mixer."""

_MULTIPLES: Final = {"s2": S2_GROUPS, "ccs": CCS_GROUPS}
_LEAST: Final = {"cycle": REWEIGHT, "hire": REWEIGHT, "ms": len(MS_SHIFTS)}
_FOLDS: Final = {"hire": HIRE_FOLD}


def fault(mixer: str, dim: int, grid: int) -> str | None:
    """Why tokens of `dim` channels on a grid of `grid` x `grid` cannot be mixed so, with what can; None when they can."""
    multiple = _MULTIPLES.get(mixer, 1)
    if dim % multiple:
        return f"dim {dim} is not a multiple of {multiple}, the channel groups of mixer {mixer!r}; {_near(dim, multiple)}"
    if dim < (least := _LEAST.get(mixer, 1)):
        return f"dim {dim} is too narrow for mixer {mixer!r}; take at least {least}"
    if grid % (fold := _FOLDS.get(mixer, 1)):
        return (
            f"{grid} x {grid} patches do not fold into regions of {fold} rows, as mixer {mixer!r} needs; "
            f"choose image_size and patch so that image_size / patch is a multiple of {fold}"
        )
    return None


def ms_groups(dim: int) -> list[int]:
    """Channels of each group of mix-shift, as even as they can be."""
    count = len(MS_SHIFTS)
    return [dim // count + (group < dim % count) for group in range(count)]


def _near(dim: int, multiple: int) -> str:
    below = dim // multiple * multiple
    return f"take {below or multiple} or {below + multiple}" if below else f"take {multiple}"
