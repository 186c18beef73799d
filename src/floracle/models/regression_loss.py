"""How well a reading of a field regresses data − noise on x_t, and which of two does it better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.fields import VelocityField, evaluate
from floracle.run.errors import InputError

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
SIGNIFICANT_ERRORS = 5.0  # standard errors by which a variant must win
SIGNIFICANT_LOSS = 1e-6  # below it, equal losses differ by rounding


class DataNoisePairs(NamedTuple):
    """Data and noise [n, *shape], and labels int64 [n] or None."""

    data: Tensor
    noise: Tensor
    labels: Tensor | None


def unexplained(
    field: VelocityField, pairs: DataNoisePairs, times: Sequence[float] = TIMES
) -> Tensor:
    """‖v − (data − noise)‖² of each pair, as a share of the variance of data − noise.

    float64 [n], the mean over times; 1 is what a constant leaves, ∞ where there is no velocity.
    """
    target = (pairs.data - pairs.noise).double().flatten(1)  # [n, D]
    variance = target.var(dim=0).sum().clamp(min=1e-30)
    total = torch.zeros(len(target), dtype=torch.float64)
    for time in times:
        velocity = velocity_at(field, pairs, time).flatten(1)
        total += (velocity - target).square().sum(1) / variance
    loss = total / len(times)
    return torch.where(loss.isfinite(), loss, math.inf)


def significantly_less(loss: Tensor, other: Tensor) -> bool:
    """Whether one loss [n] is smaller than another on the same pairs, beyond chance."""
    excess = other - loss
    if not excess.isfinite().all():
        return True
    error = excess.std() / len(excess) ** 0.5
    mean = excess.mean()
    return bool(mean > SIGNIFICANT_ERRORS * error) and bool(mean > SIGNIFICANT_LOSS)


def velocity_at(field: VelocityField, pairs: DataNoisePairs, time: float) -> Tensor:
    """The velocity at x_t = t · data + (1 − t) · noise, float64."""
    t = torch.full((len(pairs.data),), time, dtype=torch.float64)
    x = time * pairs.data + (1 - time) * pairs.noise
    return evaluate_or_nan(field, x, t, pairs.labels).double()


def evaluate_or_nan(field: VelocityField, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """The velocity; NaN where a reading has none at all."""
    try:
        return evaluate(field, x, t, labels)
    except InputError:
        raise
    except (ValueError, IndexError, RuntimeError):  # such as a time beyond a network's table
        return torch.full_like(x, math.nan)
