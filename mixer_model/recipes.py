"""Published ways to train a Mixer, as data: each row of the paper's Table 4, the authors' re-run, fine-tuning, a smoke test.

    RECIPES["in1k-b"].values  ->  the keys of a spec that the source decides, as a mapping

A recipe names its source, and what the source leaves open and this recipe fills in. The paper is arXiv:2105.01601v4;
big_vision and vision_transformer are repositories of google-research. Values are in the terms of a run's spec; where data lie and how many
machines work on them is never among them. Torch's AdamW decays by rate times `weight_decay`, as the paper's numbers
mean it; big_vision's 1e-4 is that product. Nothing here validates, reads or trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Values = dict[str, Any]

PAPER: Final = "arXiv:2105.01601v4"
AREA: Final = (0.05, 1.0)
LOSS: Final = "the loss: softmax here; the authors' re-run (in1k-b16-sigmoid) has sigmoid"
CROP: Final = "the crop's area: 5 % to 100 %, the default of the authors' code (big_vision pp/ops_image.py)"
MICRO: Final = "the micro-batch, for which mixup draws one weight (theirs: the batch of a device)"
PATCH: Final = "the patch: the row is for a size, whatever its patch; override model.preset"
JFT: Final = "the data, which are not public, and so the number of classes (about 18,000): give model.classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One published way to train."""

    name: str
    what: str
    source: str
    """Paper and table, or repository and file."""
    unsaid: tuple[str, ...]
    """What the source leaves open or does otherwise, and what stands here."""
    values: Values
    """Keys of a spec, nested as in its YAML."""
    result: str = ""
    """What the source reaches with it."""


def _pretraining(
    preset: str,
    micro_batch: int,
    *,
    epochs: float,
    lr: float,
    decay: float,
    augment: Values,
    drop_path: float,
    **model: Any,
) -> Values:
    """What all of Table 4 shares (section 3): batch 4096, 10,000 steps of linear warmup, linear decay, clipping at 1, 224 pixels."""
    return {
        "model": {"preset": preset, "image_size": 224, "drop_path": drop_path, **model},
        "data": {
            "decode": "rrc",
            "scale": list(AREA),
            "flip": True,
            "augment": augment,
            "eval_crop": "resmall-crop",
        },
        "train": {
            "global_batch": 4096,
            "micro_batch": micro_batch,
            "epochs": epochs,
            "optimizer": {"name": "adamw", "lr": lr, "weight_decay": decay},
            "warmup_steps": 10_000,
            "schedule": "linear",
            "clip": 1.0,
        },
    }


def _imagenet(size: str, classes: int, magnitude: int, mixup: float) -> Values:
    """An ImageNet row: 300 epochs, rate 1e-3, decay 0.1, stochastic depth 0.1, RandAugment with 2 operations."""
    augment = {"randaugment": {"ops": 2, "magnitude": magnitude}, "mixup": mixup}
    micro = 128 if size == "B/16" else 64
    return _pretraining(
        size, micro, epochs=300, lr=1e-3, decay=0.1, augment=augment, drop_path=0.1, classes=classes
    )


def _jft(size: str, epochs: float, lr: float) -> Values:
    """A JFT-300M row: crop and flip only, decay 0.03."""
    micro = 128 if size[0] in "SB" else 64
    augment = {"randaugment": None, "mixup": 0.0}
    return _pretraining(size, micro, epochs=epochs, lr=lr, decay=0.03, augment=augment, drop_path=0.0)


def _table_4(name: str, what: str, row: str, values: Values, *unsaid: str, result: str = "") -> Recipe:
    own = (*unsaid, LOSS, CROP, *([MICRO] if values["data"]["augment"]["mixup"] else []))
    return Recipe(
        name=name, what=what, source=f"{PAPER}, Table 4, row {row}", unsaid=own, values=values, result=result
    )


def _rerun(name: str, epochs: int, result: str) -> Recipe:
    values = _imagenet("B/16", 1000, 15, 0.5)
    values["train"]["epochs"] = epochs
    values["model"] |= {"loss": "sigmoid", "head_bias": -6.9}
    return Recipe(
        name=name,
        what=f"Mixer-B/16 on ImageNet-1k, {epochs} epochs, sigmoid loss: the authors' own re-run",
        source="big_vision configs/mlp_mixer_i1k.py",
        unsaid=(
            "trained on the first 99 % of the training set there; on all that data.train holds here",
            "its rate ends at 1e-5 of the peak; here at 0",
            "its weight decay is written 1e-4, added after the rate: 0.1 for torch's AdamW",
            MICRO,
        ),
        values=values,
        result=result,
    )


def _fine_tuning(name: str, what: str, classes: int, steps: int, result: str = "") -> Recipe:
    return Recipe(
        name=name,
        what=what,
        source=f"{PAPER}, section 3 and appendix C; vision_transformer vit_jax/configs/common.py",
        unsaid=(
            "the weights it begins with: give model.init, and the preset they have (B/16 here)",
            "224 pixels, as for Table 3; Table 2 has 448 and resize-crop",
            "the rate: 0.03 is the code's default, the paper picks from a grid (ViT's, with 0.06 and without 0.001 for CIFAR)",
            "crop and flip are the code's; in the paper (A.2) neither that crop nor mixup gave a consistent gain",
            "the code keeps the momentum in bf16 and leaves 1-2 % of the training set out for choosing; here neither",
        ),
        values={
            "model": {"preset": "B/16", "classes": classes, "image_size": 224, "drop_path": 0.0},
            "data": {
                "decode": "rrc",
                "scale": list(AREA),
                "flip": True,
                "augment": {"randaugment": None, "mixup": 0.0},
                "eval_crop": "resmall-crop",
            },
            "train": {
                "global_batch": 512,
                "micro_batch": 64,
                "steps": steps,
                "optimizer": {"name": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 0.0},
                "warmup_steps": 500,
                "schedule": "cosine",
                "clip": 1.0,
            },
        },
        result=result,
    )


