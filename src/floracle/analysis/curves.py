"""Averages over pairs with honest errors, and where they cross a level.

Times share pairs, so everything is computed pair by pair first and its error taken over pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.seeds import generator

from .interpolation import MeasuredTimes

RESAMPLES = 400
RESAMPLED_BYTES = 2**26
"""The size of a few resamples on the way to their means."""
COVERED = 0.95
NOMINAL = 0.97
"""The share that intervals of landmarks are made for: of skewed weights fewer hold, about 95 %
(benchmarks/coverage.py)."""
ENOUGH = 64
"""Pairs from which a control is worth more than the noise of its slope, and from which the mean of
a skewed loss has an error that can be trusted."""
CARRYING = 256
"""Pairs from which an interval of a landmark covers as often as it says: weights are skewed."""
FOLDS = 8
"""Parts of the pairs; the slope of one comes from the others."""
CARRIED = 8
"""Pairs that carry a control, at least: (Σ c²)² / Σ c⁴ of those that a slope comes from."""


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
    """None where it is not reached, and where too few pairs tell nothing of an interval."""
    high: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval, for drawing; the value itself where there is none."""
        assert self.value is not None
        if self.low is None or self.high is None:
            return self.value, self.value
        return self.low, self.high

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


def control_variate(values: Tensor, control: Tensor) -> Tensor:
    """Values of pairs [p, T] less the multiple of a zero-mean control that narrows them.

    The multiple of a pair comes from the other folds, so that it does not know the pair and the
    mean stays where it is. It is a ratio of sums over those folds: nothing is subtracted that
    could cancel. It is 1 at most in size, for values and control are of one scale, and 0 at times
    where few pairs carry the control, which know it too badly. So do fewer than `ENOUGH` pairs.
    """
    pairs = len(values)
    if pairs < ENOUGH:
        return values
    fold, narrowed = torch.arange(pairs) % FOLDS, torch.empty_like(values)
    for one in range(FOLDS):
        own, others = fold == one, fold != one
        narrowed[own] = values[own] - _slope(values[others], control[others]) * control[own]
    return narrowed


def _slope(values: Tensor, control: Tensor) -> Tensor:
    """The multiple [T] of a zero-mean control that narrows values of pairs [p, T] most."""
    squares, spread = control.square(), values - values.mean(0)
    own = squares.sum(0)
    known = own.square() >= CARRIED * squares.square().sum(0)
    slope = ((control * spread).sum(0) / own).clamp(-1, 1)
    return torch.where(known & (own > 0), slope, 0.0)


def bootstrap_means(values: Tensor, seed: int) -> Tensor:
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


def crossing(
    times: Tensor, values: Tensor, level: float | Tensor, *, along: Tensor | None = None
) -> Tensor:
    """Where rising curves [c, T] first reach a level ([c, 1]); else NaN.

    Between times they are monotone cubics in t, or `along` what is predicted to be known, [T].
    """
    levels = torch.as_tensor(level, dtype=torch.float64).reshape(-1)
    return torch.from_numpy(MeasuredTimes(times, along).reached(values, levels)[0])


def landmark(
    times: Tensor, mean: Tensor, resamples: Tensor, level: float, *, along: Tensor | None = None
) -> Landmark:
    """Where a mean curve [T] reaches a level, with the interval its resamples [c, T] give."""
    levels = torch.tensor([level], dtype=torch.float64)
    return several_landmarks(times, mean[None], resamples[None], levels, along=along)[0]


def several_landmarks(
    times: Tensor,
    means: Tensor,
    resamples: Tensor,
    levels: Tensor,
    *,
    along: Tensor | None = None,
    pairs: int = CARRYING,
) -> list[Landmark]:
    """Where mean curves [k, T] reach their levels [k]; resamples are [k, c, T].

    Intervals are bias-corrected and accelerated (Efron 1987), for weights next to 0 or 1 are
    skewed, and reach farther by what the times leave open: how far the crossing of cubics lies
    from that of straight lines. Fewer than `CARRYING` pairs tell of none.
    """
    places = MeasuredTimes(times, along)
    if pairs < CARRYING:
        bent, _ = places.reached(means, levels)
        return [Landmark(value if value == value else None) for value in bent.tolist()]
    every = torch.cat([means[:, None], resamples], 1)
    each = levels.repeat_interleave(every.shape[1])
    found, straight = (
        torch.from_numpy(one).unflatten(0, every.shape[:2])
        for one in places.reached(every.flatten(0, 1), each)
    )
    again = found[:, 1:].nan_to_num(nan=float(times[-1]))
    there = [
        torch.from_numpy(places.values(values, float(value)))
        for values, value in zip(resamples, found[:, 0].nan_to_num(), strict=True)
    ]
    shares = _accelerated(again, found[:, :1], torch.stack(there))
    interval = torch.stack(
        [values.quantile(share) for values, share in zip(again, shares, strict=True)]
    )
    left_open = (found - straight)[:, :1].abs().nan_to_num() * torch.tensor([-1.0, 1.0])
    interval = (interval + left_open).clamp(float(times[0]), float(times[-1]))
    return [
        Landmark(value, low, high) if value == value else Landmark(None)  # NaN is no number
        for value, (low, high) in zip(found[:, 0].tolist(), interval.tolist(), strict=True)
    ]


def _accelerated(again: Tensor, value: Tensor, means: Tensor) -> Tensor:
    """The shares [k, 2] of resampled crossings [k, c] between which `NOMINAL` of intervals hold.

    `means` [k, c] are resampled curves where the mean ones cross: their skewness, of pairs over
    the root of their number, is six times the acceleration, and crossings fall where they rise.
    It is about 1 at most, where one pair carries all, so the denominator below stays positive.
    """
    below = ((again < value).double() + (again <= value).double()).mean(1) / 2
    count = again.shape[1]
    bias = torch.special.ndtri(below.clamp(1 / count, 1 - 1 / count))[:, None]
    apart = means - means.mean(1, keepdim=True)
    spread = apart.square().mean(1).sqrt().clamp(min=1e-300)
    skewed = (apart / spread[:, None]).pow(3).mean(1)[:, None]
    tail = (1 - NOMINAL) / 2
    reach = bias + torch.special.ndtri(torch.tensor([tail, 1 - tail], dtype=again.dtype))
    return torch.special.ndtr(bias + reach / (1 + skewed / 6 * reach)).clamp(0, 1)
