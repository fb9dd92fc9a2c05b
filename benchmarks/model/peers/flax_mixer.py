"""MLP-Mixer in flax, from the paper's section 2 with flax's own defaults: LayerNorm, GELU, Dense and Conv as JAX means them.

    python -m benchmarks.model.peers.flax_mixer FOLDER

reads FOLDER/job.json and FOLDER/given.npz if that is there (weights in Google's layout; else they are drawn, and shaken so that no
parameter is 0 or 1), and writes there: weights.npz, images.npy [B,H,W,3], weigh.npy [B,K], logits.npy, gradients.npz (of the sum of
logits * weigh), and start.json, the spread of each kernel as flax draws it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


class Mlp(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(x.shape[-1], name="Dense_1")(nn.gelu(nn.Dense(self.hidden, name="Dense_0")(x)))


class Block(nn.Module):
    token: int
    channel: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        across = nn.LayerNorm(name="LayerNorm_0")(x).transpose(0, 2, 1)
        x = x + Mlp(self.token, name="token_mixing")(across).transpose(0, 2, 1)
        return x + Mlp(self.channel, name="channel_mixing")(nn.LayerNorm(name="LayerNorm_1")(x))


class Mixer(nn.Module):
    patch: int
    dim: int
    depth: int
    token: int
    channel: int
    classes: int

    @nn.compact
    def __call__(self, images: Any) -> Any:
        cut = (self.patch, self.patch)
        x = nn.Conv(self.dim, cut, strides=cut, name="stem")(images)
        x = x.reshape(x.shape[0], -1, self.dim)
        for block in range(self.depth):
            x = Block(self.token, self.channel, name=f"MixerBlock_{block}")(x)
        x = nn.LayerNorm(name="pre_head_layer_norm")(x).mean(axis=1)
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name="head")(x)


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    kind, side, count = job.pop("dtype"), job.pop("side"), job.pop("images")
    jax.config.update("jax_enable_x64", kind == "float64")
    rng, model = np.random.default_rng(0), Mixer(**job)
    images = rng.uniform(-1, 1, size=(count, side, side, 3)).astype(kind)
    drawn = {
        name: np.asarray(value)
        for name, value in _flat(model.init(jax.random.key(0), images)["params"]).items()
    }
    (folder / "start.json").write_text(
        json.dumps({name: float(value.std()) for name, value in drawn.items()})
    )
    given = folder / "given.npz"
    weights = (
        dict(np.load(given))
        if given.exists()
        else {name: _shaken(rng, value) for name, value in drawn.items()}
    )
    weights = {name: value.astype(kind) for name, value in weights.items()}
    weigh = rng.normal(size=(count, job["classes"])).astype(kind)

    def score(tree: Any) -> Any:
        logits = model.apply({"params": tree}, images)
        return (logits * weigh).sum(), logits

    (_, logits), slopes = jax.jit(jax.value_and_grad(score, has_aux=True))(unflatten_dict(weights, sep="/"))
    np.savez(folder / "weights.npz", **weights)
    np.savez(folder / "gradients.npz", **{name: np.asarray(value) for name, value in _flat(slopes).items()})
    for name, value in (("images", images), ("weigh", weigh), ("logits", np.asarray(logits))):
        np.save(folder / f"{name}.npy", value)


def _flat(tree: Any) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")


def _shaken(rng: np.random.Generator, value: Any) -> Any:
    """Norms' scales, biases and the head would else be 1 or 0, and hide what is done with them."""
    return value + (0.02 if value.ndim > 1 else 0.1) * rng.normal(size=value.shape).astype(value.dtype)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
