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

from floracle.models.networks.diffusers_folder import outline_network, read_class
from floracle.models.networks.diffusers_settings import KL, TINY
from floracle.models.state_dict import hash_tensors

from .autoencoder import Autoencoder, LatentMoments


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
    inner, kind, config = read_class(folder, "vae", (KL, TINY), advice)
    outline = outline_network(kind, inner, config, "autoencoders of diffusers")
    network = outline.load(dtype or torch.float32, device)
    settings, gaussian = outline.settings, kind == KL
    widths = settings["block_out_channels" if gaussian else "encoder_block_out_channels"]
    scale, shift = float(settings["scaling_factor"]), float(settings["shift_factor"] or 0.0)
    mean, std = (settings.get(name) or () for name in ("latents_mean", "latents_std"))
    by_channel = " and mean and deviation by channel" if mean else ""
    says = "its config.json says" if "scaling_factor" in config else "diffusers has it by default"
    assumed = [f"scale {scale:g}, shift {shift:g}{by_channel} as {says}"]
    if settings["force_upcast"] and dtype == torch.float16:
        assumed.append("its config.json asks for float32 in place of float16 (force_upcast)")
    return Autoencoder(
        DiffusersCoder(network, gaussian),
        kind,
        int(settings["latent_channels"]),
        2 ** (len(widths) - 1),  # each level but the last halves the image
        hash_tensors(network.state_dict()),
        gaussian=gaussian,
        device=device,
        dtype=network.dtype,
        scale=scale,
        shift=shift,
        channel_mean=mean,
        channel_std=std,
        assumed="; ".join([*assumed, *outline.assumed, str(inner)]),
    )
