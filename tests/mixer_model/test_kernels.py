"""The kernels' operations: their gradients, what they equal in torch, and the Triton code itself where Triton is there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import library
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mixer_model.kernels import ops, reference

ROOT = Path(__file__).resolve().parents[2]


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=made, dtype=torch.float64).to(dtype) for shape in shapes]


def test_norm_transpose_is_layer_norm_and_transpose_with_their_gradients() -> None:
    x, weight, bias, grad = drawn((2, 5, 6), (6,), (6,), (2, 6, 5))
    ours = [value.clone().requires_grad_() for value in (x, weight, bias)]
    theirs = [value.clone().requires_grad_() for value in (x, weight, bias)]
    out = ops.norm_transpose(*ours, 1e-6)
    wanted = F.layer_norm(theirs[0], (6,), theirs[1], theirs[2], 1e-6).transpose(1, 2)
    assert out.shape == (2, 6, 5)
    assert out.is_contiguous()
    torch.testing.assert_close(out, wanted)
    out.backward(grad)
    wanted.backward(grad)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_add_norm_is_the_sum_and_its_norm_with_their_gradients() -> None:
    """Both results are used by what follows: the sum goes on, its norm into the channel MLP."""
    x, y, weight, bias, one, two = drawn((2, 5, 6), (2, 6, 5), (6,), (6,), (2, 5, 6), (2, 5, 6))
    ours = [value.clone().requires_grad_() for value in (x, y, weight, bias)]
    theirs = [value.clone().requires_grad_() for value in (x, y, weight, bias)]
    found = ops.add_norm(*ours, 1e-6)
    total = theirs[0] + theirs[1].transpose(1, 2)
    wanted = (total, F.layer_norm(total, (6,), theirs[2], theirs[3], 1e-6))
    torch.testing.assert_close(found, wanted)
    torch.autograd.backward(found, (one, two))
    torch.autograd.backward(wanted, (one, two))
    for each, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(each.grad, other.grad)


def test_bias_gelu_is_the_tanh_form_with_its_gradients() -> None:
    h, bias, grad = drawn((3, 4, 7), (7,), (3, 4, 7))
    ours = [value.clone().requires_grad_() for value in (h, bias)]
    theirs = [value.clone().requires_grad_() for value in (h, bias)]
    out, wanted = ops.bias_gelu(ours[0], ours[1]), F.gelu(theirs[0] + theirs[1], approximate="tanh")
    torch.testing.assert_close(out, wanted)
    out.backward(grad)
    wanted.backward(grad)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_gradients_are_the_limits_of_differences() -> None:
    x, y, weight, bias, h = [
        value.requires_grad_() for value in drawn((2, 3, 4), (2, 4, 3), (4,), (4,), (6, 4))
    ]
    assert torch.autograd.gradcheck(lambda *args: ops.norm_transpose(*args, 1e-6), (x, weight, bias))
    assert torch.autograd.gradcheck(lambda *args: ops.add_norm(*args, 1e-6), (x, y, weight, bias))
    assert torch.autograd.gradcheck(ops.bias_gelu, (h, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_operation_keeps_the_rules_that_autograd_and_the_compiler_go_by(dtype: torch.dtype) -> None:
    """What its shapes and types are said to be, that it changes no argument, that it differentiates when traced."""
    x, y, weight, bias, h = [
        value.requires_grad_() for value in drawn((2, 3, 4), (2, 4, 3), (4,), (4,), (6, 4), dtype=dtype)
    ]
    library.opcheck(torch.ops.mixer.norm_transpose.default, (x, weight, bias, 1e-6))
    library.opcheck(torch.ops.mixer.add_norm.default, (x, y, weight, bias, 1e-6))
    library.opcheck(torch.ops.mixer.bias_gelu.default, (h, bias))


@pytest.mark.parametrize("wide", [(0, 1), (0, 2)])
def test_of_inputs_that_do_not_lie_in_rows_the_shapes_are_still_as_said(wide: tuple[int, int]) -> None:
    """Strides too: the compiler goes by those that were said."""
    lying = {(0, 1): ((3, 2, 4), (4, 2, 3)), (0, 2): ((4, 3, 2), (3, 4, 2))}[wide]
    x, y, weight, bias = drawn(*lying, (4,), (4,), dtype=torch.float32)
    x, y = x.transpose(*wide).requires_grad_(), y.transpose(*wide).requires_grad_()
    h = drawn((3, 6))[0].t().requires_grad_()
    library.opcheck(torch.ops.mixer.norm_transpose.default, (x, weight, bias, 1e-6))
    library.opcheck(torch.ops.mixer.add_norm.default, (x, y, weight, bias, 1e-6))
    library.opcheck(torch.ops.mixer.bias_gelu.default, (h, drawn((3,))[0]))


def test_sums_are_made_in_float32_whatever_the_input() -> None:
    """One thousand and a bf16 step: in bf16 the mean alone would be off by more than the values differ."""
    x = (torch.arange(64.0) * 8 + 1000).reshape(1, 1, 64).to(torch.bfloat16)
    out, mean, rstd = reference.norm_transpose(x, torch.ones(64), torch.zeros(64), 1e-6)
    assert (mean.dtype, rstd.dtype, out.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    torch.testing.assert_close(mean, x.float().mean(-1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_float64_is_refused_where_the_kernels_would_compute_in_float32(dtype: torch.dtype) -> None:
    """Shapes of a GPU's tensors need no GPU."""
    with FakeTensorMode():
        x, weight = torch.empty(2, 3, 4, device="cuda", dtype=dtype), torch.empty(4, device="cuda")
        calls = [
            lambda: ops.norm_transpose(x, weight, weight, 1e-6),
            lambda: ops.add_norm(x, x.transpose(1, 2), weight, weight, 1e-6)[0],
            lambda: ops.bias_gelu(x, weight),
        ]
        for call in calls:
            if dtype == torch.float32:
                assert call().dtype == dtype
            else:
                with pytest.raises(TypeError, match=r"float64.*float32 on a GPU; .*float32 or bfloat16"):
                    call()


