"""One training step, ready to be called: forward, loss, backward, AdamW.

    training(options, shape, batch) -> Training.step() -> the loss, still on the device
        optimizer: AdamW on masters, or the engine that a run trains with (zero.py)

Weights, activations and gradients are bf16; AdamW is torch's fused one on fp32 copies of the weights, for all alike, as
training at scale has it. Weights are drawn the same for every row, the head too: with a head of zeros the gradients
of all else are zeros, and a GPU multiplies zeros faster than numbers.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu.blocks import rewire
from benchmarks.gpu.plan import Options
from benchmarks.gpu.timing import settle
from mixer_model.config import MixerConfig
from mixer_model.mixer import Mixer
from mixer_model.param_groups import param_groups
from tests.torchvision_stand_in import timm_imported

WARM_UP: Final = 4
RATE, DECAY = 3e-4, 0.03
COMPILERS: Final[dict[str, dict[str, Any]]] = {
    "block": {},
    "model": {},
    "reduce-overhead": {"mode": "reduce-overhead"},
    "max-autotune": {"mode": "max-autotune-no-cudagraphs"},
    "max-autotune-tma": {"options": {"max_autotune": True, "triton.enable_persistent_tma_matmul": True}},
    "coordinate-descent": {"options": {"coordinate_descent_tuning": True}},
}
"""What torch.compile is told. On the CPU only graphs are made, no code."""


class Missing(RuntimeError):
    """A row that cannot run here, and why."""


class MasterAdamW:
    """AdamW on fp32 copies of the parameters, which take on their values after each step."""

    def __init__(self, model: nn.Module, *, rate: float = RATE, captured: bool = False) -> None:
        groups = param_groups(model, DECAY)
        self.params: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self.masters = [
            nn.Parameter(parameter.detach().to(torch.float32, copy=True)) for parameter in self.params
        ]
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        of = dict(zip(self.params, self.masters, strict=True))
        mine = [{**group, "params": [of[parameter] for parameter in group["params"]]} for group in groups]
        self.inner = torch.optim.AdamW(mine, lr=rate, fused=True, capturable=captured)

    def take(self, loss: Tensor) -> None:
        """Backward, and the update."""
        loss.backward()  # type: ignore[no-untyped-call]
        self.step()

    @torch.no_grad()
    def step(self) -> None:
        """Takes the parameters' gradients, and leaves them none."""
        torch._foreach_copy_([master.grad for master in self.masters], [p.grad for p in self.params])
        self.inner.step()
        torch._foreach_copy_(self.params, self.masters)
        for parameter in self.params:
            parameter.grad = None


class Training:
    """A model, an optimizer and one batch on a device."""

    def __init__(self, model: Any, optimizer: Any, images: Tensor, targets: Tensor, options: Options) -> None:
        self.model, self.optimizer = model, optimizer
        self.images, self.targets, self.options = images, targets, options

    def step(self) -> Tensor:
        """The loss before this step."""
        if self.options.compiled == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        loss = F.cross_entropy(self.model(self.images).float(), self.targets)
        self.optimizer.take(loss)
        return loss.detach()

    def warmed(self) -> tuple[Callable[[], Any], list[float]]:
        """A step that is compiled and captured, and the losses of the first ones."""
        losses = [float(self.step()) for _ in range(WARM_UP)]
        return (self._captured() if self.options.graph else self.step), losses

    def _captured(self) -> Callable[[], Any]:
        if not self.images.is_cuda:
            return self.step  # a graph is CUDA's; everything else is the same
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        replay: Callable[[], Any] = graph.replay
        return replay


@contextmanager
def training(options: Options, shape: MixerConfig, batch: int, device: torch.device) -> Iterator[Training]:
    """Raises Missing when timm or DeepSpeed is asked for and not there."""
    torch.compiler.reset()
    drawing = torch.Generator(device).manual_seed(0)
    model = _theirs(shape, device) if options.whose == "timm" else _ours(shape, device)
    draw(model, drawing)
    model.to(torch.bfloat16)
    if isinstance(model, Mixer):
        rewire(model, options)
    compile_(model, options, device)
    size = (batch, 3, shape.image_size, shape.image_size)
    images = torch.randn(size, generator=drawing, device=device).to(torch.bfloat16)
    targets = torch.randint(shape.classes, (batch,), generator=drawing, device=device)
    settle(device)
    if options.zero:
        with _zero().under_zero(model, options.zero, batch, device, rate=RATE, decay=DECAY) as engine:
            yield Training(engine, engine, images, targets, options)
    else:
        optimizer = MasterAdamW(model, captured=options.graph and images.is_cuda)
        yield Training(model, optimizer, images, targets, options)


@torch.no_grad()
def draw(model: nn.Module, generator: torch.Generator) -> None:
    """Kernels and the head of variance 1 over what they sum, norms 1, biases 0; in the order of the parameters' names."""
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim > 1:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def compile_(model: nn.Module, options: Options, device: torch.device) -> None:
    """Compiles one block or the whole model, and has blocks recomputed, as `options` say."""
    blocks: Any = model.blocks
    if options.compiled != "no":
        told = COMPILERS[options.compiled] if device.type == "cuda" else {"backend": "aot_eager"}
        for part in [model] if options.compiled == "model" else blocks:
            part.forward = torch.compile(part.forward, fullgraph=True, dynamic=False, **told)
    if options.recompute == "block":
        for block in blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def _ours(shape: MixerConfig, device: torch.device) -> Mixer:
    return Mixer(shape, seed=None).to_empty(device=device)


def _theirs(shape: MixerConfig, device: torch.device) -> nn.Module:
    try:
        # timm wants torchvision, which has nothing to do with its Mixer.
        over = nullcontext() if importlib.util.find_spec("torchvision") else timm_imported()
        with over, device:
            from timm.models.mlp_mixer import MlpMixer

            from mixer_model.interop import timm_arguments

            made: nn.Module = MlpMixer(**timm_arguments(shape))
    except ImportError as error:
        raise Missing(f"timm cannot be imported: {error}") from error
    return made


def _zero() -> Any:
    if importlib.util.find_spec("deepspeed") is None:
        raise Missing("deepspeed is not installed")
    from benchmarks.gpu import zero

    return zero
