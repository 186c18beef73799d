"""Averages over pairs with their standard errors, and the times at which they cross a level.

Times share pairs, so everything is computed pair by pair first and its error taken over pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.seeds import generator

from .interpolation import MeasuredTimes

END_WEIGHT = 0.99
"""The mean largest weight at which navigation has ended."""
RESAMPLES = 400
RESAMPLE_BLOCK_BYTES = 2**26
"""The size of the resamples whose means are taken at a time."""
COVERAGE = 0.95
NOMINAL_COVERAGE = 0.97
"""What intervals of landmarks are computed for: of skewed weights fewer contain the truth, about
95 % (benchmarks/coverage.py)."""
MIN_PAIRS_FOR_CONTROL = 64
"""Pairs from which a control variate is worth more than the noise of its slope, and from which the
mean of a skewed loss has an error that can be trusted."""
MIN_PAIRS_FOR_INTERVAL = 256
"""Pairs from which an interval of a landmark covers as often as it says: weights are skewed."""
FOLDS = 8
"""Parts of the pairs; the slope of one comes from the others."""
MIN_PAIRS_WITH_CONTROL = 8
"""The effective number (Σ c²)² / Σ c⁴ of pairs with a control c that a slope takes at least."""


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
        """From several values of the same pairs by name, [p, T] each."""
        stacked = torch.stack(list(values.values()), 1)  # [p, c, T]
        means, errors = stacked.mean(0), standard_error(stacked)
        return {name: cls(means[i], errors[i]) for i, name in enumerate(values)}


@dataclass(frozen=True)
class Landmark:
    """A time that divides the stages, with its 95 % interval; None where it is not reached."""

    value: float | None
    low: float | None = None
    """None where the landmark is not reached, or too few pairs give no interval."""
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


def subtract_control(values: Tensor, control: Tensor) -> Tensor:
    """Values of pairs [p, T] less β times a zero-mean control variate [p, T].

    The slope β [T] of a pair comes from the other folds, so that it does not depend on the pair
    and the mean stays unbiased. Fewer than `MIN_PAIRS_FOR_CONTROL` pairs are left as they are.
    """
    pairs = len(values)
    if pairs < MIN_PAIRS_FOR_CONTROL:
        return values
    fold, reduced = torch.arange(pairs) % FOLDS, torch.empty_like(values)
    for number in range(FOLDS):
        inside, outside = fold == number, fold != number
        slope = _control_slope(values[outside], control[outside])
        reduced[inside] = values[inside] - slope * control[inside]
    return reduced


def _control_slope(values: Tensor, control: Tensor) -> Tensor:
    """β = Σ c (v − v̄) / Σ c² [T], from values v and a zero-mean control c of pairs [p, T].

    As a ratio of sums it cannot suffer from cancellation. Values and control are of one scale, so
    |β| ≤ 1. It is 0 at times where few pairs carry the control: they know it too badly.
    """
    squares, deviations = control.square(), values - values.mean(0)
    total = squares.sum(0)
    enough = total.square() >= MIN_PAIRS_WITH_CONTROL * squares.square().sum(0)
    slope = ((control * deviations).sum(0) / total).clamp(-1, 1)
    return torch.where(enough & (total > 0), slope, 0.0)


def bootstrap_means(values: Tensor, seed: int) -> Tensor:
    """Bootstrap means [RESAMPLES, T] of values of pairs [p, T]."""
    pairs, random = len(values), generator(seed)
    one = torch.ones(1, 1, dtype=torch.float64)
    means: list[Tensor] = []
    for block in torch.arange(RESAMPLES).split(max(1, RESAMPLE_BLOCK_BYTES // (16 * pairs))):
        drawn = torch.randint(pairs, (len(block), pairs), generator=random)
        # how often each pair is drawn, [c, p]: one product then gives all means
        counts = torch.zeros(len(block), pairs, dtype=torch.float64)
        counts.scatter_add_(1, drawn, one.expand_as(drawn))
        means.append(counts @ values / pairs)
    return torch.cat(means)


def first_crossings(
    times: Tensor, values: Tensor, level: float | Tensor, *, along: Tensor | None = None
) -> Tensor:
    """The times at which rising curves [c, T] first reach a level ([c, 1]); else NaN.

    Between times they are monotone cubics in t, or `along` the predicted information, [T].
    """
    levels = torch.as_tensor(level, dtype=torch.float64).reshape(-1)
    return torch.from_numpy(MeasuredTimes(times, along).reached(values, levels)[0])


def find_landmark(
    times: Tensor, mean: Tensor, resamples: Tensor, level: float, *, along: Tensor | None = None
) -> Landmark:
    """The time at which a mean curve [T] reaches a level; its interval is of resamples [c, T]."""
    levels = torch.tensor([level], dtype=torch.float64)
    return find_landmarks(times, mean[None], resamples[None], levels, along=along)[0]


def find_landmarks(
    times: Tensor,
    means: Tensor,
    resamples: Tensor,
    levels: Tensor,
    *,
    along: Tensor | None = None,
    pairs: int = MIN_PAIRS_FOR_INTERVAL,
) -> list[Landmark]:
    """The times at which mean curves [k, T] reach their levels [k]; resamples are [k, c, T].

    Intervals are bias-corrected and accelerated (Efron 1987), because weights next to 0 or 1 are
    skewed, and are widened by what the times leave open: the distance between the crossing of
    cubics and that of straight lines. Fewer than `MIN_PAIRS_FOR_INTERVAL` pairs give none.
    """
    nodes = MeasuredTimes(times, along)
    if pairs < MIN_PAIRS_FOR_INTERVAL:
        values, _ = nodes.reached(means, levels)
        return [Landmark(None if value != value else value) for value in values.tolist()]

    # 1. Crossings of the mean (column 0) and of all resamples, by cubics and by lines: [k, 1 + c].
    curves = torch.cat([means[:, None], resamples], 1)
    curve_levels = levels.repeat_interleave(curves.shape[1])
    cubic, linear = (
        torch.from_numpy(crossings).unflatten(0, curves.shape[:2])
        for crossings in nodes.reached(curves.flatten(0, 1), curve_levels)
    )
    resampled = cubic[:, 1:].nan_to_num(nan=float(times[-1]))  # not reached counts as the end

    # 2. Quantiles of the resampled crossings between which the interval lies.
    at_crossing = [
        torch.from_numpy(nodes.values(values, float(value)))
        for values, value in zip(resamples, cubic[:, 0].nan_to_num(), strict=True)
    ]
    shares = _bca_shares(resampled, cubic[:, :1], torch.stack(at_crossing))
    intervals = torch.stack(
        [values.quantile(share) for values, share in zip(resampled, shares, strict=True)]
    )

    # 3. Widened by the interpolation error, and kept within the measured times.
    interpolation_error = (cubic - linear)[:, :1].abs().nan_to_num()
    intervals = intervals + interpolation_error * torch.tensor([-1.0, 1.0])
    intervals = intervals.clamp(float(times[0]), float(times[-1]))
    return [
        Landmark(None) if value != value else Landmark(value, low, high)  # NaN is not reached
        for value, (low, high) in zip(cubic[:, 0].tolist(), intervals.tolist(), strict=True)
    ]


def _bca_shares(resampled: Tensor, value: Tensor, means: Tensor) -> Tensor:
    """The quantiles [k, 2] of resampled crossings [k, c] that bound a BCa interval (Efron 1987).

    With z₀ the bias of the crossing `value` [k, 1] and a the acceleration, they are

        Φ(z₀ + z / (1 − a z)),        z = z₀ ± Φ⁻¹((1 + NOMINAL_COVERAGE) / 2).

    `means` [k, c] are the resampled curves at the mean curve's crossing: the skewness of such
    means is six times the acceleration of the curve, and crossings fall where curves rise, which
    turns the sign of a. The skewness is at most about 1, where one pair carries all, so the
    denominator stays positive.
    """
    below = ((resampled < value).double() + (resampled <= value).double()).mean(1) / 2
    count = resampled.shape[1]
    bias = torch.special.ndtri(below.clamp(1 / count, 1 - 1 / count))[:, None]
    deviations = means - means.mean(1, keepdim=True)
    spread = deviations.square().mean(1).sqrt().clamp(min=1e-300)
    skewness = (deviations / spread[:, None]).pow(3).mean(1)[:, None]
    tail = (1 - NOMINAL_COVERAGE) / 2
    z = bias + torch.special.ndtri(torch.tensor([tail, 1 - tail], dtype=resampled.dtype))
    return torch.special.ndtr(bias + z / (1 + skewness / 6 * z)).clamp(0, 1)
