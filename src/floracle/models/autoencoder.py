"""`load_autoencoder`: whatever people have between pictures and latents, as one value.

taef2/                             its folder, with both of its files
vae/, stable-diffusion-3/          AutoencoderKL or AutoencoderTiny, or a pipeline of diffusers
vavae.pt, kl16.ckpt                a checkpoint of VA-VAE or of latent diffusion's kind
"""

from __future__ import annotations

from pathlib import Path

import torch

from floracle.run.budget import chosen_device
from floracle.run.errors import Mistake

from .autoencoder_diffusers import load_diffusers
from .autoencoder_frame import Autoencoder
from .autoencoder_ldm import load_ldm
from .autoencoder_tiny import FILES, is_taef2, load_taef2
from .diffusers import is_diffusers


def load_autoencoder(
    where: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Autoencoder:
    """An autoencoder: `encode` pictures in [−1, 1], `decode` latents, its scale and shift inside.

    Nothing is downloaded, and no pickled code is run. What was assumed is in its `assumed`.
    """
    place, path = chosen_device(device), Path(where).expanduser()
    if not path.exists():
        raise Mistake(
            f"there is no {path}; name a folder of TAEF2 or diffusers, or a checkpoint of VA-VAE"
        )
    if path.is_file() and path.name not in FILES:
        return load_ldm(path, place, dtype)
    folder = path if path.is_dir() else path.parent
    if is_taef2(folder):
        return load_taef2(folder, place, dtype)
    if is_diffusers(folder):
        return load_diffusers(folder, place, dtype)
    raise Mistake(
        f"{path} is no autoencoder: it has neither {FILES[0]} nor the config.json of diffusers;"
        f" name the folder that has, or a checkpoint file of VA-VAE"
    )
