"""The only importer of deepspeed: a Mixer under ZeRO that trains on weighted micro-batches.

model -> blocks compiled -> DeepSpeed -> forward_backward() for each of G = ceil(M/W) micro-batches -> step(). A micro-batch that only
fills a short worker's time is computed like any other and its loss is masked out, so shapes and collectives are equal on all ranks.
"""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

import mixer_model
from mixer_model.draws import keep_masks, mixup_lambda
from mixer_model.losses import LOSSES, mixed, training_loss
from mixer_model.mixer import Block, Mixer, to_input
from mixer_model.param_groups import param_groups
from orchestrator.errors import UserError
from orchestrator.spec import Spec, Train
from orchestrator.training import blocks, fragments
from orchestrator.training.pulse import Pulse

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class Place:
    """This process in its group: its rank, the world size W, and its device."""

    rank: int
    world: int
    device: torch.device


def join(*, gpus: int = 0, timeout_s: float = 1800.0) -> Place:
    """Join the process group of this attempt: gloo on CPU, NCCL on GPUs. Uses the group that Ray Train made, if there is one.

    From here on this process convolves with cuDNN's reproducible algorithms only: the mixers depthwise and ms have convolutions.
    UserError when a GPU is asked for and none is in sight.
    """
    if gpus and not torch.cuda.is_available():
        raise UserError(
            "workers.gpus is 1 and this worker sees no GPU; set it to 0, or mend that machine's driver"
        )
    torch.backends.cudnn.deterministic = True
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local % torch.cuda.device_count()) if gpus else torch.device("cpu")
    deepspeed = _deepspeed(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        from datetime import timedelta

        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return Place(dist.get_rank(), dist.get_world_size(), device)


def leave() -> None:
    """Leave the process group, and with it the groups that DeepSpeed made in it: this process may join another."""
    import deepspeed.comm

    deepspeed.comm.destroy_process_group()


_PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}  # dense bf16, from data sheets


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s that the device's maker states; None where it is not known, as for any CPU."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((flops for key, flops in _PEAK_FLOPS.items() if key in name), None)


def _deepspeed(device: torch.device) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
        import deepspeed.comm

    deepspeed.logger.setLevel("ERROR")
    # DeepSpeed 0.19.8 calls collectives by names that torch 2.13 renames.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.", category=FutureWarning)
    # On CPU init_distributed would compile an op (1-2 min, needs ninja) that only inference uses.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    return deepspeed


def preload(device: torch.device) -> None:
    """Import what an Engine would, so that processes forked off this one need not."""
    _deepspeed(device)
    import deepspeed.runtime.engine
    import deepspeed.runtime.zero.stage3
    import deepspeed.runtime.zero.stage_1_and_2  # noqa: F401


def build_model(spec: Spec) -> Mixer:
    """The network of `spec` with its first weights: a function of the spec's seed alone."""
    model = mixer_model.create(spec.model.preset, **spec.model.overrides(), seed=spec.train.seed)
    torch.nn.init.constant_(model.head.bias, spec.model.first_bias)
    return model


