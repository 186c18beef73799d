"""AutoencoderKL and AutoencoderTiny, from folders that diffusers wrote; its own code runs them.

Both take pictures in [−1, 1]. The tiny ones have one latent for a picture, in units that are
scaled already, so their scale is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.models.networks.diffusers import check_files, whole_network
from floracle.models.networks.diffusers_library import library
from floracle.run.errors import InputError
from floracle.run.files import read_json

from .frame import Autoencoder, LatentMoments, hash_of

CONFIG, PIPELINE = "config.json", "model_index.json"
KINDS = ("AutoencoderKL", "AutoencoderTiny")


@dataclass(frozen=True)
class GaussianCoder:
    """An AutoencoderKL."""

    network: Any

    def moments(self, images: Tensor) -> LatentMoments:
        """Mean and deviation of z."""
        found = self.network.encode(images).latent_dist
        return LatentMoments(found.mean, found.std)

    def images(self, z: Tensor) -> Tensor:
        """Pictures of z."""
        return self.network.decode(z).sample


@dataclass(frozen=True)
class Tiny:
    """An AutoencoderTiny."""

    network: Any

    def moments(self, images: Tensor) -> LatentMoments:
        """The one z of each picture."""
        return LatentMoments(self.network.encode(images).latents, None)

    def images(self, z: Tensor) -> Tensor:
        """Pictures of z."""
        return self.network.decode(z).sample


def load_diffusers(folder: Path, device: torch.device, dtype: torch.dtype | None) -> Autoencoder:
    """The autoencoder of a folder or pipeline; in float32 unless another type is asked for."""
    inner = folder / "vae" if (folder / PIPELINE).is_file() else folder
    config = read_json(inner / CONFIG)
    kind = config.get("_class_name") if isinstance(config, Mapping) else None
    if kind not in KINDS:
        raise InputError(
            f"{inner} holds a {kind}; {' and '.join(KINDS)} of diffusers are known, TAEF2, and"
            f" checkpoints of latent diffusion"
        )
    check_files(inner)
    known = getattr(library("autoencoders of diffusers"), kind)
    network = whole_network(known, inner, dtype or torch.float32)
    network = network.to(device).eval().requires_grad_(False)
    tiny = kind == KINDS[1]
    coder = Tiny(network) if tiny else GaussianCoder(network)
    settings = network.config
    return Autoencoder(
        coder,
        kind,
        int(settings.latent_channels),
        2 ** _halvings(settings, tiny=tiny),
        hash_of(network),
        gaussian=not tiny,
        device=device,
        dtype=network.dtype,
        scale=1.0 if tiny else float(settings.scaling_factor),
        shift=0.0 if tiny else float(settings.shift_factor or 0.0),
        assumed=f"scale and shift as its config.json says; {inner}",
    )


def _halvings(settings: Any, *, tiny: bool) -> int:
    """How often an encoder halves its pictures."""
    widths = settings.encoder_block_out_channels if tiny else settings.block_out_channels
    return len(widths) - 1
