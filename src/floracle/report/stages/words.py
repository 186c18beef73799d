"""The numbers of stages in sentences: headline, story, the check of the measurement."""

from __future__ import annotations

import math

from floracle.analysis.curves import END_WEIGHT
from floracle.analysis.loss.baselines import BaselineDistances
from floracle.analysis.stages.class_stages import (
    LAW_MAX_RELATIVE_ERROR,
    LAW_QUADRATURE_TOLERANCE,
    POOLED,
    ClassStages,
)
from floracle.analysis.stages.result import Stages
from floracle.analysis.trajectories.trajectory_analysis import TrajectoryAnalysis
from floracle.core.point_set import NO_LABEL
from floracle.report.formatting import (
    format_count,
    format_interval,
    format_nats,
    format_time,
    format_weight,
)

MEANINGS = {
    "centre": "Half of the information about the source sample is known: H = ½ H(w).",
    "collapse": "The true source sample has a posterior weight of one half on average.",
    "end": f"The largest posterior weight reaches {END_WEIGHT:.0%} on average.",
}
"""What the landmarks are; the report defines its terms by these."""
MAX_NAMES = 8
"""Classes that a sentence names."""
MAX_PAIRS_NAMED = 6
FLOAT32_ROUNDING = 1e-12
"""Relative squared distances up to this are those of float32's rounding."""
MAX_STANDARD_ERRORS = 100.0
"""A larger deviation is given in nats: the error is next to 0, and says little."""
UNKNOWN_NATS = 5e-4
"""Remaining information below this would be written as 0.000."""

LAW = "The information law (I-MMSE check)"
BROKEN = (
    "This identity holds for every exact posterior, whatever the data. Here posterior weight was"
    " lost or the time grid is too coarse: measure again with more --times and --pairs before you"
    " use the landmarks, and please report it if it stays."
)


def headline(stages: Stages) -> str:
    """The result in one line."""
    main = stages.main
    if main.single_point:
        return "There is nothing to navigate: one training point has all the weight from t = 0."
    if main.end.value is None:
        return "Navigation does not end: some training points share their weight to the last."
    return (
        f"Navigation ends at t = {format_time(main.end.value)}: from there one training point"
        " has all the weight."
    )


def story(stages: Stages) -> list[str]:
    """What happens between noise and data, a sentence or two for each stage."""
    main = stages.main
    if main.single_point:
        return [_describe_single_point(main)]
    sentences = []
    if main.centre.value is not None:
        start = float(1 / main.curves["participation"].mean[0])  # 1 / E Σγ² at t = 0
        in_class = " in a class" if main.label == POOLED else ""
        sentences.append(
            f"Up to t = {format_time(main.centre.value)} many training points share the weight."
            f" At pure noise the effective number of samples{in_class} is {format_count(start)},"
            f" and half of the {main.max_information:.2f} nats that tell the points apart is known"
            " at this time."
        )
    if main.collapse.value is not None:
        sentences.append(
            f"By t = {format_time(main.collapse.value)} the true source sample of a noisy sample"
            " has half of the weight."
        )
    sentences.append(_describe_end(main))
    return [*sentences, *filter(None, [describe_speciation(stages), single_points(stages)])]


def _describe_single_point(main: ClassStages) -> str:
    """What happens where there is only one point."""
    subject = {POOLED: "Every class has", NO_LABEL: "The data has"}.get(main.label)
    if main.curves["gap"].mean.any():  # the gap of a Gaussian is its own variance
        kind, straight = "Gaussian", ""
    else:
        kind = "point"
        straight = (
            " Every oracle trajectory goes straight to it at constant speed, and one Euler step"
            " is exact."
        )
    return (
        f"{subject or 'This class has'} a single distinct {kind}.{straight} Its weight is 1 at all"
        " times and H(w) = 0, so the collapse and the end are at t = 0. There is no centre, since"
        " nothing is unknown."
    )


def single_points(stages: Stages) -> str:
    """Which classes have a single distinct point, and how they count; empty if none has."""
    groups = stages.single_points
    if not groups:
        return ""
    names = ", ".join(stages.name(group.label) for group in groups[:MAX_NAMES])
    names += f" and {len(groups) - MAX_NAMES} more" if len(groups) > MAX_NAMES else ""
    share = format_weight(sum(group.share for group in groups))
    number = "1 class has" if len(groups) == 1 else f"{len(groups):,} classes have"
    counts = " The averages include them by that share." if stages.main.label == POOLED else ""
    return (
        f"{number} a single distinct point and so nothing to navigate, with {share} of the data:"
        f" {names}.{counts}"
    )


def _describe_end(main: ClassStages) -> str:
    if main.end.value is not None:
        return (
            f"From t = {format_time(main.end.value)} on, the largest weight is at least"
            f" {END_WEIGHT:.0%} on average. What follows is refinement: there the oracle only"
            " completes a training point, and anything new comes from where a model departs from"
            " the oracle."
        )
    largest = float(main.curves["max_weight"].mean[-1])
    return (
        "The end of navigation is not reached: at the last time the largest weight is"
        f" {largest:.3f} on average, below {END_WEIGHT}. {rivals(main)}"
    )


