"""MLP-Mixer from the equations of the paper (arXiv:2105.01601, section 2) in numpy alone: what the network is compared with.

Parameters are a flat tree in the layout of the published JAX code (kernels [in,out], images [B,H,W,3]), so that a comparison also
goes through our reading of that layout. Nothing here is shared with the package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tree = dict[str, Array]


def random_tree(
    rng: np.random.Generator,
    *,
    patch: int,
    side: int,
    dim: int,
    depth: int,
    token: int,
    channel: int,
    classes: int,
) -> Tree:
    """Every parameter random, kernels scaled so that signals keep their size; float64."""
    tokens = (side // patch) ** 2
    tree: Tree = {}

    def dense(name: str, *shape: int) -> None:
        fan_in = int(np.prod(shape[:-1]))
        tree[f"{name}/kernel"] = rng.normal(size=shape) / np.sqrt(fan_in)
        tree[f"{name}/bias"] = 0.1 * rng.normal(size=shape[-1])

    def norm(name: str) -> None:
        tree[f"{name}/scale"] = 1 + 0.1 * rng.normal(size=dim)
        tree[f"{name}/bias"] = 0.1 * rng.normal(size=dim)

    dense("stem", patch, patch, 3, dim)
    for block in range(depth):
        name = f"MixerBlock_{block}"
        norm(f"{name}/LayerNorm_0")
        dense(f"{name}/token_mixing/Dense_0", tokens, token)
        dense(f"{name}/token_mixing/Dense_1", token, tokens)
        norm(f"{name}/LayerNorm_1")
        dense(f"{name}/channel_mixing/Dense_0", dim, channel)
        dense(f"{name}/channel_mixing/Dense_1", channel, dim)
    norm("pre_head_layer_norm")
    dense("head", dim, classes)
    return tree


def logits(
    tree: Tree, images: Array, *, eps: float = 1e-6, tanh: bool = True, fast_variance: bool = False
) -> Array:
    """[B,K] of images [B,H,W,3]."""

    def dense(name: str, x: Array) -> Array:
        return x @ tree[f"{name}/kernel"] + tree[f"{name}/bias"]

    def norm(name: str, x: Array) -> Array:
        mean = x.mean(-1, keepdims=True)
        spread = (
            (x**2).mean(-1, keepdims=True) - mean**2
            if fast_variance
            else ((x - mean) ** 2).mean(-1, keepdims=True)
        )
        return (x - mean) / np.sqrt(spread + eps) * tree[f"{name}/scale"] + tree[f"{name}/bias"]

    def mlp(name: str, x: Array) -> Array:
        return dense(f"{name}/Dense_1", gelu(dense(f"{name}/Dense_0", x), tanh))

    x = _stem(tree, images)
    for block in range(sum(name.endswith("LayerNorm_0/scale") for name in tree)):
        name = f"MixerBlock_{block}"
        u = x + mlp(f"{name}/token_mixing", norm(f"{name}/LayerNorm_0", x).swapaxes(1, 2)).swapaxes(1, 2)
        x = u + mlp(f"{name}/channel_mixing", norm(f"{name}/LayerNorm_1", u))
    return dense("head", norm("pre_head_layer_norm", x).mean(1))


def gelu(x: Array, tanh: bool) -> Array:
    """By the tanh approximation (arXiv:1606.08415), or exactly."""
    if tanh:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    from math import erf

    return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def _stem(tree: Tree, images: Array) -> Array:
    """Patch by patch, in raster order."""
    kernel = tree["stem/kernel"]
    patch, (_, height, width, _) = kernel.shape[0], images.shape
    cuts = [
        images[:, top : top + patch, left : left + patch]
        for top in range(0, height, patch)
        for left in range(0, width, patch)
    ]
    return np.stack([np.einsum("bijc,ijcd->bd", cut, kernel) for cut in cuts], axis=1) + tree["stem/bias"]
