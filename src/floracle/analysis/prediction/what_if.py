"""The landmarks of other numbers of points, from measured ones.

A `twin` of the class, with its spectrum, norms and distances to neighbours, tells by what r = α/σ
moves at a landmark when there are more points or fewer; that multiplies the r that was measured.
Twins need not be right for that, only off by as much with either number. Measured with three
quarters of a set hidden: docs/real-data.md, "Predictions".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from floracle.analysis.curves import Landmark
from floracle.analysis.stages.result import Stages
from floracle.core.paths import PATHS
from floracle.run.errors import InputError

from .profile import Profile
from .twin import Twin, time_at, twin

MARKS = ("centre", "collapse", "end")


class WhatIf(NamedTuple):
    """The landmarks that so many points of the same kind would have; None where not reached."""

    points: float
    centre: float | None
    collapse: float | None
    end: float | None


def what_if(
    stages: Stages,
    profile: Profile,
    points: Sequence[float],
    *,
    label: int | None = None,
    pairs: int | None = None,
) -> tuple[WhatIf, ...]:
    """Landmarks for other numbers of points, from those measured of a group and its profile.

    `label` is a class, −1 the whole set, −2 the classes pooled (then `points` are those of a
    class, and the profile is of a typical one); by default the group of the headline.
    `pairs` are those of a `twin`.
    """
    group = stages.main if label is None else stages.group(label)
    if not all(2 <= count < float("inf") for count in points):
        raise InputError(f"numbers of points are finite and at least 2, got {list(points)}")
    if group.single_point:
        raise InputError(
            f"the {stages.name(group.label)} has a single distinct point, which says nothing about"
            " what tells other numbers of points apart"
        )
    path = PATHS[stages.settings.get("path", "linear")]
    counts = [max(2.0, math.exp(group.max_information)), *points]
    here, *there = (twin(profile, count, path=path, pairs=pairs) for count in counts)
    marks: dict[str, Landmark] = {name: getattr(group, name) for name in MARKS}
    return tuple(
        WhatIf(of.points, *(_moved(mark, name, here, of) for name, mark in marks.items()))
        for of in there
    )


def _moved(mark: Landmark, name: str, here: Twin, there: Twin) -> float | None:
    """A measured landmark times what r is multiplied with between two twins."""
    before, after = (getattr(one, name) for one in (here, there))
    if mark.value is None or before is None or after is None:
        return None
    times = torch.tensor([mark.value, before, after], dtype=torch.float64)
    c = here.path.coefficients(times)
    measured, before, after = c.signal_to_noise
    return time_at(here.path, float(measured * after / before))
