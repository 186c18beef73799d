"""The exponential moving average (EMA) of a network's weights, which is used in the end."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .config import TrainingSettings


def copy_for_average(network: nn.Module) -> nn.Module:
    """A copy of a network to average into, which is never trained."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def ema_decay(settings: TrainingSettings, step: int) -> float:
    """The EMA decay at a step, counted from 1.

    With `ramp` it is less in the first steps: an average that remembers the random beginning is of
    no use, and short runs would end with one.
    """
    return min(settings.ema, (1 + step) / (10 + step)) if settings.ramp else settings.ema


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Average ← decay · average + (1 − decay) · network; buffers are copied."""
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(network.parameters())
    lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
    lerp(averages, weights, 1 - decay)
    for old, new in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(new)
