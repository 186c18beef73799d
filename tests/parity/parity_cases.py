"""What is compared with the reference implementations: their own arguments, and inputs by formula.

Weights and inputs are functions of their names and numbers, so they need not be kept.
"""

import zlib

import torch
from torch import Tensor

TINY = {"input_size": 8, "hidden_size": 48, "depth": 2, "num_heads": 2, "num_classes": 5}
MODERN = {"use_swiglu": True, "use_rope": True, "use_rmsnorm": True}

LIGHTNINGDIT = {
    "as_published": {**TINY, **MODERN, "patch_size": 1, "in_channels": 6},
    "patch_2": {**TINY, **MODERN, "patch_size": 2, "in_channels": 4},
    "patch_4": {**TINY, **MODERN, "patch_size": 4, "in_channels": 4},
    "qk_norm": {**TINY, **MODERN, "patch_size": 2, "in_channels": 4, "use_qknorm": True},
    "qk_norm_of_layers": {
        **TINY,
        "patch_size": 2,
        "in_channels": 4,
        "use_qknorm": True,
        "use_rope": True,
    },
    "without_shift": {**TINY, **MODERN, "patch_size": 1, "in_channels": 4, "wo_shift": True},
    "without_rope": {**TINY, "patch_size": 1, "in_channels": 4, "use_swiglu": True},
    "plain": {**TINY, "patch_size": 2, "in_channels": 4},
    "sigma": {**TINY, **MODERN, "patch_size": 2, "in_channels": 4, "learn_sigma": True},
    "without_null": {
        **TINY,
        **MODERN,
        "patch_size": 2,
        "in_channels": 4,
        "class_dropout_prob": 0.0,
    },
    "odd_grid": {**TINY, **MODERN, "input_size": 7, "patch_size": 1, "in_channels": 3},
}
SIT = {
    "as_published": {**TINY, "patch_size": 2, "in_channels": 4},
    "patch_4": {**TINY, "patch_size": 4, "in_channels": 4},
    "without_sigma": {**TINY, "patch_size": 2, "in_channels": 4, "learn_sigma": False},
}
REPA = {
    "as_published": {
        **TINY,
        "patch_size": 2,
        "in_channels": 4,
        "decoder_hidden_size": 48,
        "encoder_depth": 1,
        "z_dims": [8],
        "projector_dim": 16,
        "qk_norm": False,
    },
}
REPA["qk_norm"] = REPA["as_published"] | {"qk_norm": True}
CASES = {"lightningdit": LIGHTNINGDIT, "sit": SIT, "repa": REPA}


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors for a network, large enough that every part of it shows in the output.

    Each is drawn by its own name; positions and the tables of angles are left to their formulas.
    """
    drawn = {}
    for name, shape in shapes.items():
        if name == "pos_embed" or name.startswith("feat_rope"):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.randn(shape, generator=generator)
        spread = 0.2 if len(shape) == 1 else 1.2 / values[0].numel() ** 0.5
        drawn[name] = values * spread + (1 if "norm" in name and name.endswith("weight") else 0)
    return drawn


def inputs(arguments: dict) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, times and labels; the last label is the null label where there is one."""
    channels, side = arguments["in_channels"], arguments["input_size"]
    x = torch.sin(0.37 * torch.arange(3 * channels * side**2).double()) * 1.5
    last = arguments["num_classes"] - (arguments.get("class_dropout_prob") == 0)
    return (
        x.reshape(3, channels, side, side).float(),
        torch.tensor([0.0, 0.37, 1.0]),
        torch.tensor([0, 3, last]),
    )
