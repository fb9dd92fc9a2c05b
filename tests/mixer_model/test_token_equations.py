"""The token mixers of the related work against their equations, written here by loops over places and channels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from mixer_model.token_mixers.cycle import cycled
from mixer_model.token_mixers.s2 import shifted
from tests.mixer_model.mixers import OTHERS, awake, shape_of

Array = npt.NDArray[np.float64]


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def at(x: Array, row: int, column: int) -> Array:
    """The tokens of a place of [H,W,C], 0 beyond the edge."""
    inside = 0 <= row < x.shape[0] and 0 <= column < x.shape[1]
    return x[row, column] if inside else np.zeros(x.shape[2])


def resmlp(x: Array, p: dict[str, Array]) -> Array:
    return (p["mix.weight"] @ x + p["mix.bias"][:, None]) * p["scale"]


def gmlp(x: Array, p: dict[str, Array]) -> Array:
    z = gelu(x @ p["enter.weight"].T + p["enter.bias"])
    half = z.shape[1] // 2
    gate = p["gate.weight"] @ norm(z[:, half:], p["norm.weight"], p["norm.bias"]) + p["gate.bias"][:, None]
    return (z[:, :half] * gate) @ p["leave.weight"].T + p["leave.bias"]


def s2(x: Array, p: dict[str, Array]) -> Array:
    z = gelu(x @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
    side, width = math.isqrt(len(z)), z.shape[1]
    grid, out = z.reshape(side, side, width), np.zeros((side, side, width))
    for i in range(side):
        for j in range(side):
            for c in range(width):
                di, dj = [(-1, 0), (1, 0), (0, -1), (0, 1)][c // (width // 4)]
                inside = 0 <= i + di < side and 0 <= j + dj < side
                out[i, j, c] = grid[i + di, j + dj, c] if inside else grid[i, j, c]
    return out.reshape(len(z), width) @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]


def ccs(x: Array, p: dict[str, Array]) -> Array:
    """By Fourier transform: y = IFFT(conj(FFT(w)) FFT(x))."""
    weight = p["mix.weight"].repeat(x.shape[1] // len(p["mix.weight"]), 0)
    mixed = np.fft.ifft(np.conj(np.fft.fft(weight)) * np.fft.fft(x.T)).real
    return mixed.T + p["mix.bias"].repeat(x.shape[1] // len(p["mix.bias"]))


def smlp(x: Array, p: dict[str, Array]) -> Array:
    side = math.isqrt(len(x))
    z = gelu(x).reshape(side, side, -1)
    down = np.stack([p["down.weight"] @ z[:, j] + p["down.bias"][:, None] for j in range(side)], 1)
    across = np.stack([p["across.weight"] @ z[i] + p["across.bias"][:, None] for i in range(side)], 0)
    return np.concatenate([z, down, across], -1).reshape(len(x), -1) @ p["fuse.weight"].T


def fuse(branches: list[Array], p: dict[str, Array]) -> Array:
    mean = sum(branches).mean((0, 1))  # type: ignore[union-attr]
    hidden = gelu(p["fuse.reweight.fc1.weight"] @ mean + p["fuse.reweight.fc1.bias"])
    scores = (p["fuse.reweight.fc2.weight"] @ hidden + p["fuse.reweight.fc2.bias"]).reshape(-1, 3)
    a = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    mixed = sum(branch * a[:, i] for i, branch in enumerate(branches))
    out: Array = mixed @ p["fuse.proj.weight"].T + p["fuse.proj.bias"]
    return out.reshape(-1, out.shape[-1])


def cycle(x: Array, p: dict[str, Array]) -> Array:
    side = math.isqrt(len(x))
    grid = x.reshape(side, side, -1)
    down, across = np.zeros_like(grid), np.zeros_like(grid)
    for i in range(side):
        for j in range(side):
            for c in range(grid.shape[2]):
                offset = (c + 1) % 3 - 1  # as in the public code, with a kernel of 3
                down[i, j, c], across[i, j, c] = at(grid, i + offset, j)[c], at(grid, i, j + offset)[c]
    branches = [down @ p["down.weight"].T + p["down.bias"], across @ p["across.weight"].T + p["across.bias"]]
    return fuse([*branches, grid @ p["own.weight"].T], p)


def region(lines: Array, p: dict[str, Array], name: str, by: int) -> Array:
    """[lines,places,C], each pair of neighbouring places together, the pairs moved by `by` in a ring."""
    out, places = np.zeros_like(lines), lines.shape[1]
    for line, tokens in enumerate(lines):
        for first in range(-by, places - by, 2):
            both = np.concatenate([tokens[first % places], tokens[(first + 1) % places]])
            hidden = norm(p[f"{name}.enter.weight"] @ both, p[f"{name}.norm.weight"], p[f"{name}.norm.bias"])
            mixed = p[f"{name}.leave.weight"] @ np.maximum(hidden, 0) + p[f"{name}.leave.bias"]
            out[line, first % places], out[line, (first + 1) % places] = np.split(mixed, 2)
    return out


def hire(x: Array, p: dict[str, Array], by: int = 0) -> Array:
    side = math.isqrt(len(x))
    grid = x.reshape(side, side, -1)
    down = region(grid.transpose(1, 0, 2), p, "down", by).transpose(1, 0, 2)
    return fuse([down, region(grid, p, "across", by), grid @ p["own.weight"].T + p["own.bias"]], p)


def convolved(grid: Array, kernels: Array) -> Array:
    """[H,W,C] with a kernel [C,1,k,k] for each channel, 0 beyond the edge."""
    out, edge = np.zeros_like(grid), kernels.shape[-1] // 2
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            for di in range(-edge, edge + 1):
                for dj in range(-edge, edge + 1):
                    out[i, j] += kernels[:, 0, di + edge, dj + edge] * at(grid, i + di, j + dj)
    return out


def depthwise(x: Array, p: dict[str, Array]) -> Array:
    side = math.isqrt(len(x))
    return convolved(x.reshape(side, side, -1), p["conv.weight"]).reshape(x.shape)


def ms(x: Array, p: dict[str, Array]) -> Array:
    side = math.isqrt(len(x))
    grid, first, out = x.reshape(side, side, -1), 0, np.zeros_like(x)
    for group, by in enumerate((-2, -1, 0, 1, 2)):
        last = first + len(p[f"down.convs.{group}.bias"])
        for axis, name in enumerate(("down", "across")):
            moved = np.roll(grid[..., first:last], by, axis)
            mixed = convolved(moved, p[f"{name}.convs.{group}.weight"]) + p[f"{name}.convs.{group}.bias"]
            out[:, first:last] += mixed.reshape(len(x), -1)
        first = last
    return out


EQUATIONS: dict[str, Callable[[Array, dict[str, Array]], Array]] = {
    "resmlp": resmlp,
    "gmlp": gmlp,
    "s2": s2,
    "ccs": ccs,
    "smlp": smlp,
    "cycle": cycle,
    "hire": hire,
    "depthwise": depthwise,
    "ms": ms,
}


def numbers_of(branch: nn.Module) -> dict[str, Array]:
    return {name: parameter.detach().numpy() for name, parameter in branch.named_parameters()}


@pytest.mark.parametrize("mixer", OTHERS)
def test_a_mixer_computes_its_equation(mixer: str) -> None:
    branch = awake(shape_of(mixer)).blocks[0].mlp_tokens.double()
    x = torch.randn(2, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = np.stack([EQUATIONS[mixer](image, numbers_of(branch)) for image in x.numpy()])
    np.testing.assert_allclose(branch(x).detach().numpy(), expected, rtol=1e-9, atol=1e-11)


def test_every_second_block_of_hire_moves_its_regions() -> None:
    model = awake(shape_of("hire")).double()
    x = torch.randn(1, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for number, by in enumerate((0, 1, 0)):
        branch = model.blocks[number].mlp_tokens
        np.testing.assert_allclose(
            branch(x)[0].detach().numpy(), hire(x[0].numpy(), numbers_of(branch), by), rtol=1e-9
        )


# -- traps -------------------------------------------------------------------------------------------------------------
def test_the_shift_does_not_smear_its_first_row() -> None:
    """Written into its own input, the positive shift copies row 0 over the whole axis."""
    rows = torch.arange(5.0).mul(40)[None, :, None, None].expand(1, 5, 5, 4)
    before = rows.clone()
    out = shifted(rows)
    assert out[0, :, 2, 0].tolist() == [0, 0, 40, 80, 120]
    assert out[0, :, 2, 1].tolist() == [40, 80, 120, 160, 160]
    sideways = shifted(rows.transpose(1, 2))
    assert sideways[0, 2, :, 2].tolist() == [0, 0, 40, 80, 120]
    assert sideways[0, 2, :, 3].tolist() == [40, 80, 120, 160, 160]
    assert torch.equal(rows, before)


def test_a_cycle_reads_nothing_from_beyond_the_edge() -> None:
    rows = torch.arange(1.0, 6.0)[None, :, None, None].expand(1, 5, 5, 3)
    out = cycled(rows, 1)
    assert [out[0, :, 0, c].tolist() for c in range(3)] == [[1, 2, 3, 4, 5], [2, 3, 4, 5, 0], [0, 1, 2, 3, 4]]
