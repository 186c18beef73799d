"""Pairs of data and noise on the forward path, and ratios of averages over them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.paths import ProbabilityPath, check_times
from floracle.core.point_set import NO_LABEL, PointSet, classes
from floracle.core.seeds import generator, noise
from floracle.run.errors import InputError

from .curves import Curve, standard_error


class ForwardPairs(NamedTuple):
    """Data and noise, float32 [p, *shape] each, and their labels int64 [p]."""

    data: Tensor
    noise: Tensor
    labels: Tensor

    def at(self, t: float, path: ProbabilityPath) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of a field at time t: (x_t, t [p], labels)."""
        times = torch.full((len(self.data),), t, dtype=torch.float64)
        return path.sample(self.data, self.noise, times), times, self.labels


def forward_pairs(
    source: PointSet, pairs: int, *, label: int = NO_LABEL, seed: int = 0
) -> ForwardPairs:
    """Pairs of a class, or of the whole set for −1; data is drawn in proportion to its weight."""
    if pairs < 2:
        raise InputError(f"errors need at least 2 pairs, got {pairs}")
    if label != NO_LABEL and label not in classes(source):
        raise InputError(f"there is no class {label}; labels are {classes(source) or 'all −1'}")
    rows, weights = source.atoms(label)
    draws = torch.multinomial(weights, pairs, replacement=True, generator=generator(seed))
    fresh_noise = noise(range(seed + 1, seed + 1 + pairs), source.shape)
    return ForwardPairs(source.take(rows[draws]), fresh_noise, torch.full((pairs,), label))


def ratio(numerator: Tensor, denominator: Tensor) -> Curve:
    """The ratio of two means over the same pairs [p, T]; its error is that of the delta method."""
    means = numerator.mean(0) / denominator.mean(0)
    residuals = numerator - means * denominator
    return Curve(means, standard_error(residuals) / denominator.mean(0).abs())


def check_field_times(times: Tensor) -> Tensor:
    """Times float64 [T]; refused unless they increase in [0, 1), where fields are defined."""
    times = check_times(times)
    if times.ndim != 1 or len(times) < 2 or not (times.diff() > 0).all() or times[-1] >= 1:
        raise InputError("times are at least two, increase and lie in [0, 1); fields end at t = 1")
    return times
