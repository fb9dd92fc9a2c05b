"""The page docs/token-mixers.md: what each token mixer is, and what it costs and reaches, out of the results kept here.

python -m benchmarks.model.token_page > docs/token-mixers.md
"""

from __future__ import annotations

import json
from typing import Any, Final

from benchmarks import report
from mixer_model import cost
from mixer_model.config import TOKEN_MIXERS, config
from mixer_model.token_costs import token_cost

WHOLE: Final = ("B/16", "H/14")
EQUATIONS: Final = {
    "mlp": ("MLP-Mixer", "2105.01601", "Yᵀ = W₂ GELU(W₁ Xᵀ)", "one MLP over all tokens"),
    "resmlp": ("ResMLP", "2105.03404", "Y = s ⊙ (A X + b)", "one linear layer over all tokens, scaled per channel"),
    "gmlp": ("gMLP", "2105.08050", "[Z₁ Z₂] = GELU(X U), Y = (Z₁ ⊙ (W LN(Z₂) + b)) V", "one half gates the other"),
    "s2": ("S²-MLP", "2106.07477", "Y = shift(GELU(X W₁)) W₂", "channel quarters move one patch down, up, right, left"),
    "ccs": ("CCS", "2106.14882", "Y_g = circ(w_g) X_g + b_g", "a circulant matrix for each of 8 channel groups"),
    "smlp": ("sMLPNet", "2109.05422", "Z = GELU(X), Y = [Z, A Z, Z B] F", "along columns, along rows, joined"),
    "cycle": ("CycleMLP", "2107.10224", "Y = fuse(cycle_h(X) W_h, cycle_w(X) W_w, X W_c)", "channels read from neighbours in turn"),
    "hire": ("Hire-MLP", "2108.13341", "Y = fuse(R_h(X), R_w(X), X W_c)", "an MLP on pairs of rows and columns, moved every second block"),
    "depthwise": ("ConvMLP", "2109.04454", "y_c = k_c ∗ x_c", "a 3x3 kernel for each channel"),
    "ms": ("MS-MLP", "2202.06510", "Y = Σ over h, w of k_g ∗ roll(X_g, s_g)", "5 groups moved by -2..2, then 1x1 or 3x3 for each channel"),
}  # fmt: skip
"""Name, arXiv number, equation and words of each."""

HEAD = """\
# Token mixers

What mixes tokens in a block is one key of the spec:

```yaml
model: {preset: B/16, classes: 1000, mixer: s2}
```

`mlp`, the default, is MLP-Mixer's. The others are the token mixing of the networks that followed it, each as a branch that takes its
place: [tokens, channels] in, the same out, behind the block's LayerNorm and inside its residual. All else of the network, and all of
training, stays the same: `mixer train` trains them all. Their modules are in `mixer_model/token_mixers/`, one file each, with the
equation, the source and what differs from it.

## What each one is

"""

NOTES = """
X is [S, C]: S tokens in a square grid, C channels. Biases are left out where they are nothing special. `fuse` weighs three branches per
channel by a softmax of a small MLP on their mean over the image, and projects the sum.

- `resmlp`, `gmlp`, `s2` and `ccs` come from networks of equal blocks, as a Mixer is one. gMLP's unit is its whole block in the paper; here
  the channel MLP follows it, and `model.token_dim` is the width of its gate. S²-MLP's shift makes a new tensor: a widely copied version
  writes into its input, where the first row smears over all.
- `smlp`, `cycle`, `hire`, `depthwise` and `ms` come from pyramids; only their unit is here. BatchNorm became LayerNorm, or the block's
  own LayerNorm: a statistic over the batch would depend on how many workers share the batch.
- `ccs` is reconstructed from the abstract of its paper. The paper's equation, groups and start could not be read, and there is no public
  code.
- `hire` needs a grid that 2 divides, `s2` a width that 4 divides, `ccs` one that 8 divides. What cannot be built is refused with what can.
- `model.token_dim` is the hidden width of `mlp`, `gmlp` and `hire`. The others have none and ignore it, in a spec and where a run starts
  from weights.
- Kernels start LeCun normal as everywhere in the network, but gMLP's gate starts open (W = 0, b = 1) and ResMLP's scale s small
  (0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond), and what projects the mean of three branches (`cycle`, `hire`) √3 times as wide,
  which helps in the first steps only. Kernels decay; biases, norms and scales do not.
- Only `mlp` can be exported to timm; the others go to safetensors with their config.
- `depthwise` and `ms` are convolutions. cuDNN's fastest ones need not give the same bits twice, so training asks it for reproducible
  ones only. That was not tried on a GPU; who uses the modules elsewhere sets `torch.backends.cudnn.deterministic`.
- The token mixing of MLP-3D (arXiv:2206.06292) is not here: it mixes the frames of videos, and there is no public code of it.

"""
COSTS = """\
## What each one costs

Parameters of one token branch, millions of parameters of the whole network, GFLOP of one image forward (matrix products and
convolutions, one multiply-add being two), and MB of activations kept of one image in bf16, with `train.recompute` `none` / `gelu`;
224 pixels, 1,000 classes. From `mixer_model.cost`, which tests hold against the modules, torch's counter and autograd's saved tensors.

"""

