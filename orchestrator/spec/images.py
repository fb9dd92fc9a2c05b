"""`data`: where the images are, and how a training image is made of one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from orchestrator.spec.section import Bytes, Section


class RandAugment(Section):
    """RandAugment: `ops` operations in a row, each at `magnitude`."""

    ops: int = Field(2, ge=1, le=10, description="operations per image")
    magnitude: float = Field(15, ge=0, le=30, description="strength, 0 to 30")


class Augment(Section):
    """Augmentation besides the crop. Every draw is keyed by (seed, item)."""

    randaugment: RandAugment | None = Field(None, description="off when left out")
    mixup: float = Field(0.0, ge=0, description="the Beta distribution's parameter; 0 is off")


class Cache(Section):
    """A folder of each machine that keeps blocks of the data for later epochs, shared by its workers."""

    size: Bytes = Field(ge=64_000_000, description="at most about this much of the disk")
    folder: str = Field("~/.cache/mixer/blocks", description="on a fast local disk")


class Data(Section):
    """Where the images are, and how a training image is made of one."""

    train: str = Field(description="url of packed or indexed training shards")
    val: str | None = Field(None, description="url of validation shards")
    decode: Literal["rrc", "resize"] = Field(
        "rrc", description="random resized crop, or the whole image resized"
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(
        "bilinear", description="how images are resized, antialiased"
    )
    scale: tuple[float, float] = Field(
        (0.08, 1.0), description="share of the image's area that a crop covers"
    )
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="aspect ratio of a crop")
    flip: bool = Field(True, description="mirror half of the images; wrong for digits and text")
    eval_crop: Literal["auto", "resmall-crop", "resize-crop", "whole"] = Field(
        "auto",
        description="what evaluation sees: the short side, or both sides, scaled to 8/7 of the image size and the centre cut out "
        "(the paper's two); the whole image; `auto`: the first, but whole where `decode` is `resize` or the image is small",
    )
    augment: Augment = Augment()
    resident: Bytes = Field(
        64_000_000, ge=0, description="a data set up to this size is read once and kept by every worker"
    )
    window_memory: Bytes = Field(
        2_000_000_000, ge=1, description="bytes of shuffle windows the smallest world may hold, job-wide"
    )
    cache: Cache | None = Field(None, description="off when left out")
    bad: Literal["substitute", "raise"] = Field(
        "substitute",
        description="a training image that does not decode: take another by rule, or end the run",
    )
    bad_share: float = Field(
        0.0001, ge=0, le=1, description="share of samples that may be undecodable before the run stops"
    )
    threads: int = Field(2, ge=1, description="decoding threads per worker")

    @model_validator(mode="after")
    def _ranges(self) -> Data:
        for name, (low, high) in {"scale": self.scale, "ratio": self.ratio}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} got {low}..{high}; give two numbers, 0 < low <= high")
        if self.scale[1] > 1:
            raise ValueError(f"scale got {self.scale[1]}; a crop covers at most 1.0 of the image")
        return self
