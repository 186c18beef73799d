"""The landmarks of other numbers of points, read off one measured information curve.

What a noisy sample tells about its origin hardly depends on how many samples there are until it
runs into log N (CIFAR-10 at t = .08: 2.50, 2.56, 2.69 nats for N = 250, 1000, 5000). So one
measured curve answers for other N: the centre is where it reaches ½ log N, the collapse where it
would reach as much of log N as it does at the measured collapse. Up to the measured centre the
curve is taken as it is; beyond, where its own log N bends it, it goes on as the Gaussian bound
does, scaled to meet it there.
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
    curve = _unbent(stages, group)
    return tuple(curve.landmarks(count) for count in points)


@dataclass(frozen=True)
class Unbent:
    """The information curve as it would be for ever more points."""

    times: NDArray[np.float64]
    information: NDArray[np.float64]
    """Nats, rising."""
    share: float
    """The share of log N that is reached at the collapse."""

    def landmarks(self, points: float) -> WhatIf:
        """Where it reaches ½ log N, and the collapse's share of log N."""
        known = math.log(points)
        return WhatIf(points, self._time(known / 2), self._time(self.share * known))

    def _time(self, level: float) -> float | None:
        curve = torch.from_numpy(self.information)[None]
        found = float(crossing(torch.from_numpy(self.times), curve, level)[0])
        return None if found != found else found


def _unbent(stages: Stages, group: Group) -> Unbent:
    centre, collapse = group.centre.value, group.collapse.value
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
    scaled = bound * (measured[met] / bound[met])
    unbent = np.maximum.accumulate(np.where(fine <= centre, measured, scaled))
    return Unbent(fine, unbent, float(np.interp(collapse, fine, unbent)) / group.knowable)
