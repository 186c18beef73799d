"""The average of a network's weights over its training, which is what is used in the end."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .config import TrainingSettings


def averaged(network: nn.Module) -> nn.Module:
    """A copy of a network to average into; it is asked, never trained."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def share_kept(settings: TrainingSettings, step: int) -> float:
    """How much of the average stays at a step, counted from 1.

    In the first steps, with `ramp`, less: an average that remembers the random beginning is of no
    use, and short runs would end with one.
    """
    return min(settings.ema, (1 + step) / (10 + step)) if settings.ramp else settings.ema


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, kept: float) -> None:
    """Move an average a little towards the network; its buffers are the network's own."""
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    together = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
    together(ours, theirs, 1 - kept)
    for own, new in zip(average.buffers(), network.buffers(), strict=True):
        own.copy_(new)
