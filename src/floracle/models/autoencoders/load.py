"""`load_autoencoder`: an autoencoder of any supported kind.

taef2/                             its folder, with both of its files
vae/, stable-diffusion-3/          AutoencoderKL or AutoencoderTiny, or a pipeline of diffusers
vavae.pt, kl16.ckpt                a checkpoint of VA-VAE or of latent diffusion's kind
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from floracle.models.networks.diffusers_folder import is_diffusers
from floracle.models.state_dict import check_requested_type
from floracle.models.typed_config import check_argument, number, positive
from floracle.run.budget import choose_device
from floracle.run.errors import InputError

from .autoencoder import Autoencoder
from .diffusers import load_diffusers
from .ldm import load_ldm
from .taef2 import FILES, is_taef2, load_taef2


def load_autoencoder(
    path: str | Path,
    *,
    scale: float | None = None,
    shift: float | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Autoencoder:
    """An autoencoder: `encode` images in [−1, 1], `decode` latents, its scale and shift inside.

    Nothing is downloaded, and no pickled code is run. What was assumed is in its `assumed`.

    Parameters
    ----------
    path
        A folder or a checkpoint; see `floracle.models.autoencoders.load`.
    scale, shift
        Latents are (z − shift) · scale. By default as the files say. Latents of VA-VAE are divided
        by stored statistics and have scale 1; a checkpoint of Stable Diffusion does not hold its
        scale, .18215.
    device, dtype
        Where and in which type it is evaluated; by default a GPU if there is one, and float32.

    Raises
    ------
    InputError
        If the path holds no whole autoencoder, or the scale is not positive.
    """
    check_requested_type(dtype)
    autoencoder = _load(Path(path).expanduser(), choose_device(device), dtype)
    if scale is None and shift is None:
        return autoencoder
    before = autoencoder.scale, autoencoder.shift
    scale = before[0] if scale is None else check_argument("scale", scale, positive)
    shift = before[1] if shift is None else check_argument("shift", shift, number)
    assumed = (
        f"scale {scale:g} and shift {shift:g} as given, not {before[0]:g} and {before[1]:g};"
        f" {autoencoder.assumed}"
    )
    return replace(autoencoder, scale=scale, shift=shift, assumed=assumed)


def _load(path: Path, device: torch.device, dtype: torch.dtype | None) -> Autoencoder:
    """The autoencoder with the scale and shift of its files."""
    if not path.exists():
        raise InputError(
            f"there is no {path}; name a folder of TAEF2 or diffusers, or a checkpoint of VA-VAE"
        )
    if not path.is_dir() and path.name not in FILES:  # a pipe is refused where it is read
        return load_ldm(path, device, dtype)
    folder = path if path.is_dir() else path.parent
    if is_taef2(folder):
        return load_taef2(folder, device, dtype)
    if is_diffusers(folder):
        return load_diffusers(folder, device, dtype)
    raise InputError(
        f"{path} is no autoencoder: it has neither {FILES[0]} nor the config.json of diffusers;"
        f" name a folder that has, or a checkpoint file of VA-VAE"
    )