_ALL: Final = (
    _table_4(
        "in1k-b", "Mixer-B on ImageNet-1k, 300 epochs", "B, ImageNet", _imagenet("B/16", 1000, 15, 0.5), PATCH,
        result="76.44 % top-1 (B/16, fine-tuned at 224, Table 3)",
    ),
    _table_4(
        "in1k-l", "Mixer-L on ImageNet-1k, 300 epochs", "L, ImageNet", _imagenet("L/16", 1000, 15, 0.5), PATCH,
        "whether to: on this data alone L/16 ends 4.7 points below B/16, for it overfits more (Table 3, section 3.2)",
        result="71.76 % top-1 (L/16, fine-tuned at 224, Table 3)",
    ),
    _table_4(
        "in21k-b", "Mixer-B on ImageNet-21k, 300 epochs", "B, ImageNet-21k", _imagenet("B/16", 21843, 10, 0.2), PATCH,
        "the classes: 21,843, the head of the published weights",
        result="80.64 % on ImageNet-1k (B/16, fine-tuned at 224, Table 3)",
    ),
    _table_4(
        "in21k-l", "Mixer-L on ImageNet-21k, 300 epochs", "L, ImageNet-21k", _imagenet("L/16", 21843, 20, 0.5), PATCH,
        "the classes: 21,843, the head of the published weights",
        result="82.89 % on ImageNet-1k (L/16, fine-tuned at 224, Table 3)",
    ),
    Recipe(
        name="in21k-h",
        what="Mixer-H/14 on ImageNet-21k, 300 epochs: L's row, since there is none",
        source=f"none for H; {PAPER}, Table 4, row L, ImageNet-21k is the nearest",
        unsaid=(
            "everything: H/14 was trained on JFT-300M only",
            "the classes: 21,843, the head of the published weights", LOSS, CROP, MICRO,
        ),
        values=_imagenet("H/14", 21843, 20, 0.5),
    ),
    _table_4(
        "jft-s", "Mixer-S on JFT-300M, 5 epochs", "S, JFT-300M", _jft("S/16", 5, 3e-3), PATCH, JFT,
        result="73.83 % on ImageNet-1k (S/16, fine-tuned at 224, Table 3)",
    ),
    _table_4(
        "jft-b", "Mixer-B on JFT-300M, 7 epochs", "B, JFT-300M", _jft("B/16", 7, 3e-3), PATCH, JFT,
        result="80.00 % on ImageNet-1k (B/16, fine-tuned at 224, Table 3)",
    ),
    _table_4(
        "jft-l-7", "Mixer-L on JFT-300M, 7 epochs", "L, JFT-300M (7 epochs)", _jft("L/16", 7, 1e-3), PATCH, JFT,
        result="84.05 % on ImageNet-1k (L/16, fine-tuned at 224, Table 3)",
    ),
    _table_4(
        "jft-l-14", "Mixer-L on JFT-300M, 14 epochs", "L, JFT-300M (14 epochs)", _jft("L/16", 14, 1e-3), PATCH, JFT,
        result="84.82 % on ImageNet-1k (L/16, fine-tuned at 224, Table 3)",
    ),
    _table_4(
        "jft-h", "Mixer-H/14 on JFT-300M, 14 epochs", "H, JFT-300M", _jft("H/14", 14, 1e-3), JFT,
        result="86.32 % on ImageNet-1k (fine-tuned at 224, Table 3), 87.94 % at 448 (Table 2)",
    ),
    _rerun("in1k-b16-sigmoid", 300, "76.3 % top-1"),
    _rerun("in1k-b16-sigmoid-60", 60, "about 70.5 % top-1"),
    _fine_tuning("finetune-in1k", "Fine-tuning on ImageNet-1k, 20,000 steps", 1000, 20_000),
    _fine_tuning(
        "finetune-cifar10", "Fine-tuning on CIFAR-10, 10,000 steps", 10, 10_000,
        "96.82 % (B/16 from ImageNet-21k, vision_transformer's README)",
    ),
    _fine_tuning("finetune-cifar100", "Fine-tuning on CIFAR-100, 10,000 steps", 100, 10_000),
    Recipe(
        name="smoke",
        what="Three epochs of Mixer-S/32: do data, machines and loss work together?",
        source="ours: not meant to reach anything",
        unsaid=("the number of classes: give model.classes",),
        values={
            "model": {"preset": "S/32", "image_size": 224},
            "train": {
                "global_batch": 256,
                "micro_batch": 32,
                "epochs": 3,
                "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1},
                "warmup_steps": "0.3 epochs",
                "schedule": "linear",
                "clip": 1.0,
            },
        },
    ),
)  # fmt: skip

RECIPES: Final[dict[str, Recipe]] = {recipe.name: recipe for recipe in _ALL}
"""The recipes by the names a spec uses. Their values are shared: copy before changing."""
