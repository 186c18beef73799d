"""What was measured of the two stages: of a class, of the whole set, of all classes together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import ndtr, stdtrit
from torch import Tensor

from floracle.analysis.curves import CARRYING, Curve, Estimate, Landmark, several_landmarks
from floracle.analysis.interpolation import MeasuredTimes
from floracle.core.paths import PATHS
from floracle.core.point_set import NO_LABEL
from floracle.run.results import Results

POOLED = -2
"""The label under which the average over classes is kept."""
END = 0.99
"""The mean largest weight at which navigation has ended."""
FLAGGED = 4.0
"""How many standard errors the information law may be off before it is called broken; of few
pairs, as many as Student's distribution exceeds as rarely."""
JUDGED = 0.05
"""The share of H(w) that the error of the area may be at most: a larger one checks nothing."""
TOLERATED = 0.005
"""The share of H(w) that it may be off besides, for the error of the quadrature over times."""
NOWHERE = Landmark(None)


@dataclass(frozen=True)
class ClassStages:
    """The stages of one class, of the whole set (label −1), or pooled over classes (−2)."""

    label: int
    points: int
    """Atoms; for the pooled group their number over all classes."""
    pairs: int
    share: float
    """Its share of the whole set's mass."""
    max_information: float
    """H(w), nats: what there is to know about which sample it is; 0 of a single point."""
    curves: dict[str, Curve]
    centre: Landmark
    collapse: Landmark
    end: Landmark
    predicted_centre: float
    predicted_collapse: float
    predicted_information: Tensor
    """I_G [T]: an upper bound on the information."""
    area: Estimate
    """The integral of the information law, nats; to be compared with `knowable` − `unknown`."""
    remaining_information: float
    """The entropy that is left at the last time, nats."""
    speciation: Landmark = NOWHERE
    """Where half of what there is to know about the class is known; of the whole set alone."""
    max_class_information: float = 0.0
    """H(class), nats; 0 where classes were not asked about."""
    rivals: tuple[tuple[int, int], ...] = ()
    """Rows of pairs that one sample does not win, each with its nearest rival."""
    resamples: dict[str, Tensor] | None = None

    @property
    def single_point(self) -> bool:
        """Whether every class in it has a single distinct point, so that H(w) = 0.

        Then γ_own = 1 at all times: the collapse and the end are at t = 0, and there is no centre,
        for there is nothing to know.
        """
        return self.max_information == 0

    @property
    def law_allowance(self) -> float:
        """By how many nats the measured area may be off."""
        return self.law_errors * self.area.error + TOLERATED * self.max_information

    @property
    def law_errors(self) -> float:
        """How many standard errors are as rare with so few pairs as `FLAGGED` are with many."""
        return float(stdtrit(max(self.pairs - 1, 1), ndtr(FLAGGED)))

    @property
    def law_holds(self) -> bool:
        """Whether the measured area is what it must be, as far as its error can tell."""
        return not abs(self.law_difference) > self.law_allowance

    @property
    def law_checked(self) -> bool:
        """Whether the error is small enough for that to mean anything."""
        return self.area.error <= JUDGED * self.max_information

    @property
    def law_difference(self) -> float:
        """By how many nats the measured area is off."""
        return self.area.value - self.max_information + self.remaining_information

    @property
    def law_deviation(self) -> float:
        """How many standard errors the measured area is off; infinite where it has no error."""
        if self.area.error == 0:
            return math.copysign(math.inf, self.law_difference) if self.law_difference else 0.0
        return self.law_difference / self.area.error


