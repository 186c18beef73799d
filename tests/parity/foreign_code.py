"""The reference implementations, imported from checkouts without what they do not need here.

LightningDiT and SiT import timm, which imports torchvision; fairscale and einops are named for a
few lines. Here timm's own layers are loaded from a checkout of it, and the rest stands in.
"""

import importlib
import os
import sys
import types
from functools import partial
from pathlib import Path

import torch
from torch import nn

COMMITS = {
    "hustvl/LightningDiT": "2725fed42a14898744433809949834e26957bcdd",
    "willisma/SiT": "947f95bd3a510e9af441d38c1e9f72e0eee873c5",
    "sihyun-yu/REPA": "67f714503e3892f993844aab088ffc5791c92613",
    "huggingface/pytorch-image-models": "aa4b5850c1543fa488abf260f18390eda46cf85d",
}


def prepare(timm: Path, *, compiled: bool = False) -> None:
    """Make the names importable that reference code imports; `timm` is a checkout."""
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "0" if compiled else "1")
    offer("torchvision.ops.misc", FrozenBatchNorm2d=nn.Identity)
    offer("einops", rearrange=rearrange, repeat=repeat)
    offer("fairscale.nn.model_parallel.initialize")
    parallel = ("ColumnParallelLinear", "ParallelEmbedding", "RowParallelLinear")
    offer("fairscale.nn.model_parallel.layers", **dict.fromkeys(parallel, nn.Linear))
    offer("timm").__path__ = [str(timm / "timm")]
    layers = importlib.import_module("timm.layers")
    offer(
        "timm.models.vision_transformer",
        PatchEmbed=layers.PatchEmbed,
        Mlp=layers.Mlp,
        Attention=partial(layers.Attention, norm_layer=nn.LayerNorm),  # its default at that time
    )


def offer(name: str, **content: object) -> types.ModuleType:
    """A module that holds only this, its parents made as needed."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        if path not in sys.modules:
            sys.modules[path] = types.ModuleType(path)
            sys.modules[path].__path__ = []
    sys.modules[name].__dict__.update(content)
    return sys.modules[name]


def rearrange(x: torch.Tensor, pattern: str, r: int = 2) -> torch.Tensor:
    """The two patterns that LightningDiT asks einops for."""
    match pattern:
        case "... (d r) -> ... d r":
            return x.unflatten(-1, (-1, r))
        case "... d r -> ... (d r)":
            return x.flatten(-2)
    raise ValueError(pattern)


def repeat(x: torch.Tensor, pattern: str, r: int) -> torch.Tensor:
    """The one pattern that LightningDiT asks einops for."""
    if pattern != "... n -> ... (n r)":
        raise ValueError(pattern)
    return x.repeat_interleave(r, dim=-1)


def imported(folder: Path, name: str) -> types.ModuleType:
    """A module of a checkout; what an earlier one called `models` is forgotten."""
    for known in [key for key in sys.modules if key.split(".")[0] == "models"]:
        del sys.modules[known]
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
