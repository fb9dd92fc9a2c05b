"""The network: its function, its start, its masks, and that it traces whole and once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mixer_model.config import MixerConfig, config
from mixer_model.draws import keep_masks
from mixer_model.layers import Gelu, recompute_gelu
from mixer_model.mixer import Block, Mixer, PatchConv, to_input


def awake(shape: MixerConfig, seed: int = 0) -> Mixer:
    """A Mixer whose head is not zero, so that its logits say something."""
    model = Mixer(shape, seed=seed)
    with torch.no_grad():
        model.head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    return model


def test_patches_are_those_of_the_convolution() -> None:
    layer = PatchConv(3, 6, 4, stride=4)
    images = torch.randn(2, 3, 12, 20)
    expected = F.conv2d(images, layer.weight, layer.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(images), expected)


def test_every_parameter_is_drawn(small: MixerConfig) -> None:
    model = Mixer(small, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.reset(0)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_the_start_is_the_references() -> None:
    model = Mixer(config("S/16", depth=2, image_size=128), seed=0)
    fans = {"stem.proj": 768, "blocks.1.mlp_tokens.fc1": 64, "blocks.1.mlp_tokens.fc2": 256}
    fans |= {"blocks.0.mlp_channels.fc1": 512, "blocks.0.mlp_channels.fc2": 2048}
    for name, fan_in in fans.items():
        weight = model.get_parameter(f"{name}.weight").detach()
        assert float(weight.std()) == pytest.approx(fan_in**-0.5, rel=0.03)
        assert float(weight.abs().max()) <= 2 / 0.8796 * fan_in**-0.5 * 1.0001
        assert not model.get_parameter(f"{name}.bias").any()
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    assert bool((model.norm.weight == 1).all())
    assert model.norm.eps == 1e-6
    model.reset(0, head_bias=-6.9)
    assert bool((model.head.bias == torch.tensor(-6.9)).all())


def test_the_seed_decides_every_weight_and_nothing_else_does(small: MixerConfig) -> None:
    torch.manual_seed(1)
    first = Mixer(small, seed=5).state_dict()
    torch.manual_seed(2)
    again, other = Mixer(small, seed=5).state_dict(), Mixer(small, seed=6).state_dict()
    deeper = Mixer(config(None, **(small.to_dict() | {"depth": 4, "classes": 3})), seed=5).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.proj.weight"], other["stem.proj.weight"])
    assert all(torch.equal(first[name], deeper[name]) for name in first if not name.startswith("head"))
    assert not torch.equal(first["blocks.0.mlp_tokens.fc1.weight"], first["blocks.1.mlp_tokens.fc1.weight"])


def test_the_number_of_threads_changes_no_weight() -> None:
    shape, threads, found = config("S/16", depth=1, image_size=48), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(Mixer(shape, seed=0).state_dict())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in other)


def test_building_leaves_the_global_generator_alone(small: MixerConfig) -> None:
    before = torch.get_rng_state()
    Mixer(small, seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_first_weights_never_change() -> None:
    """A golden vector: a run started yesterday and one started today begin alike."""
    weight = Mixer(config(None, patch=2, dim=4, depth=1, image_size=4, classes=2), seed=0).stem.proj.weight
    expected = torch.tensor([-0.4978907, -0.1001269, 0.2839988, 0.02697452])
    torch.testing.assert_close(weight.flatten()[:4].detach(), expected, rtol=1e-5, atol=0)


def test_all_kept_is_no_mask(small: MixerConfig, images: torch.Tensor) -> None:
    model = awake(small)
    torch.testing.assert_close(model(images, torch.ones(3, 2, 5)), model(images))


def test_what_is_kept_is_not_scaled_and_what_is_not_is_skipped(small: MixerConfig) -> None:
    block = awake(small).blocks[1]
    assert isinstance(block, Block)
    x = torch.randn(4, small.tokens, small.dim)
    keep = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    out = block(x, keep)
    torch.testing.assert_close(out[0], block(x)[0])
    torch.testing.assert_close(out[1], x[1] + block.mlp_channels(block.norm2(x[1:2]))[0])
    tokens = block.mlp_tokens(block.norm1(x[2:3]))
    torch.testing.assert_close(out[2], x[2] + tokens[0])
    assert torch.equal(out[3], x[3])


def test_a_sample_is_not_touched_by_its_neighbours(small: MixerConfig, images: torch.Tensor) -> None:
    model, keep = awake(small), keep_masks(0, 0, 3, 5, 0.5)
    alone = torch.cat([model(images[i : i + 1], keep[:, :, i : i + 1]) for i in range(5)])
    torch.testing.assert_close(model(images, keep), alone)


def test_gradients_reach_the_head_only_at_first(small: MixerConfig, images: torch.Tensor) -> None:
    """The head starts at zero; a test that looks for gradients in the body must take one step first."""
    model = Mixer(small, seed=0)
    torch.autograd.backward(F.cross_entropy(model(images), torch.arange(5)))
    touched = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert touched == {"head.weight", "head.bias"}


def test_bf16_weights_take_float_images(small: MixerConfig, images: torch.Tensor) -> None:
    model = awake(small)
    wanted = model(images)
    logits = model.to(torch.bfloat16)(images, torch.ones(3, 2, 5))
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), wanted, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_the_activation_is_the_one_asked_for(activation: str) -> None:
    block = Block(config(None, patch=2, dim=4, depth=1, image_size=4, activation=activation))
    x = torch.linspace(-3, 3, 50)
    exact, tanh = F.gelu(x), F.gelu(x, approximate="tanh")
    assert torch.equal(block.mlp_tokens.act(x), exact if activation == "gelu" else tanh)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_recomputing_gelu_changes_no_bit(small: MixerConfig, images: torch.Tensor, activation: str) -> None:
    model = awake(config(None, **(small.to_dict() | {"activation": activation})))

    def gradients() -> list[torch.Tensor]:
        loss = F.cross_entropy(model(images), torch.arange(5))
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    kept = gradients()
    recompute_gelu(model)
    assert all(torch.equal(one, other) for one, other in zip(kept, gradients(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_compiled_for_tanh_is_the_same_function(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001, dtype=torch.float64), torch.tensor([-1e4, 0.0, 1e4])])
    x = x.to(dtype).requires_grad_()
    gelu, close = Gelu("gelu_tanh"), {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    plain = gelu(x)
    (wanted,) = torch.autograd.grad(plain.sum(), x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compiled = gelu(x)
    (slope,) = torch.autograd.grad(compiled.sum(), x)
    assert not torch.equal(plain, compiled)
    torch.testing.assert_close(compiled, plain, atol=close, rtol=close)
    torch.testing.assert_close(slope, wanted, atol=close, rtol=close)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(gelu(x), plain)


def test_what_is_compiled_for_erf_is_torchs_erf(monkeypatch: pytest.MonkeyPatch) -> None:
    x, gelu = torch.linspace(-6, 6, 401, dtype=torch.float64), Gelu("gelu")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(gelu(x), x * torch.special.ndtr(x), atol=1e-14, rtol=1e-14)


def test_images_of_another_size_are_refused(small: MixerConfig) -> None:
    with pytest.raises(ValueError, match=r"images are \(2, 3, 16, 32\); this Mixer takes \[B, 3, 32, 32\]"):
        Mixer(small)(torch.zeros(2, 3, 16, 32))


def test_pixels_become_minus_one_to_one() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(2, 4, 5, 3)
    out = to_input(pixels)
    assert out.shape == (2, 3, 4, 5)
    assert out[0, :, 0, 0].tolist() == pytest.approx([-1.0, 1.0, -0.6])


# torch's tracer looks at .grad of inner tensors and hides the warning only where warnings are not errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(("masked", "recompute"), [(False, False), (True, False), (False, True)])
def test_one_graph_serves_all_blocks(
    small: MixerConfig,
    images: torch.Tensor,
    traced: tuple[list[Any], Callable[..., Any]],
    masked: bool,
    recompute: bool,
) -> None:
    graphs, backend = traced
    keep = keep_masks(0, 0, 3, 5, 0.5) if masked else None
    model = awake(small)
    wanted = model(images, keep)
    if recompute:
        recompute_gelu(model)
    for block in model.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, backend=backend)
    for _ in range(2):
        torch.testing.assert_close(model(images, keep), wanted)
    assert len(graphs) == 1
    assert list(model.state_dict()) == list(Mixer(small, seed=None).state_dict())


def test_features_are_what_the_head_sees(small: MixerConfig, images: torch.Tensor) -> None:
    model, keep = awake(small), keep_masks(0, 0, 3, 5, 0.5)
    seen: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    logits = model(images, keep)
    assert torch.equal(model.features(images, keep), seen[0])
    assert torch.equal(model.head(model.features(images, keep)), logits)
    assert seen[0].shape == (5, small.dim)


def test_a_rescaled_mask_is_timms_drop_path(timm: Any, small: MixerConfig) -> None:
    """A kept sample's branch counts 1/keep in timm; the mask timm drew, scaled as ours are, gives the same block."""
    from timm.layers import DropPath

    block, x = Block(small), torch.randn(40, small.tokens, small.dim)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs, kept = DropPath(0.25).train(), []
    torch.manual_seed(2)
    out = x
    for norm, mlp in ((block.norm1, block.mlp_tokens), (block.norm2, block.mlp_channels)):
        branch = theirs(mlp(norm(out)))
        kept.append(branch.flatten(1).any(dim=1))
        out = out + branch
    drawn = torch.stack(kept).float()
    assert 0 < drawn.mean() < 1
    kept_counts = keep_masks(0, 0, 2, 40, 0.25, rescale=True)[1].max()
    torch.testing.assert_close(block(x, drawn * kept_counts), out)
