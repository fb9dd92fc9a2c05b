"""`train`: the arithmetic of training and its optimizer. Part of the run's identity."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from orchestrator.durations import Duration
from orchestrator.spec.section import Section, Steps

_OF_OPTIMIZER: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.999), "eps": 1e-8},
    "sgd": {"lr": 0.03, "weight_decay": 0.0, "momentum": 0.9},
}  # what each one knows, with what it is when left out


class Optimizer(Section):
    """AdamW for pretraining, SGD with momentum for fine-tuning. Decay falls on the weights of linear and patch layers only."""

    name: Literal["adamw", "sgd"] = Field(
        "adamw", description="keys that the one chosen does not know are refused"
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate; of sgd 0.03 when left out")
    weight_decay: float = Field(
        0.1,
        ge=0,
        description="of adamw decoupled, times the learning rate; of sgd added to the gradient, 0 when left out",
    )
    betas: tuple[float, float] | None = Field(
        (0.9, 0.999), description="adamw: decay rates of the two moments"
    )
    eps: float | None = Field(1e-8, gt=0, description="adamw: added to the root of the second moment")
    momentum: float | None = Field(
        None, gt=0, lt=1, description="sgd: what a step keeps of the one before; 0.9 when left out"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_its_name(cls, given: Any) -> Any:
        """What the chosen optimizer knows, filled in; null for what it does not know."""
        name = given.get("name", "adamw") if isinstance(given, dict) else None
        if name not in ("adamw", "sgd"):
            return given  # the fields say what is wrong with it
        known, own = _OF_OPTIMIZER[name], ("betas", "eps", "momentum")
        for key in own:
            if key not in known and given.get(key) is not None:
                raise ValueError(f"{key} got {given[key]}; {name} does not know it: leave it out")
        said = {key: value for key, value in given.items() if value is not None or key not in own}
        return {**dict.fromkeys(own), **known, **said}

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the torch optimizer that `name` means, besides the decay of its groups."""
        mine = self.model_dump(include={"lr", *_OF_OPTIMIZER[self.name]} - {"weight_decay"})
        return {key: value for key, value in mine.items() if value is not None}


class Train(Section):
    """The arithmetic of training: part of the run's identity."""

    global_batch: int = Field(ge=1, description="samples per step, at any number of workers")
    micro_batch: int = Field(ge=1, description="samples per forward and backward; divides global_batch")
    epochs: float | None = Field(None, gt=0, description="length of the run; or give steps")
    steps: int | None = Field(None, ge=1, description="length of the run; or give epochs")
    optimizer: Optimizer = Optimizer()
    warmup_steps: Steps = Field(Duration(0, "steps"), description="linear warmup; steps, images or epochs")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="decay to 0 after the warmup"
    )
    clip: float | None = Field(1.0, gt=0, description="largest global norm of the gradient; null is off")
    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="of weights and activations in a step; masters are fp32"
    )
    zero: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    compile: bool = Field(True, description="torch.compile, one block for all")
    compile_cache: bool = Field(
        True,
        description="keep compiled code in the store for later attempts; off for a store others write to",
    )
    recompute: Literal["none", "gelu", "block"] = Field(
        "none",
        description="memory for time: what the backward pass computes again. `gelu`: what comes out of GELUs, cheap and 38 % less to "
        "keep at H/14; `block`: all but a block's input",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, order and augmentation")

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, given: Any) -> Any:
        """Specs frozen by older versions say `activation_checkpointing`."""
        if not isinstance(given, dict) or "activation_checkpointing" not in given:
            return given
        tree = dict(given)
        old = tree.pop("activation_checkpointing")
        if not isinstance(old, bool):
            raise ValueError(f"activation_checkpointing got {old!r}; give recompute: none, gelu or block")
        if "recompute" in tree:
            raise ValueError(
                f"activation_checkpointing got {old}; recompute, given too, has taken its place: leave it out"
            )
        return {**tree, "recompute": "block" if old else "none"}

    @property
    def micro_batches(self) -> int:
        """M, the micro-batches of a step."""
        return self.global_batch // self.micro_batch

    @model_validator(mode="after")
    def _fits(self) -> Train:
        if self.global_batch % self.micro_batch:
            raise ValueError(
                f"micro_batch got {self.micro_batch}; it must divide global_batch {self.global_batch}"
            )
        if (self.epochs is None) == (self.steps is None):
            given = "both were given" if self.steps else "neither was given"
            raise ValueError(f"give either epochs or steps; {given}")
        if self.warmup_steps.seconds is not None:
            raise ValueError(f"warmup_steps got {self.warmup_steps}; give steps, images or epochs")
        if self.zero == 0 and self.precision == "bf16":
            raise ValueError(
                "zero: 0 with bf16 is refused (DeepSpeed's first update is wrong there); use zero: 1 or more"
            )
        return self
