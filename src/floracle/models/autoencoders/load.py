"""`load_autoencoder`: whatever people have between pictures and latents, as one value.

taef2/                             its folder, with both of its files
vae/, stable-diffusion-3/          AutoencoderKL or AutoencoderTiny, or a pipeline of diffusers
vavae.pt, kl16.ckpt                a checkpoint of VA-VAE or of latent diffusion's kind
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from floracle.models.networks.diffusers import is_diffusers
from floracle.run.budget import choose_device
from floracle.run.errors import InputError

from .diffusers import load_diffusers
from .frame import Autoencoder
from .ldm import load_ldm
from .taef2 import FILES, is_taef2, load_taef2


def load_autoencoder(
    where: str | Path,
    *,
    scale: float | None = None,
    shift: float | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Autoencoder:
    """An autoencoder: `encode` pictures in [−1, 1], `decode` latents, its scale and shift inside.

    Latents are (z − shift) · scale. Those of VA-VAE are divided by stored statistics and have
    scale 1; a checkpoint of Stable Diffusion's does not say its .18215: give it as `scale`.
    Nothing is downloaded, and no pickled code is run. What was assumed is in its `assumed`.
    """
    found = _found(Path(where).expanduser(), choose_device(device), dtype)
    if scale is None and shift is None:
        return found
    asked = replace(
        found,
        scale=found.scale if scale is None else float(scale),
        shift=found.shift if shift is None else float(shift),
    )
    if not (math.isfinite(asked.scale) and asked.scale > 0 and math.isfinite(asked.shift)):
        raise InputError(
            f"latents are (z − shift) · scale with a positive scale, got scale {asked.scale:g} and"
            f" shift {asked.shift:g}"
        )
    said = f"scale {asked.scale:g} and shift {asked.shift:g} as asked for, not {found.scale:g} and"
    return replace(asked, assumed=f"{said} {found.shift:g}; {found.assumed}")


def _found(path: Path, device: torch.device, dtype: torch.dtype | None) -> Autoencoder:
    """The autoencoder with the scale and shift that its files tell."""
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
        f" name the folder that has, or a checkpoint file of VA-VAE"
    )