@dataclass(frozen=True)
class Stages:
    """The stages of a data set: every class, the whole set, and the classes pooled."""

    times: Tensor
    groups: tuple[ClassStages, ...]
    dims: int
    names: tuple[str, ...]
    """Class names by label; empty where there are none."""
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def group(self, label: int) -> ClassStages:
        """One class; −1 is the whole set, −2 the classes pooled."""
        for group in self.groups:
            if group.label == label:
                return group
        raise KeyError(f"label {label} was not measured")

    @property
    def main(self) -> ClassStages:
        """What the headline is about: the classes pooled, or the whole set without classes.

        What has a single point is passed over for what has more.
        """
        return min(self.groups, key=lambda group: (group.single_point, group.label != POOLED))

    @property
    def typical(self) -> ClassStages:
        """The class in the middle by predicted collapse; the whole set where there are none.

        What has a single point is passed over for what has more. It is never the pool, which is
        no class that a field could be evaluated with.
        """
        measured = [group for group in self.groups if group.label != POOLED]
        measured = [group for group in measured if not group.single_point] or measured
        classes = [group for group in measured if group.label >= 0] or measured
        ordered = sorted(classes, key=lambda group: group.predicted_collapse)
        return ordered[len(ordered) // 2]

    @property
    def single_points(self) -> tuple[ClassStages, ...]:
        """The classes that have a single distinct point each."""
        return tuple(group for group in self.groups if group.label >= 0 and group.single_point)

    @property
    def landmarks(self) -> ClassStages:
        """The main group: its `centre`, `collapse`, `end` and their predictions."""
        return self.main

    @property
    def curves(self) -> dict[str, Curve]:
        """The main group's curves."""
        return self.main.curves

    @property
    def area(self) -> Estimate:
        """The main group's measured information, nats."""
        return self.main.area

    def gap_at(self, times: Tensor, *, label: int | None = None) -> Curve:
        """The gap of the main group, or of a class, at any times [...]; summed over dimensions.

        It is A² times a variance; that is what is followed between the times of measuring.
        """
        group = self.main if label is None else self.group(label)
        curve, places = group.curves["gap"], MeasuredTimes(self.times, group.predicted_information)
        within = times.clamp(float(self.times[0]), float(self.times[-1]))
        values = torch.stack([curve.mean, curve.error]) / self.lift(self.times)
        found = torch.from_numpy(places.values(values, within)) * self.lift(within)
        return Curve(*found)

    def lift(self, times: Tensor) -> Tensor:
        """A² at times [...]: what a variance is multiplied with to be a gap."""
        path = PATHS[self.settings.get("path", "linear")]
        return path.coefficients(times.flatten()).amplification.square().view(times.shape)

    def name(self, label: int) -> str:
        """What to call a group."""
        if label == POOLED:
            return "classes pooled"
        if label == NO_LABEL:
            return "whole set"
        return self.names[label] if label < len(self.names) else str(label)

    def to_results(self) -> Results:
        """As values and arrays."""
        from floracle.analysis.saved import stages_to_results

        return stages_to_results(self)


def landmarks(
    times: Tensor,
    curves: dict[str, Curve],
    resamples: dict[str, Tensor],
    *,
    along: Tensor,
    pairs: int,
    knowable: float,
    classes: float = 0.0,
) -> dict[str, Landmark]:
    """Centre, collapse and end of mean curves, with intervals from their resamples.

    Between times curves are followed `along` what is predicted to be known, [T].

    With H(class) in `classes` the time that separates classes is one more. Of a single point there
    is nothing to know, so half of it is known at no particular time.
    """
    levels = {
        "centre": ("information", knowable / 2),
        "collapse": ("self_weight", 0.5),
        "end": ("max_weight", END),
    }
    if classes > 0:
        levels["speciation"] = ("class_information", classes / 2)
    found = several_landmarks(
        times,
        torch.stack([curves[of].mean for of, _ in levels.values()]),
        torch.stack([resamples[of] for of, _ in levels.values()]),
        torch.tensor([level for _, level in levels.values()], dtype=torch.float64),
        along=along,
        pairs=pairs if knowable > 0 else CARRYING,
    )
    marks = dict(zip(levels, found, strict=True))
    return marks if knowable > 0 else {**marks, "centre": NOWHERE}
