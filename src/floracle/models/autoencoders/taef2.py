"""TAEF2, the tiny autoencoder of FLUX.2 latents: 8 × 8 pixels become one latent of 32 channels.

Written from the description of its layers (weights by Ollin Boer Bohan, madebyollin/taesd). The
tensors are numbered as the layers are, in two files. It has one latent for an image, of a
deviation near 1; its own images are in [0, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from floracle.models.checkpoints import read_network_tensors
from floracle.models.state_dict import fill_network, hash_tensors, mixed_types
from floracle.run.errors import InputError

from .autoencoder import Autoencoder, LatentMoments

FILES = ("taef2_encoder.safetensors", "taef2_decoder.safetensors")
WIDTH, CHANNELS, DOWNSAMPLING = 64, 32, 8
POOL_WIDTH, POOL_GROUPS = 256, 4
MAX_LATENT = 3.0  # the decoder bends z smoothly into ±3


class ResidualBlock(nn.Module):
    """Three convolutions around a shortcut; if `pooled`, after a pointwise residual branch."""

    def __init__(self, *, pooled: bool = False) -> None:
        super().__init__()
        layers = [nn.ReLU() if i % 2 else _conv(WIDTH, WIDTH) for i in range(5)]
        self.conv = nn.Sequential(*layers)
        self.pool = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, POOL_WIDTH, 1, bias=False),
                nn.GroupNorm(POOL_GROUPS, POOL_WIDTH),
                nn.ReLU(),
                nn.Conv2d(POOL_WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[b, 64, h, w] to the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return (self.conv(x) + x).relu()


class TanhClamp(nn.Module):
    """3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Values in (−3, 3)."""
        return MAX_LATENT * (x / MAX_LATENT).tanh()


class TAEF2(nn.Module):
    """Encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(_conv(3, WIDTH), ResidualBlock()),
            *(_downsample(), *_blocks(3)),
            *(_downsample(), *_blocks(3)),
            *(_downsample(), *_blocks(3, pooled=True)),
            _conv(WIDTH, CHANNELS),
        )
        self.decoder = nn.Sequential(
            *(TanhClamp(), _conv(CHANNELS, WIDTH), nn.ReLU(), *_blocks(3, pooled=True)),
            *(*_upsample(), *_blocks(3)),
            *(*_upsample(), *_blocks(3)),
            *(*_upsample(), ResidualBlock()),
            _conv(WIDTH, 3),
        )

    def moments(self, images: Tensor) -> LatentMoments:
        """The one z [b, 32, H/8, W/8] of each image in [−1, 1]."""
        return LatentMoments(self.encoder((images + 1) / 2), None)

    def images(self, z: Tensor) -> Tensor:
        """Images, about in [−1, 1], of z."""
        return self.decoder(z) * 2 - 1


def _blocks(count: int, *, pooled: bool = False) -> list[ResidualBlock]:
    return [ResidualBlock(pooled=pooled) for _ in range(count)]


def _conv(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)


def _downsample() -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False)


def _upsample() -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]


def is_taef2(folder: Path) -> bool:
    """Whether one of its two files is there."""
    return any((folder / name).exists() for name in FILES)


def load_taef2(folder: Path, device: torch.device, dtype: torch.dtype | None) -> Autoencoder:
    """The autoencoder from its two files; in float32 unless another type is given."""
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise InputError(f"{folder} has no {missing[0]}; TAEF2 needs both {' and '.join(FILES)}")
    with torch.device("meta"):
        network = TAEF2()
    tables = [read_network_tensors(folder / name) for name in FILES]
    halves = (network.encoder, network.decoder)
    for half, name, tensors in zip(halves, FILES, tables, strict=True):
        fill_network(half, tensors, folder / name, advice="name another file")
    types = mixed_types({f"{i} {name}": v for i in (0, 1) for name, v in tables[i].items()})
    network = network.eval().to(device, dtype or torch.float32)
    return Autoencoder(
        network,
        "TAEF2",
        CHANNELS,
        DOWNSAMPLING,
        hash_tensors(network.state_dict()),
        gaussian=False,
        device=device,
        dtype=dtype or torch.float32,
        assumed="; ".join(["no scale, no shift", *types, str(folder)]),
    )
