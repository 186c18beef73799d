"""Pairs on the forward path, and ratios of what is averaged over them."""

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
    """Data and the noise it is mixed with, float32 [p, *shape] each, and their labels [p]."""

    data: Tensor
    noise: Tensor
    labels: Tensor

    def at(self, t: float, path: ProbabilityPath) -> tuple[Tensor, Tensor, Tensor]:
        """What a field is asked at time t: (x, t, labels)."""
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
    drawn = torch.multinomial(weights, pairs, replacement=True, generator=generator(seed))
    fresh = noise(range(seed + 1, seed + 1 + pairs), source.shape)
    labels = torch.full((pairs,), label)
    return ForwardPairs(source.take(rows[drawn]), fresh, labels)


def ratio(above: Tensor, below: Tensor) -> Curve:
    """The ratio of two means over the same pairs [p, T]; its error to first order."""
    means = above.mean(0) / below.mean(0)
    return Curve(means, standard_error(above - means * below) / below.mean(0).abs())


def asked_times(times: Tensor) -> Tensor:
    """Increasing times float64 [T] in [0, 1), where fields are defined."""
    times = check_times(times)
    if times.ndim != 1 or len(times) < 2 or not (times.diff() > 0).all() or times[-1] >= 1:
        raise InputError("times are at least two, increase and lie in [0, 1); fields end at t = 1")
    return times
