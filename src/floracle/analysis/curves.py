"""Averages over pairs with honest errors, and where they cross a level.

Times share pairs, so everything is computed pair by pair first and its error taken over pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.seeds import generator

RESAMPLES = 400
COVERED = 0.95
ENOUGH = 64
"""Pairs from which a control is worth more than the noise of its slope."""


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Curve:
    """A mean over pairs by time and its standard error; float64 [T] each."""

    mean: Tensor
    error: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Curve:
        """From values of pairs [p, T]."""
        return cls(values.mean(0), standard_error(values))


@dataclass(frozen=True)
class Landmark:
    """A time that divides the stages, with its 95 % interval; None where it is not reached."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "not reached"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def standard_error(values: Tensor) -> Tensor:
    """The standard error of the mean over pairs [p, …]; infinite for a single pair."""
    if len(values) < 2:
        return torch.full_like(values[0], float("inf"))
    return values.std(0) / len(values) ** 0.5


def controlled(values: Tensor, control: Tensor) -> Tensor:
    """Values of pairs [p, T] less the multiple of a zero-mean control that narrows them most.

    Every pair takes its multiple from the others: its own would bend the mean towards what was
    drawn. Fewer than `ENOUGH` pairs know it too badly and are left as they are.
    """
    pairs = len(values)
    if pairs < ENOUGH:
        return values
    apart, spread = control - control.mean(0), values - values.mean(0)
    without = pairs / (pairs - 1)
    both, own = apart * spread, apart.square()
    slope = (both.sum(0) - without * both) / (own.sum(0) - without * own).clamp(min=1e-30)
    return values - slope * control


def resampled(values: Tensor, seed: int) -> Tensor:
    """Bootstrap means [RESAMPLES, T] of values of pairs [p, T]."""
    pairs = len(values)
    drawn = torch.randint(pairs, (RESAMPLES, pairs), generator=generator(seed))
    counts = torch.zeros(RESAMPLES, pairs, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return counts @ values / pairs


def crossing(times: Tensor, values: Tensor, level: float) -> Tensor:
    """Where rising curves [c, T] first reach a level, linear between times; NaN if never."""
    reached = values >= level
    first = reached.to(torch.int8).argmax(1)
    before = (first - 1).clamp(min=0)
    rows = torch.arange(len(values))
    low, high = values[rows, before], values[rows, first]
    share = torch.where(first > 0, (level - low) / (high - low).clamp(min=1e-300), 0.0)
    found = times[before] + share * (times[first] - times[before])
    return torch.where(reached.any(1), found, torch.nan)


def landmark(times: Tensor, mean: Tensor, resamples: Tensor, level: float) -> Landmark:
    """Where a mean curve [T] reaches a level, with the interval its resamples [c, T] give."""
    value = float(crossing(times, mean[None], level)[0])
    if value != value:  # NaN
        return Landmark(None)
    found = crossing(times, resamples, level).nan_to_num(nan=float(times[-1]))
    tail = (1 - COVERED) / 2
    low, high = torch.quantile(found, torch.tensor([tail, 1 - tail], dtype=found.dtype)).tolist()
    return Landmark(value, low, high)
