"""`model`: the network, its loss and its first weights. Part of the run's identity."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from mixer_model.config import config as mixer_config
from orchestrator.spec.section import Section


class Model(Section):
    """The network. A preset of the paper, or its parts by name."""

    preset: str | None = Field(
        None, description="S/32, S/16, B/32, B/16, L/32, L/16 or H/14 (Table 1 of the paper)"
    )
    classes: int = Field(ge=1, description="outputs of the head")
    image_size: int = Field(224, ge=1, description="pixels per side, a multiple of the patch")
    patch: int | None = Field(None, ge=1, description="pixels per side of a patch; overrides the preset")
    dim: int | None = Field(None, ge=1, description="channels of a token; overrides the preset")
    depth: int | None = Field(None, ge=1, description="number of blocks; overrides the preset")
    token_dim: int | None = Field(
        None,
        ge=1,
        description="hidden units of the token mixer (mlp, gmlp, hire; the others ignore it); overrides the preset",
    )
    channel_dim: int | None = Field(
        None, ge=1, description="hidden units of the channel-mixing MLP; overrides the preset"
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="stochastic depth at the last block; linear from 0 at the first"
    )
    drop_path_rescale: bool = Field(
        False, description="divide what drop_path keeps by its share, as timm does; the paper's code does not"
    )
    activation: Literal["gelu", "gelu_tanh"] = Field(
        "gelu_tanh", description="GELU by tanh (JAX, the published networks) or by erf (timm)"
    )
    mixer: Literal["mlp", "resmlp", "gmlp", "s2", "ccs", "smlp", "cycle", "hire", "depthwise", "ms"] = Field(
        "mlp",
        description="what mixes tokens: MLP-Mixer's MLP, or one of the related work (docs/token-mixers.md)",
    )
    loss: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="cross-entropy over classes, or per class and summed"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the softmax's target that all classes get alike"
    )
    head_bias: float | None = Field(
        None, description="first bias of a head that is not init's; null: -ln(classes) for sigmoid, else 0"
    )
    init: str | None = Field(
        None,
        description="first weights: a run (its name in the same store, or `<store>/runs/<name>`), or a file of weights, as a path or "
        "url; copied beside the run when it is made. null: drawn by the seed",
    )
    head: Literal["keep", "new"] | None = Field(
        None,
        description="init's head, or a new one of zeros; null: kept where init has as many classes. Kept for "
        "classes of other names it is refused",
    )

    @model_validator(mode="after")
    def _complete(self) -> Model:
        mixer_config(self.preset, **self.overrides())
        if self.label_smoothing and self.loss != "softmax":
            raise ValueError(
                f"label_smoothing got {self.label_smoothing}; it is for loss: softmax, set it to 0 for {self.loss}"
            )
        if self.init == "":
            raise ValueError(
                "init got ''; give a run or a file of weights, or null for weights drawn by the seed"
            )
        if self.head and not self.init:
            raise ValueError(f"head got {self.head!r}; it goes with init, which is not given: leave it out")
        return self

    def overrides(self) -> dict[str, Any]:
        """The arguments of `mixer_model.config` and `mixer_model.create` besides the preset."""
        given = self.model_dump(exclude={"preset", "loss", "label_smoothing", "head_bias", "init", "head"})
        return {key: value for key, value in given.items() if value is not None}

    @property
    def first_bias(self) -> float:
        """The bias every output of the head starts with."""
        if self.head_bias is not None:
            return self.head_bias
        return -math.log(self.classes) if self.loss == "sigmoid" else 0.0  # else the first loss is K ln 2
