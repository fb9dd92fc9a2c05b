"""FP8 products: what is rounded, what comes out, and that the gradients are those of the rounded product."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixer_model.float8 import BACKWARD, FORWARD, Float8Linear, to_float8

LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
STEP = {torch.float8_e4m3fn: 2.0**-4, torch.float8_e5m2: 2.0**-3}
"""Half the distance between neighbours, over the value: 3 and 2 bits after the leading one."""


def layer(inputs: int = 32, outputs: int = 48) -> Float8Linear:
    torch.manual_seed(0)
    return Float8Linear.of(nn.Linear(inputs, outputs))


def rounded(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Told apart from the code: scale to the type's largest value, cast, undo, in double."""
    scale = LARGEST[kind] / x.abs().max().double()
    return (x.double() * scale).float().to(kind).double() / scale


@pytest.mark.parametrize("kind", [FORWARD, BACKWARD])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_values_of_any_size_come_back_to_within_half_a_step(kind: torch.dtype, size: float) -> None:
    x = (torch.rand(4096, generator=torch.Generator().manual_seed(0)) + 0.1) * size
    values, scale = to_float8(x, kind)
    assert values.dtype == kind
    if size > 1e-12:
        assert values.float().max() == LARGEST[kind]
        assert float(((values.double() * scale.double() - x.double()) / x.double()).abs().max()) <= STEP[kind]
    assert torch.isfinite(values.float()).all()


def test_zeros_stay_zeros_and_what_is_not_finite_stays_so() -> None:
    values, scale = to_float8(torch.zeros(16), FORWARD)
    assert not values.float().any()
    assert torch.isfinite(scale)
    broken, scale = to_float8(torch.tensor([1.0, float("nan")]), FORWARD)
    assert torch.isnan(broken.float() * scale).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_output_and_the_gradients_are_those_of_the_rounded_tensors(dtype: torch.dtype) -> None:
    """e4m3 for x and W, e5m2 for the gradient: dx = q(dy) q(W), dW = q(dy)^T q(x), and the bias's is never rounded."""
    ours = layer().to(dtype)
    x = torch.randn(2, 24, 32, dtype=dtype, requires_grad=True)
    grad = torch.randn(2, 24, 48, dtype=dtype)
    out = ours(x)
    out.backward(grad)
    rows, weight = rounded(x.detach().reshape(48, 32), FORWARD), rounded(ours.weight.detach(), FORWARD)
    given = rounded(grad.reshape(48, 48), BACKWARD)
    assert x.grad is not None
    assert (out.dtype, x.grad.dtype) == (dtype, dtype)
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    flat = out.detach().double().reshape(48, 48)
    torch.testing.assert_close(flat, rows @ weight.t() + ours.bias.detach().double(), **near)
    torch.testing.assert_close(x.grad.double().reshape(48, 32), given @ weight, **near)
    torch.testing.assert_close(ours.weight.grad.double(), given.t() @ rows, **near)
    torch.testing.assert_close(ours.bias.grad.double(), grad.double().sum((0, 1)), **near)


def test_it_is_near_the_layer_it_replaces_and_shares_its_parameters() -> None:
    plain = nn.Linear(64, 128)
    ours = Float8Linear.of(plain)
    assert ours.weight is plain.weight
    assert list(ours.state_dict()) == list(plain.state_dict())
    x = torch.randn(64, 64)
    wanted, found = plain(x).detach(), ours(x).detach()
    assert 0.001 < float((found - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize(("inputs", "outputs", "given"), [(24, 32, 24), (32, 1000, 1000)])
def test_widths_that_a_gpu_would_refuse_are_refused_everywhere(inputs: int, outputs: int, given: int) -> None:
    with pytest.raises(ValueError, match=f"the width is {given}; FP8 products take multiples of 16"):
        Float8Linear(inputs, outputs)


def test_rows_and_words_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="the number of rows is 3; FP8 products take multiples of 16"):
        layer()(torch.zeros(3, 32))
    with pytest.raises(ValueError, match="fast is 'yes'; allowed: none, forward, all"):
        Float8Linear(16, 16, fast="yes")


# torch's tracer looks at .grad of inner tensors and makes an instance of the Function, and hides its own warnings about
# both only where warnings are not errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiler_traces_it_whole() -> None:
    torch.compiler.reset()
    ours, x = layer(), torch.randn(16, 32, requires_grad=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), ours(x))
    compiled(x).sum().backward()
    torch.compiler.reset()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_the_products_are_those_of_the_emulation() -> None:
    ours = layer(128, 256).to(torch.bfloat16)
    x, grad = torch.randn(64, 128).to(torch.bfloat16), torch.randn(64, 256).to(torch.bfloat16)
    found = []
    for device in ("cpu", "cuda"):
        ours = ours.to(device)
        ours.zero_grad()
        given = x.to(device).requires_grad_()
        out = ours(given)
        out.backward(grad.to(device))
        assert given.grad is not None
        found.append([value.float().cpu() for value in (out, given.grad, ours.weight.grad, ours.bias.grad)])
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm()) <= 1e-2 * float(one.norm())
