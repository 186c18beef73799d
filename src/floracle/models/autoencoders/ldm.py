"""KL autoencoders in the format of latent diffusion: VA-VAE (f16d32), MAR's, Stable Diffusion's.

Tensors have the names of the checkpoints, so they load without a map, and shapes are read off the
tensors. Only the autoencoder of such a file is used; losses, and the vision models that it was
aligned to, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from floracle.models.checkpoints import open_checkpoint
from floracle.models.state_dict import fill_network, hash_tensors, list_names, mixed_types
from floracle.run.errors import InputError

from .autoencoder import Autoencoder
from .ldm_layers import NORM_GROUPS, KLArchitecture, KLAutoencoder

PREFIXES = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
ESSENTIAL = ("encoder.conv_in.weight", "encoder.conv_out.weight", "post_quant_conv.weight")
CONV_ENDINGS = ("conv1.weight", "conv_out.weight", "quant_conv.weight")
LEVEL = re.compile(r"encoder\.down\.(\d{1,2})\.")
FIRST_CONV = "encoder.down.{}.block.0.conv1.weight"  # of a level
TOP_LEVEL_CONV = re.compile(r"encoder\.down\.0\.block\.\d+\.conv1\.weight")


def infer_architecture(tensors: Mapping[str, Tensor], file: object) -> KLArchitecture:
    """The architecture that the tensors determine."""
    missing = [name for name in ESSENTIAL if name not in tensors]
    for name, tensor in tensors.items():
        if name.endswith(CONV_ENDINGS) and tensor.ndim != 4:
            raise InputError(
                f"{file}: {name} is {list(tensor.shape)}, and a convolution has 4 dimensions; name"
                f" another file, or fetch it again"
            )
    if missing:
        raise InputError(
            f"{file} lacks {missing[0]}, so it is no autoencoder of latent diffusion (VA-VAE and"
            f" its kind), or is incomplete; name another file, or fetch it again"
        )
    levels = _levels(tensors, file)
    widths = tuple(int(tensors[FIRST_CONV.format(level)].shape[0]) for level in levels)
    if odd := [width for width in widths if width % NORM_GROUPS]:
        raise InputError(
            f"{file} has a level of {odd[0]} channels, no multiple of {NORM_GROUPS}, so it is no"
            f" autoencoder of latent diffusion; name another file"
        )
    return KLArchitecture(
        widths,
        blocks=sum(bool(TOP_LEVEL_CONV.fullmatch(name)) for name in tensors),
        attention=tuple(f"encoder.down.{level}.attn.0.q.weight" in tensors for level in levels),
        inner=tensors["encoder.conv_out.weight"].shape[0] // 2,
        channels=tensors["post_quant_conv.weight"].shape[1],
    )


def _levels(tensors: Mapping[str, Tensor], file: object) -> range:
    """The levels of the encoder, none missing between them."""
    numbers = {int(match[1]) for name in tensors if (match := LEVEL.match(name))}
    levels = range(max(numbers, default=0) + 1)
    missing = [name for level in levels if (name := FIRST_CONV.format(level)) not in tensors]
    if missing:
        raise InputError(f"{file} lacks {missing[0]}; it is incomplete, fetch it again")
    return levels


def load_ldm(file: Path, device: torch.device, dtype: torch.dtype | None) -> Autoencoder:
    """An autoencoder from one checkpoint; in float32 unless another type is given."""
    checkpoint = open_checkpoint(file).tensors
    tensors = {name: tensor for name, tensor in checkpoint.items() if name.startswith(PREFIXES)}
    plan = infer_architecture(tensors, file)
    with torch.device("meta"):
        network = KLAutoencoder(plan)
    dtype = dtype or torch.float32
    network = fill_network(network, tensors, file, advice="name another file", dtype=dtype)
    network = network.to(device)
    assumed = ["scale 1, shift 0: a checkpoint has none", f"groups of {NORM_GROUPS}", str(file)]
    assumed += mixed_types(tensors)
    if others := sorted(checkpoint.keys() - tensors):
        words = f"{len(others)} tensors beside the autoencoder left out ({list_names(others)})"
        assumed.insert(0, words)
    return Autoencoder(
        network,
        f"KL autoencoder f{plan.downsampling}d{plan.channels}",
        plan.channels,
        plan.downsampling,
        hash_tensors(network.state_dict()),
        gaussian=True,
        device=device,
        dtype=dtype,
        assumed="; ".join(assumed),
    )
