"""The token mixers of the related work: how they start, learn, trace, decay and travel; and that no sample sees another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from mixer_model import interop
from mixer_model.config import TOKEN_MIXERS, ConfigError
from mixer_model.layers import recompute_gelu
from mixer_model.mixer import Mixer
from mixer_model.param_groups import param_groups
from mixer_model.pictures import OVER_POSITIONS, panels, wanted
from mixer_model.token_mixers import BRANCHES, token_mixer
from mixer_model.token_mixers.hire import HireMlp
from tests.mixer_model.mixers import OTHERS, awake, shape_of


@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_a_sample_is_not_touched_by_its_neighbours(mixer: str, images: torch.Tensor) -> None:
    """A statistic over the batch would make the result depend on how many workers share it."""
    model = awake(shape_of(mixer))
    alone = torch.cat([model(images[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(model(images), alone, rtol=1e-4, atol=1e-5)
    assert not list(model.buffers())


# -- start, decay ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mixer", OTHERS)
def test_every_parameter_is_drawn(mixer: str) -> None:
    model = Mixer(shape_of(mixer), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.reset(0)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_kernels_are_lecun_normal() -> None:
    """The standard deviation is 1 / sqrt(fan in): the tokens that a circulant sums, the taps of a depthwise kernel."""
    fans = {"ccs": ("mix.weight", 16), "depthwise": ("conv.weight", 9), "ms": ("down.convs.4.weight", 9)}
    fans |= {"smlp": ("fuse.weight", 1536), "cycle": ("own.weight", 512), "hire": ("down.enter.weight", 1024)}
    for mixer, (name, fan) in fans.items():
        branch = Mixer(shape_of(mixer, dim=512, depth=1), seed=0).blocks[0].mlp_tokens
        weight = branch.get_parameter(name)
        assert float(weight.detach().std()) == pytest.approx(fan**-0.5, rel=0.1), mixer


@pytest.mark.parametrize("mixer", ["cycle", "hire"])
def test_three_branches_joined_are_as_strong_as_one(mixer: str) -> None:
    """Their mean has a third of the variance; without the wider start both learn slower at first."""
    branch = Mixer(shape_of(mixer, dim=512, depth=1), seed=0).blocks[0].mlp_tokens
    assert float(branch.fuse.proj.weight.detach().std()) == pytest.approx((3 / 512) ** 0.5, rel=0.02)
    assert float(branch.own.weight.detach().std()) == pytest.approx((1 / 512) ** 0.5, rel=0.02)


def test_the_gate_of_gmlp_starts_open() -> None:
    branch = Mixer(shape_of("gmlp"), seed=0).blocks[2].mlp_tokens
    assert not branch.gate.weight.any()
    assert bool((branch.gate.bias == 1).all())
    x = torch.randn(2, 16, 24)
    kept = branch.act(branch.enter(x))[..., :20]
    torch.testing.assert_close(branch(x), branch.leave(kept))


@pytest.mark.parametrize(("depth", "start"), [(12, 0.1), (18, 0.1), (24, 1e-5), (36, 1e-6)])
def test_the_scale_of_resmlp_starts_by_depth(depth: int, start: float) -> None:
    scale = Mixer(shape_of("resmlp", depth=depth), seed=0).blocks[-1].mlp_tokens.scale
    assert bool((scale == torch.tensor(start)).all())


@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_kernels_decay_and_nothing_else(mixer: str) -> None:
    model = Mixer(shape_of(mixer), seed=None)
    decay, rest = (group["params"] for group in param_groups(model, 0.1))
    assert all(parameter.ndim > 1 for parameter in decay)
    assert all(parameter.ndim == 1 for parameter in rest)
    assert len(decay) + len(rest) == len(list(model.parameters()))


@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_it_learns(mixer: str, images: torch.Tensor) -> None:
    """A few steps lower the loss, and reach every parameter."""
    model = Mixer(shape_of(mixer), seed=0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(param_groups(model, 0.1), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(images), torch.arange(5))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    moved = zip(model.named_parameters(), before, strict=True)
    assert not [name for (name, parameter), old in moved if torch.equal(parameter, old)]


# -- recomputed, compiled, bf16 ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mixer", ["gmlp", "s2", "smlp", "cycle", "hire"])
def test_recomputing_gelu_changes_no_bit(mixer: str, images: torch.Tensor) -> None:
    model = awake(shape_of(mixer, depth=2))
    names = list(model.state_dict())

    def gradients() -> list[torch.Tensor]:
        loss = nn.functional.cross_entropy(model(images), torch.arange(5))
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    kept = gradients()
    recompute_gelu(model)
    assert all(torch.equal(one, other) for one, other in zip(kept, gradients(), strict=True))
    assert list(model.state_dict()) == names


# torch's tracer looks at .grad of inner tensors and hides the warning only where warnings are not errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("mixer", "again"), [*((mixer, False) for mixer in OTHERS), ("gmlp", True), ("smlp", True)]
)
def test_a_block_traces_whole_and_serves_all(
    mixer: str, again: bool, images: torch.Tensor, traced: tuple[list[Any], Callable[..., Any]]
) -> None:
    """One graph for all blocks, and for hire, whose blocks are of two kinds, two."""
    graphs, backend = traced
    model = awake(shape_of(mixer))
    wanted = model(images)
    if again:
        recompute_gelu(model)
    for block in model.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False, backend=backend)
    for _ in range(2):
        torch.testing.assert_close(model(images), wanted, rtol=1e-5, atol=1e-6)  # its GELU is another formula
    assert len(graphs) == (2 if mixer == "hire" else 1)


# The real compiler, at its first import.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_is_eager() -> None:
    """By the real compiler: same output, same gradients."""
    branch = awake(shape_of("ccs", depth=1)).blocks[0].mlp_tokens
    x, found = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(1)), []
    for function in (branch.forward, torch.compile(branch.forward, fullgraph=True, dynamic=False)):
        leaf = x.clone().requires_grad_()
        branch.zero_grad()
        out = function(leaf)
        torch.autograd.backward(out.square().sum())
        found.append([out.detach(), leaf.grad, *(parameter.grad for parameter in branch.parameters())])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixer", OTHERS)
def test_bf16_is_near_fp32(mixer: str, images: torch.Tensor) -> None:
    model = awake(shape_of(mixer))
    wanted = model(images).detach()
    logits = model.to(torch.bfloat16)(images)
    torch.autograd.backward(logits.sum())
    assert logits.dtype == torch.bfloat16
    assert float((logits.detach().float() - wanted).norm() / wanted.norm()) < 0.03


# -- config, files -----------------------------------------------------------------------------------------------------
def test_the_names_are_the_same_everywhere() -> None:
    from orchestrator.spec import Model

    assert tuple(BRANCHES) == TOKEN_MIXERS == get_args(Model.model_fields["mixer"].annotation)


def test_the_block_asks_its_config() -> None:
    assert isinstance(token_mixer(shape_of("hire"), 1), HireMlp)
    assert type(token_mixer(shape_of("s2"))).__name__ == "SpatialShift"


@pytest.mark.parametrize(
    ("mixer", "numbers", "message"),
    [
        (
            "s3",
            {},
            r"mixer 's3' is not known; allowed: mlp, resmlp, gmlp, s2, ccs, smlp, cycle, hire, depthwise, ms",
        ),
        (
            "s2",
            {"dim": 30},
            r"dim 30 is not a multiple of 4, the channel groups of mixer 's2'; take 28 or 32",
        ),
        ("ccs", {"dim": 4}, r"dim 4 is not a multiple of 8, .*; take 8$"),
        ("cycle", {"dim": 3}, r"dim 3 is too narrow for mixer 'cycle'; take at least 4"),
        ("ms", {"dim": 4}, r"dim 4 is too narrow for mixer 'ms'; take at least 5"),
        ("hire", {"image_size": 56}, r"7 x 7 patches do not fold into regions of 2 rows.*multiple of 2"),
    ],
)
def test_impossible_shapes_are_refused(mixer: str, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shape_of(mixer, **numbers)


@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_what_has_a_weight_for_every_position_is_drawn(mixer: str) -> None:
    shape = shape_of(mixer)
    state = Mixer(shape, seed=0).state_dict()
    names = wanted(shape, {name: list(value.shape) for name, value in state.items()})
    tokens, stem = panels({name: state[name] for name in names}, shape)
    assert len(tokens) == (3 if mixer in OVER_POSITIONS else 0)
    assert stem is not None


@pytest.mark.parametrize("mixer", ["smlp", "hire"])
def test_weights_travel_as_safetensors_and_not_to_timm(mixer: str, tmp_path: Path) -> None:
    shape = shape_of(mixer)
    model = awake(shape)
    interop.export_safetensors(model.state_dict(), tmp_path / "x.safetensors", shape)
    again, state = interop.load(tmp_path / "x.safetensors")
    assert again == shape
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    with pytest.raises(
        interop.WeightsError, match=f"timm's MlpMixer has no token mixing by '{mixer}', only 'mlp'"
    ):
        interop.timm_arguments(shape)
