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
RESAMPLED_BYTES = 2**26
"""The size of a few resamples on the way to their means."""
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

    @classmethod
    def of_each(cls, values: dict[str, Tensor]) -> dict[str, Curve]:
        """From values of the same pairs by name, [p, T] each."""
        every = torch.stack(list(values.values()), 1)
        means, errors = every.mean(0), standard_error(every)
        return {name: cls(means[i], errors[i]) for i, name in enumerate(values)}


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
    pairs, source = len(values), generator(seed)
    one = torch.ones(1, 1, dtype=torch.float64)
    means: list[Tensor] = []
    for some in torch.arange(RESAMPLES).split(max(1, RESAMPLED_BYTES // (16 * pairs))):
        drawn = torch.randint(pairs, (len(some), pairs), generator=source)
        counts = torch.zeros(len(some), pairs, dtype=torch.float64)
        counts.scatter_add_(1, drawn, one.expand_as(drawn))
        means.append(counts @ values / pairs)
    return torch.cat(means)


def crossing(times: Tensor, values: Tensor, level: float | Tensor) -> Tensor:
    """Where rising curves [c, T] first reach a level ([c, 1]), linear between times; else NaN."""
    reached = values >= level
    first = reached.to(torch.int8).argmax(1, keepdim=True)
    before = (first - 1).clamp(min=0)
    low, high = values.gather(1, before), values.gather(1, first)
    share = torch.where(first > 0, (level - low) / (high - low).clamp(min=1e-300), 0.0)
    found = times[before] + share * (times[first] - times[before])
    return torch.where(values.gather(1, first) >= level, found, torch.nan)[:, 0]


def landmark(times: Tensor, mean: Tensor, resamples: Tensor, level: float) -> Landmark:
    """Where a mean curve [T] reaches a level, with the interval its resamples [c, T] give."""
    levels = torch.tensor([level], dtype=torch.float64)
    return several_landmarks(times, mean[None], resamples[None], levels)[0]


def several_landmarks(
    times: Tensor, means: Tensor, resamples: Tensor, levels: Tensor
) -> list[Landmark]:
    """Where mean curves [k, T] reach their levels [k]; resamples are [k, c, T]."""
    every = torch.cat([means[:, None], resamples], 1)
    each = levels.repeat_interleave(every.shape[1])[:, None]
    found = crossing(times, every.flatten(0, 1), each).unflatten(0, every.shape[:2])
    tail = (1 - COVERED) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=found.dtype)
    interval = found[:, 1:].nan_to_num(nan=float(times[-1])).quantile(ends, dim=1).T
    return [
        Landmark(value, low, high) if value == value else Landmark(None)  # NaN is no number
        for value, (low, high) in zip(found[:, 0].tolist(), interval.tolist(), strict=True)
    ]
