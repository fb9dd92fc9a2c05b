"""The spec of a run: what its keys are, what they mean and which values are allowed.

`spec_text.py` makes a Spec of what a user wrote; `frozen.py` binds it to a data set and freezes it beside the run. Spec knows nothing
of buckets.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from mixer_model.config import config as mixer_config
from orchestrator.durations import Duration, parse_bytes, parse_duration, parse_interval

Steps = Annotated[Duration, BeforeValidator(parse_duration), PlainSerializer(str, return_type=str)]
Interval = Annotated[Duration, BeforeValidator(parse_interval), PlainSerializer(str, return_type=str)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]


class Section(BaseModel):
    """A part of the spec: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, populate_by_name=True, allow_inf_nan=False
    )


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
            raise ValueError("give either epochs or steps")
        if self.warmup_steps.seconds is not None:
            raise ValueError(f"warmup_steps got {self.warmup_steps}; give steps, images or epochs")
        if self.zero == 0 and self.precision == "bf16":
            raise ValueError(
                "zero: 0 with bf16 is refused (DeepSpeed's first update is wrong there); use zero: 1 or more"
            )
        return self


class Checkpoint(Section):
    """When state is saved, and how many of the saved states stay."""

    every: Interval = Field(
        Duration(500, "steps"),
        description="steps, images, epochs or wall time (`10 min`); `auto`: as often as loses least, by what a save costs and how "
        "often work is lost",
    )
    keep: int = Field(3, ge=1, description="newest whole checkpoints that stay")
    async_: bool = Field(True, alias="async", description="upload behind the step; false waits for it")
    in_memory: bool = Field(
        True,
        description="the newest one also in the memory of the nodes, each rank's part on its own and on one other; where there is room",
    )


class Workers(Section):
    """How many processes train, and what each one takes."""

    min: int = Field(1, ge=1, description="fewer than this: wait")
    max: int = Field(ge=1, description="never more; at most global_batch / micro_batch")
    gpus: int = Field(0, ge=0, le=1, description="per worker")
    cpus: float = Field(1, gt=0, description="per worker")

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min got {self.min}, more than max {self.max}")
        return self


class Spike(Section):
    """When a step's loss or gradient norm is so far above the usual that its batch is left out."""

    loss: float | None = Field(3.0, gt=1, description="times the median of the window; null is off")
    norm: float | None = Field(10.0, gt=1, description="the gradient's norm, likewise")
    window: int = Field(50, ge=20, le=1000, description="newest steps the median is of; judged from 20 on")


class Recovery(Section):
    """What may go wrong before the run gives up. The budgets refill when a newer checkpoint is committed."""

    failures: int = Field(5, ge=0, description="errors of the code, in a row without a new checkpoint")
    preemptions: Annotated[int, Field(ge=0)] | Literal["unlimited"] = Field(
        "unlimited", description="machines lost"
    )
    wait: Steps = Field(Duration(60, "minutes"), description="longest wait for machines, wall time")
    spike: Spike | None = Field(None, description="off when left out: only what is not finite counts")
    left_out: int = Field(
        3, ge=0, description="batches with a loss or gradient that cannot be used, in the whole run"
    )
    stragglers: Literal["report", "replace"] = Field(
        "report",
        description="a node slower than the others: say so, or leave it too where there is room without it",
    )

    @model_validator(mode="after")
    def _wall(self) -> Recovery:
        if self.wait.seconds is None:
            raise ValueError(f"wait got {self.wait}; give wall time (`60 min`)")
        return self


class Evaluate(Section):
    """When the validation set is run through."""

    every: Steps | None = Field(
        None, description="steps, images or epochs; always at the end when data.val is given"
    )

    @model_validator(mode="after")
    def _countable(self) -> Evaluate:
        if self.every is not None and self.every.seconds is not None:
            raise ValueError(f"every got {self.every}; give steps, images or epochs")
        return self


class Events(Section):
    """What is written down besides what the ledger needs."""

    sample_ids: bool = Field(False, description="the ids of every sample of every step (8 bytes each)")


class Spec(Section):
    """A run, as its user wants it."""

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?$", description="lower case, digits, `-` and `.`"
    )
    recipe: str | None = Field(
        None,
        description="values for all keys that are left out: [a published way to train](recipes.md), by its name in `mixer recipes`",
    )
    store: str | None = Field(None, description="s3://bucket/prefix or a folder; else --store or MIXER_STORE")
    model: Model
    data: Data
    train: Train
    checkpoint: Checkpoint = Checkpoint()
    workers: Workers
    recovery: Recovery = Recovery()
    evaluate: Evaluate = Evaluate()
    events: Events = Events()

    @model_validator(mode="after")
    def _fits(self) -> Spec:
        slots = self.train.micro_batches
        if self.workers.max > slots:
            raise ValueError(
                f"workers.max got {self.workers.max}; a step has {slots} micro-batches (global_batch / micro_batch), "
                f"so at most {slots} workers have work"
            )
        return self