SPEED = """
## How fast each one trains, {how}

Images per second of CPU time on one core ({cpu}), and the ratio to `mlp`, side by side in one run: forward, backward and AdamW of
{preset} with {depth} blocks, {batch} images, {precision}.{note} `{command}`

"""

ACCURACY = """
## What each one learns

scikit-learn's digits by `mixer train runs/digits.yaml --set model.mixer=NAME`: two workers, ZeRO 2, one seed, nothing tuned, and
the same spec for all but for what the last column names. Top-1 of {samples} validation images. This says that each one trains, not
which is best: one image is {image:.1f} %. `{command}`

"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD, _equations(), NOTES, _costs(), _speed(_kept("token-mixers-speed"))]
    return "".join([*parts, _accuracy(_kept("token-mixers-digits"))])


def _kept(name: str) -> dict[str, Any]:
    path = report.RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _equations() -> str:
    rows = [
        [f"`{mixer}`", f"{name}, [{number}](https://arxiv.org/abs/{number})", f"`{equation}`", words]
        for mixer, (name, number, equation, words) in EQUATIONS.items()
    ]
    return _table(["`mixer`", "network", "branch", "in words"], rows)


def _costs() -> str:
    rows = []
    for mixer in TOKEN_MIXERS:
        row = [f"`{mixer}`"]
        for preset in WHOLE:
            whole = cost(preset, classes=1000, mixer=mixer)
            branch = token_cost(config(preset, mixer=mixer))
            row += [f"{branch.params:,}", f"{whole.params / 1e6:.1f}", f"{whole.flops_forward / 1e9:.1f}"]
            again = cost(preset, classes=1000, mixer=mixer, recompute="gelu")
            row.append(f"{whole.activation_bytes / 1e6:.0f} / {again.activation_bytes / 1e6:.0f}")
        rows.append(row)
    names = [f"{preset} {what}" for preset in WHOLE for what in ("branch", "M", "GFLOP", "MB")]
    return COSTS + _table(["`mixer`", *names], rows)


def _speed(kept: dict[str, Any]) -> str:
    if not kept:
        return ""
    rows = [
        [f"`{mixer}`", f"{row['images_per_cpu_second']:.2f}", f"{row['ratio']:.2f}"]
        for mixer, row in ((name, kept["speed"][name]) for name in TOKEN_MIXERS)
    ]
    how = "eager" if kept["setup"]["eager"] else "compiled"
    note = " Training compiles blocks, which this does not." if kept["setup"]["eager"] else ""
    head = SPEED.format(
        **kept["setup"], cpu=kept["machine"]["cpu"], how=how, note=note, command=kept["command"]
    )
    return head + _table(["`mixer`", "images/s", "ratio"], rows)


def _accuracy(kept: dict[str, Any]) -> str:
    if not kept:
        return ""
    rows = [
        [
            f"`{mixer}`",
            f"{100 * row['accuracy']:.1f} %",
            f"{row['step']}",
            " ".join(f"`{it}`" for it in row["sets"]),
        ]
        for mixer, row in ((name, kept["accuracy"].get(name)) for name in TOKEN_MIXERS)
        if row
    ]
    some = next(iter(kept["accuracy"].values()))
    facts = {"samples": some["samples"], "image": 100 / some["samples"]}
    return ACCURACY.format(**facts, command=kept["command"]) + _table(
        ["`mixer`", "top-1", "steps", "`--set`"], rows
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
