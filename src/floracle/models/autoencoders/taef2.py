"""TAEF2, the tiny autoencoder of FLUX.2 latents: 8 pixels a side become one of 32 channels.

Written from the description of its layers (weights by Ollin Boer Bohan, madebyollin/taesd). The
tensors are numbered as the layers are, in two files. It has one latent for a picture, of a
deviation near 1; its own pictures are in [0, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from floracle.models.checkpoints import read_safetensors
from floracle.run.errors import InputError

from .frame import Autoencoder, LatentMoments, filled, hash_of

FILES = ("taef2_encoder.safetensors", "taef2_decoder.safetensors")
WIDTH, CHANNELS, DOWNSAMPLING = 64, 32, 8
POOLED = 256
LIMIT = 3.0
"""The decoder bends z smoothly into ±3."""


class Block(nn.Module):
    """Three convolutions around a shortcut, and where it is `pooled` a pointwise branch before."""

    def __init__(self, *, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(*_convolutions())
        self.pool = nn.Sequential(*_branch()) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        """Of x [b, 64, h, w], in the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return (self.conv(x) + x).relu()


class Bent(nn.Module):
    """3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Values in (−3, 3)."""
        return LIMIT * (x / LIMIT).tanh()


class Taef2(nn.Module):
    """Both halves."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_encoder())
        self.decoder = nn.Sequential(*_decoder())

    def moments(self, images: Tensor) -> LatentMoments:
        """The one z [b, 32, H/8, W/8] of each picture in [−1, 1]."""
        return LatentMoments(self.encoder((images + 1) / 2), None)

    def images(self, z: Tensor) -> Tensor:
        """Pictures, about in [−1, 1], of z."""
        return self.decoder(z) * 2 - 1


def is_taef2(folder: Path) -> bool:
    """Whether one of its two files is there."""
    return any((folder / name).exists() for name in FILES)


def load_taef2(folder: Path, device: torch.device, dtype: torch.dtype | None) -> Autoencoder:
    """The autoencoder from its two files; in float32 unless another type is asked for."""
    lost = [name for name in FILES if not (folder / name).exists()]
    if lost:
        raise InputError(
            f"{folder} has no {lost[0]}; the autoencoder needs both {' and '.join(FILES)}"
        )
    with torch.device("meta"):
        network = Taef2()
    for half, name in zip((network.encoder, network.decoder), FILES, strict=True):
        filled(half, read_safetensors(folder / name), folder / name)
    network = network.eval().to(device, dtype or torch.float32)
    return Autoencoder(
        network,
        "TAEF2",
        CHANNELS,
        DOWNSAMPLING,
        hash_of(network),
        gaussian=False,
        device=device,
        dtype=dtype or torch.float32,
        assumed=f"no scale, no shift; {folder}",
    )


def _encoder() -> list[nn.Module]:
    return [
        _conv(3, WIDTH),
        Block(),
        _halving(),
        *(Block(), Block(), Block()),
        _halving(),
        *(Block(), Block(), Block()),
        _halving(),
        *(Block(pooled=True), Block(pooled=True), Block(pooled=True)),
        _conv(WIDTH, CHANNELS),
    ]


def _decoder() -> list[nn.Module]:
    return [
        Bent(),
        _conv(CHANNELS, WIDTH),
        nn.ReLU(),
        *(Block(pooled=True), Block(pooled=True), Block(pooled=True)),
        *_doubling(),
        *(Block(), Block(), Block()),
        *_doubling(),
        *(Block(), Block(), Block()),
        *_doubling(),
        Block(),
        _conv(WIDTH, 3),
    ]


def _convolutions() -> list[nn.Module]:
    one, two, three = (_conv(WIDTH, WIDTH) for _ in range(3))
    return [one, nn.ReLU(), two, nn.ReLU(), three]


def _branch() -> list[nn.Module]:
    wide = nn.Conv2d(WIDTH, POOLED, 1, bias=False)
    return [wide, nn.GroupNorm(4, POOLED), nn.ReLU(), nn.Conv2d(POOLED, WIDTH, 1, bias=False)]


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


def _halving() -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False)


def _doubling() -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
