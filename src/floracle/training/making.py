"""The network that settings ask for, made for some data."""

from __future__ import annotations

from floracle.core.source import Source
from floracle.models.lightningdit import Architecture, LightningDiT, architecture, initialized
from floracle.run.errors import Mistake

from .config import Settings
from .order import drawing

TOKENS = 256
"""Tokens of a sample at most, where no patch is asked for."""


def network_for(settings: Settings, data: Source) -> LightningDiT:
    """A network at its random beginning, which the seed decides."""
    return initialized(plan_for(settings, data), drawing(settings.seed, "begin"))


def plan_for(settings: Settings, data: Source) -> Architecture:
    """The architecture for points of this shape and these classes."""
    shape = tuple(data.shape)
    if len(shape) != 3 or shape[1] != shape[2]:
        raise Mistake(
            f"points {list(shape)} are no squares [channels, side, side], which the networks here"
            f" work on; train a network of your own with floracle.train"
        )
    channels, side = shape[0], shape[1]
    parts = {"channels": channels, "side": side, "classes": max(0, int(data.labels.max()) + 1)}
    return architecture(settings.model, patch=settings.patch or fitting_patch(side), **parts)


def fitting_patch(side: int) -> int:
    """The smallest patch that cuts a side into few enough tokens."""
    for patch in range(1, side + 1):
        if side % patch == 0 and (side // patch) ** 2 <= TOKENS:
            return patch
    return side
