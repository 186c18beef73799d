"""The landmarks of other numbers of points, read off one measured information curve.

The information i that singles out a pair's own sample hardly depends on how many others there are.
Their number only bends what is seen of its mean m(t),

    I_N = E[ i − log(1 + (e^i − 1) / N) ],        i Gaussian of mean m and variance 2m,

which runs into log N (CIFAR-10's automobiles at t = .08: 2.50, 2.56, 2.69 nats for N = 250, 1000,
5000). So one measured curve answers for other N: unbend it, find where it, bent by another N,
reaches ½ log N (the centre), and where m is as large a share of log N as at the measured collapse.
Up to the measured centre m(t) is that of the curve; beyond, where log N hides it, it goes on as
the Gaussian bound does, scaled to meet it there. On those automobiles a fifth and five times as
many give centres within 4 % and collapses within 6 % (tests/analysis/test_what_if.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from floracle.run.errors import Mistake

from .curves import crossing
from .groups import Group, Stages


class WhatIf(NamedTuple):
    """The landmarks that so many points of the same kind would have; None beyond t = .9999."""

    points: float
    centre: float | None
    collapse: float | None


def what_if(
    stages: Stages, points: Sequence[float], *, label: int | None = None
) -> tuple[WhatIf, ...]:
    """Landmarks for other numbers of points, from the measured curve of a group.

    `label` is a class, −1 the whole set, −2 the classes pooled (then `points` are those of a
    class); by default the group of the headline. It must have reached its centre and collapse.
    """
    group = stages.main if label is None else stages.group(label)
    if not all(1 < count < float("inf") for count in points):
        raise Mistake(f"numbers of points are finite and above 1, got {list(points)}")
    curve = _curve(stages, group)
    return tuple(curve.landmarks(count) for count in points)


@dataclass(frozen=True)
class Unbent:
    """The mean information m(t) as it would be for ever more points."""

    times: NDArray[np.float64]
    mean: NDArray[np.float64]
    """m, nats; rising."""
    share: float
    """The share of log N that m is of at the collapse."""

    def landmarks(self, points: float) -> WhatIf:
        """Where it shows ½ log N, and where it has the collapse's share of log N."""
        known = math.log(points)
        centre = self._time(bent(self.mean, points), known / 2)
        return WhatIf(points, centre, self._time(self.mean, self.share * known))

    def _time(self, curve: NDArray[np.float64], level: float) -> float | None:
        found = crossing(torch.from_numpy(self.times), torch.from_numpy(curve)[None], level)
        return None if found[0] != found[0] else float(found[0])


def bent(mean: NDArray[np.float64], points: float) -> NDArray[np.float64]:
    """What so many points let be seen of the information m […]: I_N, at most log N."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    drawn = mean[..., None] + np.sqrt(2 * mean.clip(0))[..., None] * nodes
    hidden = np.logaddexp(drawn - math.log(points), math.log1p(-1 / points))
    return (drawn - hidden) @ (weights / weights.sum())


def unbent(seen: NDArray[np.float64], points: float) -> NDArray[np.float64]:
    """The information m […] of which so many points let this be seen; by bisection."""
    low, high = np.zeros_like(seen), np.full_like(seen, 20 * math.log(points))
    for _ in range(60):
        middle = (low + high) / 2
        below = bent(middle, points) < seen
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _curve(stages: Stages, group: Group) -> Unbent:
    centre, collapse = group.centre.value, group.collapse.value
    if group.single_point:
        raise Mistake(
            f"the {stages.name(group.label)} has a single distinct point, which says nothing about"
            " what tells other numbers of points apart"
        )
    if centre is None or collapse is None:
        raise Mistake(
            f"the {stages.name(group.label)} never reached its centre and collapse, so its curve"
            " says nothing about other numbers of points"
        )
    times = stages.times.numpy()
    measured = group.curves["information"].mean.numpy()
    bound = group.predicted_information.numpy()
    fine = np.unique(np.concatenate([times, [centre]]))
    measured, bound = np.interp(fine, times, measured), np.interp(fine, times, bound)
    met = int(np.searchsorted(fine, centre))
    mean = unbent(measured[: met + 1].clip(0), math.exp(group.knowable))
    mean = np.concatenate([mean, bound[met + 1 :] * (mean[met] / bound[met])])
    mean = np.maximum.accumulate(mean)
    return Unbent(fine, mean, float(np.interp(collapse, fine, mean)) / group.knowable)
