"""KL autoencoders under the names of latent diffusion: VA-VAE (f16d32), MAR's, Stable Diffusion's.

Names are those of the checkpoints, so tensors go where they belong without a map, and shapes are
read off the tensors. Of such files only the autoencoder is taken: their losses, and the vision
models that they were aligned to, are left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from floracle.models.checkpoints import open_checkpoint
from floracle.run.errors import InputError

from .frame import Autoencoder, filled, hash_of
from .ldm_layers import GROUPS, AutoencoderPlan, Ldm

PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
ESSENTIAL = ("encoder.conv_in.weight", "encoder.conv_out.weight", "post_quant_conv.weight")
FIRST = "encoder.down.{}.block.0.conv1.weight"
LEVEL = re.compile(r"encoder\.down\.(\d+)\.")
FIRST_BLOCKS = re.compile(r"encoder\.down\.0\.block\.\d+\.conv1\.weight")


def planned(tensors: Mapping[str, Tensor], where: object) -> AutoencoderPlan:
    """The shapes that tensors tell."""
    lost = [name for name in ESSENTIAL if name not in tensors]
    if lost:
        raise InputError(
            f"{where} lacks {lost[0]}, so it is no autoencoder of latent diffusion (VA-VAE and"
            f" its kind), or not whole; name another file, or fetch it again"
        )
    levels = _levels(tensors, where)
    widths = tuple(int(tensors[FIRST.format(level)].shape[0]) for level in levels)
    if odd := [width for width in widths if width % GROUPS]:
        raise InputError(
            f"{where} has {odd[0]} channels somewhere, no multiple of {GROUPS}: not LDM's"
        )
    return AutoencoderPlan(
        widths,
        sum(bool(FIRST_BLOCKS.fullmatch(name)) for name in tensors),
        tuple(f"encoder.down.{level}.attn.0.q.weight" in tensors for level in levels),
        tensors["encoder.conv_out.weight"].shape[0] // 2,
        tensors["post_quant_conv.weight"].shape[1],
    )


def _levels(tensors: Mapping[str, Tensor], where: object) -> range:
    """The levels of the encoder, none missing between them."""
    found = {int(match[1]) for name in tensors if (match := LEVEL.match(name))}
    levels = range(max(found, default=0) + 1)
    lost = [FIRST.format(level) for level in levels if FIRST.format(level) not in tensors]
    if lost:
        raise InputError(f"{where} lacks {lost[0]}; it is not whole, fetch it again")
    return levels


def load_ldm(file: Path, device: torch.device, dtype: torch.dtype | None) -> Autoencoder:
    """An autoencoder from one checkpoint; in float32 unless another type is asked for."""
    found = open_checkpoint(file).tensors
    tensors = {name: tensor for name, tensor in found.items() if name.startswith(PARTS)}
    plan = planned(tensors, file)
    with torch.device("meta"):
        network = Ldm(plan)
    network = filled(network, tensors, file).to(device, dtype or torch.float32)
    said = ["scale 1, shift 0: a checkpoint tells none", f"groups of {GROUPS}", str(file)]
    if left := len(found) - len(tensors):
        said.insert(0, f"{left} tensors that are none of the autoencoder left out")
    return Autoencoder(
        network,
        f"KL autoencoder f{plan.downsampling}d{plan.channels}",
        plan.channels,
        plan.downsampling,
        hash_of(network),
        gaussian=True,
        device=device,
        dtype=dtype or torch.float32,
        assumed="; ".join(said),
    )
