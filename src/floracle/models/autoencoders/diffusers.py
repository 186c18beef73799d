"""AutoencoderKL and AutoencoderTiny, from folders that diffusers wrote; its own code runs them.

Both take images in [−1, 1]. The tiny ones have one latent for an image, which is scaled already,
so their scale is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.models.networks.diffusers_folder import (
    WEIGHTS,
    check_weights,
    load_network,
    read_class,
)
from floracle.models.state_dict import hash_tensors

from .autoencoder import Autoencoder, LatentMoments

KL, TINY = "AutoencoderKL", "AutoencoderTiny"


@dataclass(frozen=True)
class DiffusersCoder:
    """An AutoencoderKL or AutoencoderTiny."""

    network: Any
    gaussian: bool

    def moments(self, images: Tensor) -> LatentMoments:
        """Mean and deviation of z, or the one z of each image."""
        encoded = self.network.encode(images)
        if not self.gaussian:
            return LatentMoments(encoded.latents, None)
        return LatentMoments(encoded.latent_dist.mean, encoded.latent_dist.std)

    def images(self, z: Tensor) -> Tensor:
        """Images of z."""
        return self.network.decode(z).sample


def load_diffusers(folder: Path, device: torch.device, dtype: torch.dtype | None) -> Autoencoder:
    """The autoencoder of a folder or pipeline; in float32 unless another type is given."""
    advice = "of diffusers are supported, TAEF2, and checkpoints of latent diffusion"
    inner, kind, _ = read_class(folder, "vae", (KL, TINY), advice)
    check_weights(inner, WEIGHTS, "network")
    network = load_network(kind, inner, dtype or torch.float32, "autoencoders of diffusers")
    network = network.to(device).eval().requires_grad_(False)
    settings, gaussian = network.config, kind == KL
    widths = settings.block_out_channels if gaussian else settings.encoder_block_out_channels
    return Autoencoder(
        DiffusersCoder(network, gaussian),
        kind,
        int(settings.latent_channels),
        2 ** (len(widths) - 1),  # each level but the last halves the image
        hash_tensors(network.state_dict()),
        gaussian=gaussian,
        device=device,
        dtype=network.dtype,
        scale=float(settings.scaling_factor) if gaussian else 1.0,
        shift=float(settings.shift_factor or 0.0) if gaussian else 0.0,
        assumed=f"scale and shift as its config.json says; {inner}",
    )