class Engine:
    """One rank's part of the model, its optimizer and the arithmetic of a step."""

    def __init__(self, spec: Spec, place: Place) -> None:
        self.place, self.spec = place, spec
        self.slots = spec.train.micro_batches
        self.rounds = math.ceil(self.slots / place.world)  # G, micro-batches per worker and step
        self._dtype = torch.bfloat16 if spec.train.precision == "bf16" else torch.float32
        self.losses = training_loss(spec.model.loss, spec.model.label_smoothing)
        self.plain_losses = LOSSES[spec.model.loss]  # for evaluation
        model = build_model(spec)
        self.shapes = {name: list(param.shape) for name, param in model.named_parameters()}
        blocks.prepare(model, spec.train)
        self.engine = under_zero(model, spec.train, self.rounds, place.device)
        fragments.create_state(self.engine)
        self.kinds = fragments.kinds(self.engine)
        self.fresh = True  # until the first micro-batch, which compiles
        self.pulse = Pulse()
        self.forward_s = 0.0  # in forward passes so far: the part of a step in which no rank waits for another (but in stage 3)

    # -- a step ---------------------------------------------------------------------------------------------------------
    def forward_backward(
        self, images: torch.Tensor, labels: torch.Tensor, item: int, *, real: bool
    ) -> torch.Tensor:
        """Add one micro-batch's gradient. Its mean loss (0-dim, fp32, on the device), or 0 where not `real`.

        `images` uint8 [m, H, W, 3]; `labels` int64 [m] or [m, L]; `item` is the slot's first item, the key of its own random draws.

        Weights: with G micro-batches a worker, DeepSpeed divides by G and averages over W, so a real micro-batch gets G*W/M and the
        sum over all ranks is the mean over the step's M micro-batches, at any W.
        """
        y = labels.to(self.place.device)
        lam = mixup_lambda(self.spec.train.seed, item, self.spec.data.augment.mixup)
        x = mixed(self.normalise(images), lam)
        keep = self._keep(item, len(labels))
        began = time.perf_counter()
        logits = self.engine(x, keep).float()
        self.forward_s += time.perf_counter() - began
        losses = self.losses(logits, y)
        if lam < 1:
            losses = lam * losses + (1 - lam) * self.losses(logits, y.roll(1, 0))
        # where(), not a product: a masked loss sends back exact zeros whatever its value.
        mask = torch.full_like(losses, real, dtype=torch.bool)
        loss = torch.where(mask, losses, torch.zeros_like(losses)).mean()
        self.pulse.mark(
            "collective"
        )  # DeepSpeed reduces gradients as they come: a peer may be waited for here
        self.engine.backward(loss * (self.rounds * self.place.world / self.slots))
        self.fresh = False
        return loss.detach()

    def _keep(self, item: int, samples: int) -> torch.Tensor | None:
        """The masks of stochastic depth, [depth, 2, m] on the device; None where there is none."""
        model = self.spec.model
        if not model.drop_path:
            return None
        masks = keep_masks(
            self.spec.train.seed, item, self._depth, samples, model.drop_path, rescale=model.drop_path_rescale
        )
        return masks.to(self.place.device, self._dtype)

    def step(self, lr: float) -> float | None:
        """Update the weights at `lr`. The global norm of the gradient before clipping; None where the stage does not give it.

        Called once after each micro-batch by DeepSpeed's rule: only the call after the G-th updates.
        """
        for group in fragments.inner(self.engine).param_groups:
            group["lr"] = lr
        plain = self._norm() if self.spec.train.zero == 0 else None  # DeepSpeed tells it from stage 1 on
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if plain is None else plain
        return None if norm is None else float(norm)

    def _norm(self) -> torch.Tensor:
        """The norm of the gradient that every rank holds whole, before the step takes it away."""
        grads = [param.grad for param in self.engine.module.parameters() if param.grad is not None]
        return torch.nn.utils.get_total_norm(grads)

    def close_micro_batch(self) -> None:
        """Tell DeepSpeed that a micro-batch which is not the step's last is done."""
        self.engine.step()

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [m, H, W, 3] to [-1, 1] in the training precision, [m, 3, H, W] on the device."""
        return to_input(images.to(self.place.device, non_blocking=True)).to(self._dtype).contiguous()

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """fp32 logits [m, classes] of uint8 images [m, H, W, 3], in evaluation mode. Collective in stage 3."""
        x = self.normalise(images)
        keep = None
        if self.spec.model.drop_path:  # all kept, and said so: without masks it would be another graph
            keep = x.new_ones(self._depth, 2, len(x))
        with self._evaluating():
            return self.engine(x, keep).float()  # type: ignore[no-any-return]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self.engine.eval()
        try:
            yield
        finally:
            self.engine.train()

    @property
    def _depth(self) -> int:
        return len(self.engine.module.blocks)

    def agree(self, numbers: list[float]) -> list[float]:
        """Sums over all ranks, in fp64: the one collective a step needs besides DeepSpeed's."""
        total = torch.tensor(numbers, dtype=torch.float64, device=self.place.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    # -- state ----------------------------------------------------------------------------------------------------------
    def owned(self) -> list[fragments.Fragment]:
        """What this rank saves."""
        return list(fragments.owned(self.engine, self.place.rank, self.place.world))

    def to_fill(self) -> list[fragments.Fragment]:
        """What this rank loads."""
        return list(fragments.replicated(self.engine, self.place.rank, self.place.world))

    def filled(self, updates: int) -> None:
        """Go on from filled fragments after `updates` optimizer updates. Collective."""
        fragments.set_updates(self.engine, updates)
        fragments.publish_masters(self.engine)


def under_zero(model: Mixer, train: Train, rounds: int, device: torch.device) -> Any:
    """DeepSpeed's engine of `model`, whose blocks are prepared, with the optimizer of `train`. The process group has been joined."""
    deepspeed = _deepspeed(device)
    if train.zero == 3:
        from deepspeed.utils import set_z3_leaf_modules

        set_z3_leaf_modules(model, [Block])
    groups = param_groups(model, train.optimizer.weight_decay)
    optimizer = OPTIMIZERS[train.optimizer.name](groups, **train.optimizer.arguments(), fused=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=zero_config(train, rounds, device.type)
        )
    return engine


def zero_config(train: Train, rounds: int, device: str) -> dict[str, Any]:
    """DeepSpeed's configuration for `train` with `rounds` micro-batches per worker and step.

    memory_efficient_linear is off where blocks are compiled: the compiled graph releases gathered weights by itself, and the
    custom linear would break it. Reduction of bf16 gradients is in fp32: in bf16 the rounding of the sum shows.
    """
    zero: dict[str, Any] = {"stage": train.zero, "overlap_comm": device == "cuda"}
    if train.zero in (1, 2):  # "scatter" there is an all-reduce too, of a copy that is copied back
        zero["reduce_scatter"] = False
    if device == "cpu":  # small buckets: half the peak memory of the defaults
        zero |= {"reduce_bucket_size": int(2e7), "allgather_bucket_size": int(2e7)}
    if train.zero == 3:
        zero |= {"memory_efficient_linear": not train.compile}
        if device == "cpu":
            zero |= {
                "sub_group_size": int(3e7),
                "stage3_prefetch_bucket_size": int(1.5e7),
                "stage3_max_live_parameters": int(4e7),
                "stage3_max_reuse_distance": 0,
            }
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": rounds,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": train.clip or 0.0,
        "bf16": {"enabled": train.precision == "bf16"},
        "steps_per_print": 1 << 60,
    }
    if train.precision == "bf16":
        config["communication_data_type"] = "fp32"
        config["bf16"]["check_grad_overflow"] = (
            False  # the norm tells, and Judge asks it before a step counts
        )
        if train.zero >= 2:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config
