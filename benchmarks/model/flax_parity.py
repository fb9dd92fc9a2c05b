"""The same function as JAX's: a flax Mixer's weights, read as Google's `.npz`, give its logits and its gradients here.

    python -m benchmarks.model.flax_parity [--peers .venv-peers] [--sizes S/32,B/16] [--images 2]

There and back: flax draws weights and writes them, `mixer_model.interop` reads them, and logits and gradients are compared; then
weights of ours, drawn by our own start, are written as `.npz` and flax computes with them. A small shape in fp64 leaves no room for
chance; sizes of the paper in fp32 at 224 pixels show what remains of rounding. Last, the spread of every kernel as each side draws it.
flax is in an environment of its own (peers.txt says how to make it).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import report
from mixer_model.config import PRESETS, MixerConfig, config
from mixer_model.interop import export_google, from_google, load, to_google
from mixer_model.mixer import Mixer

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = config(None, patch=7, dim=24, depth=4, token_dim=20, channel_dim=40, classes=11, image_size=35)
LIMITS = {"float64": {"logits": 1e-13, "gradients": 1e-12}, "float32": {"logits": 1e-5, "gradients": 1e-4}}
SPREAD = 1.05  # of a kernel's spread to the other side's, which are samples
DEAD = "mlp_tokens.fc2.bias"  # no gradient reaches it: it adds the same to all channels, and the next norm takes that away


def compare(
    python: Path, shape: MixerConfig, dtype: str, images: int, given: dict[str, torch.Tensor] | None
) -> dict[str, Any]:
    """Largest differences, as shares of the largest value; `given` are weights of ours for flax to compute with."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _ask(python, folder, shape, dtype, images, given)
        read, state = load(folder / "weights.npz")
        assert read == shape, f"read as {read}"
        model = Mixer(shape, seed=None).to_empty(device="cpu").to(getattr(torch, dtype))
        model.load_state_dict(state, strict=True)
        pixels, weigh = (torch.from_numpy(np.load(folder / f"{part}.npy")) for part in ("images", "weigh"))
        logits = model(pixels.permute(0, 3, 1, 2))
        torch.autograd.backward((logits * weigh).sum())
        theirs = from_google(dict(np.load(folder / "gradients.npz")))
        slopes = {
            name: _apart(value.grad, theirs[name])
            for name, value in model.named_parameters()
            if not name.endswith(DEAD)
        }
        worst = max(slopes, key=lambda name: slopes[name])
        return {
            "logits": _apart(logits.detach(), torch.from_numpy(np.load(folder / "logits.npy"))),
            "gradients": slopes[worst],
            "worst gradient": worst,
            "spread": _spread(shape, json.loads((folder / "start.json").read_text())),
        }


def _ask(
    python: Path,
    folder: Path,
    shape: MixerConfig,
    dtype: str,
    images: int,
    given: dict[str, torch.Tensor] | None,
) -> None:
    job = {
        "patch": shape.patch,
        "dim": shape.dim,
        "depth": shape.depth,
        "token": shape.token_dim,
        "channel": shape.channel_dim,
    }
    job |= {"classes": shape.classes, "side": shape.image_size}
    (folder / "job.json").write_text(json.dumps({**job, "dtype": dtype, "images": images}))
    if given:
        export_google(given, folder / "given.npz", shape)
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [python, "-m", "benchmarks.model.peers.flax_mixer", str(folder)], cwd=ROOT, env=env, check=True
    )


def _apart(ours: torch.Tensor | None, theirs: torch.Tensor) -> float:
    assert ours is not None
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _spread(shape: MixerConfig, theirs: dict[str, float]) -> float:
    """The largest ratio, either way, of a kernel's standard deviation as we draw it to flax's; the head is zero on both sides."""
    worst = 1.0
    for name, value in to_google(Mixer(shape, seed=1).state_dict()).items():
        if value.ndim == 1 or name == "head/kernel" or value.numel() < 10_000:
            continue
        ratio = float(value.std()) / theirs[name]
        worst = max(worst, ratio, 1 / ratio)
    assert theirs["head/kernel"] == 0.0
    return worst


def _awake(shape: MixerConfig) -> dict[str, torch.Tensor]:
    """Our own start, with a head that is not zero."""
    state = Mixer(shape, seed=0).state_dict()
    state["head.weight"].normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    return state


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default=".venv-peers", help="the environment with flax")
    parser.add_argument("--sizes", default="S/32,S/16,B/32,B/16", help=f"of {', '.join(PRESETS)}")
    parser.add_argument("--images", type=int, default=2)
    given = parser.parse_args()
    python = Path(given.peers).absolute() / "bin" / "python"
    if not python.exists():
        print(
            f"no flax at {given.peers}: benchmarks/model/peers.txt says how to make it; nothing was compared"
        )
        return
    rows: dict[str, dict[str, Any]] = {}
    shapes = {
        "small": (SMALL, "float64"),
        **{name: (PRESETS[name], "float32") for name in given.sizes.split(",")},
    }
    for name, (shape, dtype) in shapes.items():
        for way, state in (("flax to mixer", None), ("mixer to flax", _awake(shape))):
            row = {"dtype": dtype, **compare(python, shape, dtype, given.images, state)}
            rows[f"{name}, {way}"] = row
            figures = "  ".join(f"{key} {row[key]:.1e}" for key in ("logits", "gradients"))
            print(f"{name + ', ' + way:24}  {dtype}  {figures}  spread {row['spread']:.3f}", flush=True)
    bars = [
        report.bar(
            f"{name}: {what}, difference as a share of the bar",
            row[what] / LIMITS[row["dtype"]][what],
            1.0,
            most=True,
        )
        for name, row in rows.items()
        for what in ("logits", "gradients")
    ]
    bars.append(
        report.bar(
            "spread of a kernel, ours to flax's",
            max(row["spread"] for row in rows.values()),
            SPREAD,
            most=True,
        )
    )
    versions = subprocess.run(
        [python, "-c", "import flax, jax; print(flax.__version__, jax.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    report.write(
        "model-flax-parity",
        f"python -m benchmarks.model.flax_parity --sizes {given.sizes} --images {given.images}",
        rows=rows,
        limits=LIMITS,
        peers=dict(zip(("flax", "jax"), versions, strict=True)),
        bars=bars,
    )


if __name__ == "__main__":
    main()
