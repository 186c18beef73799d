"""The network of the settings, made for some data."""

from __future__ import annotations

import torch
from torch import nn

from floracle.core.point_set import PointSet
from floracle.models.networks.lightningdit import (
    Architecture,
    LightningDiT,
    architecture,
    initialize,
)
from floracle.run.errors import InputError

from .config import TrainingSettings
from .data_order import generator_for

SLOW_ON_CPU_PARAMETERS = 50_000_000
MAX_TOKENS = 256  # of a sample, where the settings have no patch


def build_model(settings: TrainingSettings, data: PointSet) -> LightningDiT:
    """A network with the random weights of the seed."""
    return initialize(architecture_for(settings, data), generator_for(settings.seed, "begin"))


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


def warn_of_size(network: nn.Module, images: int, device: torch.device) -> str | None:
    """A warning where a CPU would take very long; None elsewhere."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if device.type != "cpu" or parameters <= SLOW_ON_CPU_PARAMETERS:
        return None
    return (
        f"a network of {parameters:,} parameters and {images:,} images are a lot for a CPU; take"
        f" --device cuda, a smaller --model or fewer --images"
    )


def fitting_patch(side: int) -> int:
    """The smallest patch that cuts a side into few enough tokens."""
    for patch in range(1, side + 1):
        if side % patch == 0 and (side // patch) ** 2 <= MAX_TOKENS:
            return patch
    return side