def rivals(main: ClassStages) -> str:
    """Which training rows keep the end from being reached."""
    if not main.rivals:
        return "No pair of rows is the cause: the curve ends before it gets there."
    pairs = sorted({(min(pair), max(pair)) for pair in main.rivals})
    names = ", ".join(f"{a} and {b}" for a, b in pairs[:MAX_PAIRS_NAMED])
    unnamed = len(pairs) - MAX_PAIRS_NAMED
    names += f", and {unnamed} more pairs" if unnamed > 0 else ""
    return (
        f"Near-duplicates share the weight to the last: rows {names}. Leave out one row of each"
        " pair, or use the collapse as the boundary of the stages."
    )


def law(main: ClassStages) -> str:
    """Whether the I-MMSE check holds: both of its sides, and the deviation that is allowed."""
    if main.single_point:
        return (
            f"{LAW} has nothing to check: with a single distinct point H(w) = 0, and the area is 0"
            " whatever the weights are."
        )
    remaining = ""
    if main.remaining_information > UNKNOWN_NATS:
        remaining = f", less {format_nats(main.remaining_information)} that stay unknown,"
    area = main.area
    sides = (
        f"the measured area is {format_nats(area.value)} ± {format_nats(area.error)} nats, against"
        f" H(w) = {format_nats(main.max_information)}{remaining} from the number of points alone"
    )
    if not (math.isfinite(area.value) and math.isfinite(area.error)):
        return f"{LAW} needs more pairs: {sides}."

    allowed = (
        f"{main.law_errors:.3g} standard errors and {100 * LAW_QUADRATURE_TOLERANCE:g} % of H(w)"
    )
    deviation = _describe_deviation(main)
    both = (
        f"They are {deviation}; up to {format_nats(main.law_allowance)} nats are allowed,"
        f" {allowed}."
    )
    if not main.law_holds:
        return f"{LAW} fails: {sides}. {both}"
    if not main.law_checked:
        share = f"{100 * area.error / main.max_information:.3g} %"
        return (
            f"{LAW} is not checked: the error is {share} of H(w), and above"
            f" {100 * LAW_MAX_RELATIVE_ERROR:g} % it says nothing; use more --pairs. Here {sides}."
        )
    # Where next to nothing is known at the last time, an area of 0 would hold as well.
    if (
        main.max_information - main.remaining_information
        <= LAW_QUADRATURE_TOLERANCE * main.max_information
    ):
        return (
            f"{LAW} has nothing to check: {sides}. What is known at the last time is no more than"
            f" the {100 * LAW_QUADRATURE_TOLERANCE:g} % of H(w) that are allowed."
        )
    if abs(main.law_deviation) > main.law_errors:
        return f"{LAW} holds within {allowed}: {sides}. {both}"
    return f"{LAW} holds: {sides} ({deviation}, up to {main.law_errors:.3g} are allowed)."


def _describe_deviation(main: ClassStages) -> str:
    """How far apart both sides of the identity are."""
    errors = abs(main.law_deviation)
    if errors < MAX_STANDARD_ERRORS:
        return f"{errors:.1f} standard errors apart"
    return f"{format_nats(abs(main.law_difference))} nats apart"


def describe_trajectories(deep: TrajectoryAnalysis) -> list[str]:
    """What the analysis of trajectories shows, a sentence each."""
    trajectories = deep.trajectories
    sentences = [
        f"{len(trajectories.rows)} oracle trajectories from noise to data take"
        f" {trajectories.straightness.value:.3f} times the energy of straight lines and end on"
        f" {len(set(trajectories.rows.tolist()))} different training points."
    ]
    if deep.distances is not None:
        sentences.append(_describe_nearest(deep.distances))
    if deep.bands is not None:
        halves = zip(deep.bands.bands.names, deep.bands.half, strict=True)
        spans = [f"{name} at t = {format_time(mark.value)}" for name, mark in halves]
        sentences.append(f"Half of each frequency band is explained: {', '.join(spans)}.")
    return sentences


def _describe_nearest(distances: BaselineDistances) -> str:
    """Which baseline field is closest to the oracle, and when."""
    if all(curve.mean.max() < FLOAT32_ROUNDING for curve in distances.relative.values()):
        last = format_time(float(distances.times[-1]))
        names = ", ".join(distances.relative)
        return f"Up to t = {last} the oracle equals these baselines: {names}."
    nearest = distances.nearest()
    changes = [i for i in range(len(nearest)) if i == 0 or nearest[i] != nearest[i - 1]]
    spans = [f"{nearest[i]} from t = {format_time(float(distances.times[i]))}" for i in changes]
    return f"The baseline closest to the oracle: {', '.join(spans[:6])}."


def describe_speciation(stages: Stages) -> str:
    """When the class is known, if that was measured."""
    measured = [group for group in stages.groups if group.speciation.value is not None]
    if not measured:
        return ""
    mark = measured[0].speciation
    return (
        "The class is known before the point: half of its"
        f" {measured[0].max_class_information:.2f} nats by t = {format_time(mark.value)}"
        f" (95 % interval {format_interval(mark)})."
    )
