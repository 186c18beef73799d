"""The layers of latent diffusion's KL autoencoders (Rombach et al. 2022).

Levels of residual blocks, with a change of resolution between them; attention in the middle, and
inside the levels of the architecture that have it. Modules are named as in the checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import LatentMoments

NORM_GROUPS, NORM_EPSILON = 32, 1e-6
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0  # clamped as by Rombach et al.


@dataclass(frozen=True)
class KLArchitecture:
    """The shapes of an autoencoder."""

    widths: tuple[int, ...]
    """Channels of each level, at full resolution first."""
    blocks: int
    """Residual blocks of each level of the encoder; the decoder has one more."""
    attention: tuple[bool, ...]
    """Which levels have attention after every block."""
    inner: int
    """Channels between the encoder and `quant_conv`."""
    channels: int
    """Of latents."""

    @property
    def downsampling(self) -> int:
        """Pixels of an edge for each latent."""
        return 2 ** (len(self.widths) - 1)


class ResidualBlock(nn.Module):
    """Norm, swish, convolution, twice, around a shortcut."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), _conv(channels, width)
        self.norm2, self.conv2 = _norm(width), _conv(width, width)
        self.nin_shortcut = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, width, h, w]."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class SpatialAttention(nn.Module):
    """Self-attention of one head over all positions, around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[b, width, h, w] to the same shape."""
        h = self.norm(x)
        # [b, width, h, w] → [b, h · w, width]
        q, k, v = (layer(h).flatten(2).mT.contiguous() for layer in (self.q, self.k, self.v))
        values = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(values.mT.reshape(x.shape))


class Resampling(nn.Module):
    """To half the resolution by a strided convolution, or to twice by nearest neighbours."""

    def __init__(self, width: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Downsampling pads right and below only."""
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class ResolutionLevel(nn.Module):
    """Residual blocks of one resolution, with attention after each or none, then a resampling."""

    def __init__(
        self, channels: int, width: int, blocks: int, *, attention: bool, resampling: str | None
    ) -> None:
        super().__init__()
        inputs = [channels, *[width] * (blocks - 1)]
        self.block = nn.ModuleList(ResidualBlock(count, width) for count in inputs)
        self.attn = nn.ModuleList(SpatialAttention(width) for _ in inputs if attention)
        if resampling is not None:  # "downsample" or "upsample", the checkpoint's names
            self.add_module(resampling, Resampling(width, up=resampling == "upsample"))

    def forward(self, x: Tensor) -> Tensor:
        """[b, channels, h, w] through all blocks and to the next resolution."""
        for index, block in enumerate(self.block):
            x = block(x)
            x = self.attn[index](x) if len(self.attn) else x
        for name, module in self.named_children():
            x = module(x) if name in ("downsample", "upsample") else x
        return x


class MiddleBlock(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = ResidualBlock(width, width), SpatialAttention(width)
        self.block_2 = ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[b, width, h, w] to the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Images to the parameters of z, before `quant_conv`."""

    def __init__(self, plan: KLArchitecture) -> None:
        super().__init__()
        widths = plan.widths
        self.conv_in = _conv(3, widths[0])
        self.down = nn.ModuleList(
            ResolutionLevel(
                widths[max(level - 1, 0)],
                width,
                plan.blocks,
                attention=plan.attention[level],
                resampling="downsample" if level < len(widths) - 1 else None,
            )
            for level, width in enumerate(widths)
        )
        self.mid = MiddleBlock(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], 2 * plan.inner)

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, H, W] to [b, 2 · inner, h, w]."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Images of z, after `post_quant_conv`; levels are numbered from full resolution on."""

    def __init__(self, plan: KLArchitecture) -> None:
        super().__init__()
        widths = plan.widths
        self.conv_in, self.mid = _conv(plan.inner, widths[-1]), MiddleBlock(widths[-1])
        self.up = nn.ModuleList(
            ResolutionLevel(
                widths[min(level + 1, len(widths) - 1)],
                width,
                plan.blocks + 1,
                attention=plan.attention[level],
                resampling="upsample" if level > 0 else None,
            )
            for level, width in enumerate(widths)
        )
        self.norm_out, self.conv_out = _norm(widths[0]), _conv(widths[0], 3)

    def forward(self, x: Tensor) -> Tensor:
        """[b, inner, h, w] to [b, 3, H, W]."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class KLAutoencoder(nn.Module):
    """Encoder and decoder, and the pointwise layers between them."""

    def __init__(self, plan: KLArchitecture) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(plan), Decoder(plan)
        self.quant_conv = nn.Conv2d(2 * plan.inner, 2 * plan.channels, 1)
        self.post_quant_conv = nn.Conv2d(plan.channels, plan.inner, 1)

    def moments(self, images: Tensor) -> LatentMoments:
        """Mean and deviation of z [b, C, h, w]."""
        parameters = self.quant_conv(self.encoder(images))  # [b, 2C, h, w]
        mean, log_variance = parameters.chunk(2, dim=1)
        clamped = log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return LatentMoments(mean, (clamped / 2).exp())

    def images(self, z: Tensor) -> Tensor:
        """Images of z."""
        return self.decoder(self.post_quant_conv(z))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, width, eps=NORM_EPSILON)


def _conv(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)
