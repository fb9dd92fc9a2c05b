"""The network: patches -> tokens -> blocks that mix tokens, then channels -> mean -> logits.

    images [B,3,H,W] -> stem [B,S,C] -> blocks -> norm -> mean over S -> head [B,K]
    a block: x = x + tokens(norm(x)^T)^T, then x = x + channels(norm(x))

Shapes: B samples of a micro-batch, S tokens (patches), C channels, K classes. Parameters are named as in
timm's MlpMixer, so its checkpoints and ours are the same files. Blocks are identical modules: one compiled
graph serves all of them.

Stochastic depth follows the paper and google-research/big_vision (models/mlp_mixer.py): the rate rises
linearly over the blocks, one rate for both MLPs of a block, and what is kept is NOT scaled up by 1/keep,
neither in training nor, inversely, at evaluation (timm scales, and has one rate for all). The masks are an
argument, drawn by `keep_masks`, which scales them where asked to; the network itself draws nothing. It does
not move itself to a device, compile, shard or checkpoint activations.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import IMAGE_CHANNELS, MixerConfig
from .draws import drop_rates, keep_masks
from .layers import Mlp
from .token_mixers import own_starts, token_mixer

__all__ = ["Block", "Mixer", "drop_rates", "keep_masks", "to_input", "to_pixels"]

NORM_EPS: Final = 1e-6
# Standard deviation of a unit normal cut off at +-2: divided by it, the cut normal has the variance asked
# for.
TRUNCATED_STD: Final = 0.87962566103423978


class PatchConv(nn.Conv2d):
    """A convolution whose stride is its kernel, computed as one matrix product: [B,3,H,W] -> [B,S,C].

    Same weights and result as the convolution; a plain product gives the same bits every time, which the
    backward of cuDNN's convolutions need not.
    """

    def forward(self, images: Tensor) -> Tensor:
        side = self.kernel_size[0]
        batch, channels, height, width = images.shape
        cut = images.reshape(batch, channels, height // side, side, width // side, side)
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return F.linear(patches, self.weight.flatten(1), self.bias)


class Stem(nn.Module):
    """Patches to tokens. A module of its own only for timm's parameter name, `stem.proj`."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.proj = PatchConv(IMAGE_CHANNELS, config.dim, config.patch, stride=config.patch)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.proj(images)
        return tokens


class Block(nn.Module):
    """One Mixer block: [B,S,C] -> [B,S,C]. Compile `forward`; it traces whole, with and without masks."""

    def __init__(self, config: MixerConfig, number: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.mlp_tokens = token_mixer(config, number)
        self.norm2 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.mlp_channels = Mlp(config.dim, config.channel_dim, config.activation)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """`keep` [2,B]: 0 where a sample skips the token MLP (row 0) or the channel MLP (row 1), else 1."""
        mixed = self.mlp_tokens(self.norm1(x))
        x = x + (mixed if keep is None else mixed * keep[0].to(x.dtype)[:, None, None])
        mixed = self.mlp_channels(self.norm2(x))
        out: Tensor = x + (mixed if keep is None else mixed * keep[1].to(x.dtype)[:, None, None])
        return out


class Mixer(nn.Module):
    """The whole network, weights drawn from `seed`; with None it stays on the meta device, shapes only."""

    def __init__(self, config: MixerConfig, *, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        with torch.device(
            "meta"
        ):  # torch would draw every weight once, from the global generator, for nothing
            self.stem = Stem(config)
            self.blocks = nn.ModuleList(Block(config, number) for number in range(config.depth))
            self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
            self.head = nn.Linear(config.dim, config.classes)
        if seed is not None:
            self.to_empty(device="cpu")
            self.reset(seed)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits [B,K] of float images [B,3,H,W] scaled to [-1,1]; `keep` [depth,2,B] as in Block."""
        logits: Tensor = self.head(self.features(images, keep))
        return logits

    def features(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """What the head sees, [B,C]: the tokens after the last norm, averaged. Arguments as in `forward`."""
        size = self.config.image_size
        if tuple(images.shape[1:]) != (IMAGE_CHANNELS, size, size):
            raise ValueError(
                f"images are {tuple(images.shape)}; this Mixer takes [B, {IMAGE_CHANNELS}, {size}, {size}]"
            )
        x = self.stem(images.to(self.head.weight.dtype))
        for index, block in enumerate(self.blocks):
            x = block(x, None if keep is None else keep[index])
        pooled: Tensor = self.norm(x).mean(dim=1)
        return pooled

    @torch.no_grad()
    def reset(self, seed: int, *, head_bias: float = 0.0) -> None:
        """Draws all weights anew, as the reference does: LeCun normal kernels, zero biases, zero head, norms
        1 and 0; what a token mixer says of its own parameters goes before.

        Each kernel has its own generator, keyed (seed, name), on the CPU in fp32: its values depend on
        nothing else, neither device, nor depth, nor how many classes. `head_bias` is -ln K for sigmoid losses
        (K classes), where the start would otherwise be a loss of K ln 2.
        """
        own, gains = own_starts(self)
        for name, parameter in self.named_parameters():
            if name == "head.bias":
                parameter.fill_(head_bias)
            elif name in own:
                parameter.fill_(own[name])
            elif name == "head.weight" or name.endswith(".bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.copy_(_lecun_normal(parameter.shape, seed, name) * gains.get(name, 1.0))


def to_input(images: Tensor) -> Tensor:
    """uint8 [B,H,W,3] to float32 [B,3,H,W] in [-1,1], the scale of Google's Mixers."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1.0)


def to_pixels(x: Tensor) -> Tensor:
    """The inverse of `to_input`, rounded: float [B,3,H,W] in [-1,1] to uint8 [B,H,W,3]."""
    return x.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _lecun_normal(shape: torch.Size, seed: int, name: str) -> Tensor:
    std = 1.0 / (TRUNCATED_STD * math.sqrt(math.prod(shape[1:])))
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    # By the inverse of the normal's distribution, as JAX does: several times faster than trunc_normal_.
    bound = math.erf(2.0 / math.sqrt(2.0))
    drawn = torch.empty(shape, dtype=torch.float32, device="cpu").uniform_(-bound, bound, generator=generator)
    return drawn.erfinv_().mul_(math.sqrt(2.0) * std).clamp_(-2.0 * std, 2.0 * std)
