"""The network that settings ask for, made for some data."""

from __future__ import annotations

import torch
from torch import nn

from floracle.core.point_set import PointSet
from floracle.models.networks.lightningdit import (
    Architecture,
    LightningDiT,
    architecture,
    initialized,
)
from floracle.run.errors import InputError

from .config import TrainingSettings
from .data_order import drawing

LARGE = 50_000_000
"""Parameters from which on a CPU is slow."""
TOKENS = 256
"""Tokens of a sample at most, where no patch is asked for."""


def build_model(settings: TrainingSettings, data: PointSet) -> LightningDiT:
    """A network at its random beginning, which the seed decides."""
    return initialized(architecture_for(settings, data), drawing(settings.seed, "begin"))


def architecture_for(settings: TrainingSettings, data: PointSet) -> Architecture:
    """The architecture for points of this shape and these classes."""
    shape = tuple(data.shape)
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(
            f"points {list(shape)} are no squares [channels, side, side], which the networks here"
            f" work on; train a network of your own with floracle.train"
        )
    channels, side = shape[0], shape[1]
    parts = {"channels": channels, "side": side, "classes": max(0, int(data.labels.max()) + 1)}
    return architecture(settings.model, patch=settings.patch or fitting_patch(side), **parts)


def large(network: nn.Module, images: int, device: torch.device) -> str | None:
    """A word of warning where a CPU is asked for what takes GPUs; None elsewhere."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if device.type != "cpu" or parameters <= LARGE:
        return None
    return (
        f"a network of {parameters:,} parameters and {images:,} images are a lot for a CPU; take"
        f" --device cuda, a smaller --model or fewer --images"
    )


def fitting_patch(side: int) -> int:
    """The smallest patch that cuts a side into few enough tokens."""
    for patch in range(1, side + 1):
        if side % patch == 0 and (side // patch) ** 2 <= TOKENS:
            return patch
    return side
