"""What a rank owns under ZeRO, as 1-D slices of named parameters: the same view for every stage and world size.

Stages 1 and 2: the part of each parameter's fp32 master that lies in this rank's partition. Stage 3: this rank's partition of each
parameter without its padding. Stage 0: nobody owns anything, so every rank takes an equal share. The slices of all ranks are
disjoint and cover every parameter. Views, not copies: writing into them writes the engine's state.

This file knows DeepSpeed's optimizers from the inside (0.19.8); engine.py is the only other place that does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}
"""What an optimizer keeps of each parameter besides its weight, by torch's names."""


@dataclass(frozen=True)
class Fragment:
    """Elements from `start` of the flat parameter `param`: 1-D fp32 views of its weight and its moments, all of one length."""

    param: str
    start: int
    views: dict[str, torch.Tensor]

    @property
    def length(self) -> int:
        return self.views["weight"].numel()


def flat_masters(engine: Any) -> list[torch.Tensor]:
    """The tensors that the optimizer really updates on this rank, whatever the stage."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3
        return list(optimizer.fp32_partitioned_groups_flat)
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # stages 1, 2
        return list(optimizer.single_partition_of_fp32_groups)
    return [param for group in inner(engine).param_groups for param in group["params"]]


def inner(engine: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside DeepSpeed's."""
    found = getattr(engine.optimizer, "optimizer", engine.optimizer)
    assert isinstance(found, torch.optim.Optimizer)
    return found


def kinds(engine: Any) -> tuple[str, ...]:
    """What a fragment holds: the weight, then the optimizer's moments."""
    return ("weight", *MOMENTS[type(inner(engine))])


def create_state(engine: Any) -> None:
    """Make the moments now, so that they can be read and filled before the first step.

    Optimizers make them lazily, and DeepSpeed 0.19.8 links them to parameters after the FIRST group's step only, so that with two
    groups (decay, no decay) the second stays unlinked. Creating all, then linking, is right for any number of groups. A momentum
    that begins as zeros is the gradient after the first step, as one that torch makes then.
    """
    optimizer, moments = engine.optimizer, MOMENTS[type(inner(engine))]
    for flat in flat_masters(engine):
        state = inner(engine).state[flat]
        if moments[0] not in state:
            state.update({key: torch.zeros_like(flat.data) for key in moments})
    set_updates(engine, 0)
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def set_updates(engine: Any, updates: int) -> None:
    """Tell the optimizer how many updates were made, if it counts them: AdamW does, for the bias of its moments."""
    if isinstance(inner(engine), torch.optim.AdamW):
        for flat in flat_masters(engine):
            inner(engine).state[flat]["step"] = torch.tensor(
                float(updates), dtype=torch.float32, device=flat.device
            )


def owned(engine: Any, rank: int, world: int) -> Iterator[Fragment]:
    """Every fragment this rank owns."""
    optimizer, of_each = engine.optimizer, kinds(engine)
    for name, param in engine.module.named_parameters():
        if hasattr(param, "ds_id"):
            yield from _stage3(optimizer, name, param, rank, of_each)
        elif hasattr(param, "_hp_mapping"):
            yield from _stage12(name, param, of_each)
        else:
            share = -(-param.numel() // world)
            start, end = min(rank * share, param.numel()), min((rank + 1) * share, param.numel())
            yield from _plain(inner(engine), name, param, start, end)


def replicated(engine: Any, rank: int, world: int) -> Iterator[Fragment]:
    """Every fragment this rank must fill when loading: what it owns, and in stage 0 everything."""
    optimizer = engine.optimizer
    sharded = any(
        hasattr(optimizer, name)
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups")
    )
    if sharded:
        yield from owned(engine, rank, world)
        return
    for name, param in engine.module.named_parameters():
        yield from _plain(inner(engine), name, param, 0, param.numel())


def _plain(optimizer: Any, name: str, param: torch.Tensor, start: int, end: int) -> Iterator[Fragment]:
    if end > start:
        state = optimizer.state[param]
        whole = {"weight": param.data, **{key: state[key] for key in MOMENTS[type(optimizer)]}}
        yield Fragment(name, start, {key: value.view(-1)[start:end] for key, value in whole.items()})


def _stage12(name: str, param: Any, of_each: tuple[str, ...]) -> Iterator[Fragment]:
    mapping = param._hp_mapping
    if mapping is not None:
        held = {"weight": mapping.hp_fragment, **mapping.optim_fragment}
        yield Fragment(name, mapping.lp_fragment_address.start, {key: held[key].data for key in of_each})


def _stage3(optimizer: Any, name: str, param: Any, rank: int, of_each: tuple[str, ...]) -> Iterator[Fragment]:
    views = {
        key: optimizer._get_fp32_opt_state_partition(param, True, None if key == "weight" else key)[0].data
        for key in of_each
    }
    partition = views["weight"].numel()
    start = rank * partition
    length = max(0, min(partition, param.ds_numel - start))
    if length:
        yield Fragment(name, start, {key: value[:length] for key, value in views.items()})


def publish_masters(engine: Any) -> None:
    """Copy the fp32 masters into the weights that the network computes with. Collective: every rank calls it."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        pairs = zip(
            optimizer.fp32_partitioned_groups_flat, optimizer.fp16_partitioned_groups_flat, strict=True
        )
        for master, working in pairs:
            working.data.copy_(master.data)
        groups = zip(optimizer.fp16_partitioned_groups_flat, optimizer.fp16_partitioned_groups, strict=True)
        for working, parts in groups:
            for part, piece in zip(parts, optimizer.unflatten(working, parts), strict=True):
                part.data = piece.data
        persistent = optimizer.persistent_parameters
        if len(persistent) > 0:
            persistent[0].partition(persistent)
            persistent[0].all_gather(persistent)
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
