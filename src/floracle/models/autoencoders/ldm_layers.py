"""The layers of latent diffusion's KL autoencoders, named as in their checkpoints.

Levels of residual blocks, halving between them; attention in the middle, and inside the levels
that ask for it (Rombach et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .frame import LatentMoments, gaussian

GROUPS, EPSILON = 32, 1e-6


@dataclass(frozen=True)
class AutoencoderPlan:
    """The shapes of an autoencoder."""

    widths: tuple[int, ...]
    """Of each level, at full size first."""
    blocks: int
    """Of each level of the encoder; the decoder has one more."""
    attended: tuple[bool, ...]
    """Which levels have attention after every block."""
    inner: int
    """Channels between the encoder and `quant_conv`."""
    channels: int
    """Of latents."""

    @property
    def downsampling(self) -> int:
        """How many pixels a side become one."""
        return 2 ** (len(self.widths) - 1)


class Residual(nn.Module):
    """Norm, swish, convolution, twice, around a shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), _conv(channels, out)
        self.norm2, self.conv2 = _norm(out), _conv(out, out)
        self.nin_shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Of x [b, channels, h, w], as [b, out, h, w]."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class SpatialAttention(nn.Module):
    """One head over all places, around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Of x [b, width, h, w], in the same shape."""
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).mT.contiguous() for part in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(seen.mT.reshape(x.shape))


class Resize(nn.Module):
    """To half the size, or to twice."""

    def __init__(self, width: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Halving pads right and below only."""
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class ResolutionLevel(nn.Module):
    """Residual blocks of one size, with attention after each or none, then a change of size."""

    def __init__(
        self, channels: int, width: int, blocks: int, *, attended: bool, resize: str | None
    ) -> None:
        super().__init__()
        entries = [channels, *[width] * (blocks - 1)]
        self.block = nn.ModuleList(Residual(entry, width) for entry in entries)
        self.attn = nn.ModuleList(SpatialAttention(width) for _ in entries if attended)
        if resize is not None:
            self.add_module(resize, Resize(width, up=resize == "upsample"))

    def forward(self, x: Tensor) -> Tensor:
        """Of x [b, channels, h, w], through all blocks and then to the next size."""
        for place, block in enumerate(self.block):
            x = block(x)
            x = self.attn[place](x) if len(self.attn) else x
        for name, part in self.named_children():
            x = part(x) if name in ("downsample", "upsample") else x
        return x


class Middle(nn.Module):
    """Block, attention, block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = Residual(width, width), SpatialAttention(width)
        self.block_2 = Residual(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Of x [b, width, h, w], in the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pictures to the parameters of z, before `quant_conv`."""

    def __init__(self, plan: AutoencoderPlan) -> None:
        super().__init__()
        widths = plan.widths
        self.conv_in = _conv(3, widths[0])
        self.down = nn.ModuleList(
            ResolutionLevel(
                widths[max(level - 1, 0)],
                width,
                plan.blocks,
                attended=plan.attended[level],
                resize="downsample" if level < len(widths) - 1 else None,
            )
            for level, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], 2 * plan.inner)

    def forward(self, x: Tensor) -> Tensor:
        """Of x [b, 3, H, W], as [b, 2 · inner, h, w]."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Pictures of z, after `post_quant_conv`; levels are numbered from full size on."""

    def __init__(self, plan: AutoencoderPlan) -> None:
        super().__init__()
        widths = plan.widths
        self.conv_in, self.mid = _conv(plan.inner, widths[-1]), Middle(widths[-1])
        self.up = nn.ModuleList(
            ResolutionLevel(
                widths[min(level + 1, len(widths) - 1)],
                width,
                plan.blocks + 1,
                attended=plan.attended[level],
                resize="upsample" if level > 0 else None,
            )
            for level, width in enumerate(widths)
        )
        self.norm_out, self.conv_out = _norm(widths[0]), _conv(widths[0], 3)

    def forward(self, x: Tensor) -> Tensor:
        """Of x [b, inner, h, w], as [b, 3, H, W]."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Ldm(nn.Module):
    """Both halves and the pointwise layers between them."""

    def __init__(self, plan: AutoencoderPlan) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(plan), Decoder(plan)
        self.quant_conv = nn.Conv2d(2 * plan.inner, 2 * plan.channels, 1)
        self.post_quant_conv = nn.Conv2d(plan.channels, plan.inner, 1)

    def moments(self, images: Tensor) -> LatentMoments:
        """Mean and deviation of z."""
        return gaussian(self.quant_conv(self.encoder(images)))

    def images(self, z: Tensor) -> Tensor:
        """Pictures of z."""
        return self.decoder(self.post_quant_conv(z))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=EPSILON)


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)
