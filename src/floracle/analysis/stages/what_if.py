"""The landmarks of other numbers of points, from measured ones.

A `twin` of the class, with its spectrum, norms and distances to neighbours, says by which factor
r = α/σ changes at a landmark when there are more points or fewer; the measured r is multiplied by
it. Twins need not be right for that, only off by as much with either number. Measured with three
quarters of a set hidden: docs/real-data.md, "Predictions".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from floracle.analysis.prediction.closed_form import effective_points
from floracle.analysis.prediction.profile import Profile
from floracle.analysis.prediction.twin import Twin, time_of_ratio, twin
from floracle.run.errors import InputError

from .result import Stages

MOVED_LANDMARKS = ("centre", "collapse", "end")


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

    Parameters
    ----------
    stages
        The measured stages.
    profile
        That of the group.
    points
        Numbers of points, at least 2 each; of the classes pooled, those of one class.
    label
        A class, −1 for the whole set, −2 for the classes pooled (then the profile is that of a
        typical class); by default the group of the headline.
    pairs
        Pairs of a `twin`.
    """
    group = stages.main if label is None else stages.group(label)
    if not all(2 <= count < float("inf") for count in points):
        raise InputError(f"numbers of points are finite and at least 2, got {list(points)}")
    if group.single_point:
        raise InputError(
            f"the {stages.name(group.label)} has a single distinct point, which says nothing about"
            " what distinguishes other numbers of points"
        )
    counts = [max(2.0, effective_points(group.max_information)), *points]
    measured, *others = (twin(profile, count, path=stages.path, pairs=pairs) for count in counts)
    return tuple(
        WhatIf(
            other.points,
            *(
                _move_landmark(getattr(group, name).value, name, measured, other)
                for name in MOVED_LANDMARKS
            ),
        )
        for other in others
    )


def _move_landmark(time: float | None, name: str, measured: Twin, other: Twin) -> float | None:
    """The time of a measured landmark, with its r multiplied by r(other) / r(measured twin)."""
    before, after = (getattr(one, name) for one in (measured, other))
    if time is None or before is None or after is None:
        return None
    c = measured.path.coefficients(torch.tensor([time, before, after], dtype=torch.float64))
    ratio, before, after = c.signal_to_noise
    return time_of_ratio(measured.path, float(ratio * after / before))