def test_the_kernels_are_said_to_run_only_where_they_can() -> None:
    there = importlib.util.find_spec("triton") is not None and torch.cuda.is_available()
    assert ops.available() is there


INTERPRETED = """
import torch
from mixer_model.kernels import on_cuda, reference
torch.set_num_threads(1)
torch.manual_seed(0)
checks = []
for batch, tokens, channels in ((2, 70, 96), (1, 64, 64), (2, 9, 130)):
    x, w, b = torch.randn(batch, tokens, channels), torch.randn(channels), torch.randn(channels)
    grad, h = torch.randn(batch, channels, tokens), torch.randn(batch * tokens * 9, channels)
    kept = reference.norm_transpose(x, w, b, 1e-6)
    checks += zip(kept, on_cuda.norm_transpose(x, w, b, 1e-6))
    checks += zip(reference.norm_transpose_backward(grad, x, w, *kept[1:]), on_cuda.norm_transpose_backward(grad, x, w, *kept[1:]))
    total = reference.add_norm(x, grad, w, b, 1e-6)
    checks += zip(total, on_cuda.add_norm(x, grad, w, b, 1e-6))
    given = x.flip(0), x.flip(1), total[0], w, total[2], total[3]
    checks += zip(reference.add_norm_backward(*given), on_cuda.add_norm_backward(*given))
    checks.append((reference.bias_gelu(h, w), on_cuda.bias_gelu(h, w)))
    checks += zip(reference.bias_gelu_backward(h.flip(0), h, w), on_cuda.bias_gelu_backward(h.flip(0), h, w))
for wanted, found in checks:
    assert wanted.shape == found.shape and (wanted - found).norm() <= 1e-6 * wanted.norm(), (wanted - found).norm() / wanted.norm()
print("all", len(checks))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed here")
def test_the_triton_code_computes_the_formulas_at_any_shape() -> None:
    """Interpreted on the CPU, at shapes that fill no tile; tiles at the edges read nothing and write nothing outside."""
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "all 51" in run.stdout, run.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not ops.available(), reason="no CUDA device with Triton here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_kernels_compute_the_formulas(dtype: torch.dtype) -> None:
    from mixer_model.kernels import on_cuda

    near = 1e-5 if dtype == torch.float32 else 1e-2
    x, weight, bias, grad, h = drawn(
        (3, 256, 1280), (1280,), (1280,), (3, 1280, 256), (999, 1280), dtype=dtype
    )
    kept = reference.norm_transpose(x, weight, bias, 1e-6)
    total = reference.add_norm(x, grad, weight, bias, 1e-6)
    given = x.flip(0), x.flip(1), total[0], weight, total[2], total[3]
    pairs: list[tuple[Any, Any]] = [
        (kept, on_cuda.norm_transpose(*_moved(x, weight, bias), 1e-6)),
        (
            reference.norm_transpose_backward(grad, x, weight, *kept[1:]),
            on_cuda.norm_transpose_backward(*_moved(grad, x, weight, *kept[1:])),
        ),
        (total, on_cuda.add_norm(*_moved(x, grad, weight, bias), 1e-6)),
        (reference.add_norm_backward(*given), on_cuda.add_norm_backward(*_moved(*given))),
        ([reference.bias_gelu(h, bias)], [on_cuda.bias_gelu(*_moved(h, bias))]),
        (
            reference.bias_gelu_backward(h.flip(0), h, bias),
            on_cuda.bias_gelu_backward(*_moved(h.flip(0), h, bias)),
        ),
    ]
    for wanted, found in pairs:
        for one, other in zip(wanted, found, strict=True):
            assert float((one - other.cpu()).float().norm()) <= near * float(one.float().norm())


def _moved(*values: torch.Tensor) -> list[torch.Tensor]:
    return [value.cuda() for value in values]
