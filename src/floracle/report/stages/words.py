"""The numbers in words: headline, explanations, warnings."""

from __future__ import annotations

import math

from floracle.analysis.loss.baselines import BaselineDistances
from floracle.analysis.stages.result import END, JUDGED, POOLED, TOLERATED, ClassStages, Stages
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
    "centre": "half of what there is to know is known: H = ½ H(w)",
    "collapse": "a sample's own training point holds half of the weight",
    "end": f"one training sample holds {END:.0%} of the weight on average",
}


NAMED = 8
"""Classes that a sentence names at most."""
ROUNDING = 1e-12
"""Squared distances, as a share of the oracle's size, that are those of float32's rounding."""
MANY = 100.0
"""Standard errors from which on their number says less than nats: the error is next to 0."""


def headline(stages: Stages) -> str:
    """The answer in one line."""
    main = stages.main
    if main.single_point:
        return "There is nothing to navigate: one sample has every vote from t = 0."
    if main.end.value is None:
        return "Navigation does not end: some samples share their votes to the last."
    return (
        f"Navigation ends at t = {format_time(main.end.value)}: from there one sample has every"
        " vote."
    )


def story(stages: Stages) -> list[str]:
    """What happens between noise and data, a sentence or two per stage."""
    main = stages.main
    if main.single_point:
        return [_single_point(main)]
    start = float(1 / main.curves["participation"].mean[0])
    told = []
    if main.centre.value is not None:
        told.append(
            f"Until t = {format_time(main.centre.value)} many samples vote. The noise starts with"
            f" {format_count(start)} effective votes{_each(main)}, and half of the"
            f" {main.max_information:.2f} nats that tell the samples apart are known by then."
        )
    if main.collapse.value is not None:
        told.append(
            f"By t = {format_time(main.collapse.value)} the training sample a noisy one was made"
            " from holds half of the weight."
        )
    told.append(_ending(main))
    return [*told, *filter(None, [separation(stages), single_points(stages)])]


def _single_point(main: ClassStages) -> str:
    """What happens where there is no choice."""
    where = {POOLED: "Every class has", NO_LABEL: "The data has"}.get(main.label, "This class has")
    exact = not main.curves["gap"].mean.any()  # of a Gaussian the gap is its own variance
    straight = (
        " All samples of the oracle go straight to it at constant speed, and one Euler step is"
        " exact."
    )
    return (
        f"{where} a single distinct {'point' if exact else 'Gaussian'}.{straight if exact else ''}"
        " Its weight is 1 at all times and H(w) = 0, so collapse and end are at t = 0, and there"
        " is no centre, for there is nothing to know."
    )


def single_points(stages: Stages) -> str:
    """Which classes have a single distinct point, and how they count; nothing if none has."""
    groups = stages.single_points
    if not groups:
        return ""
    names = ", ".join(stages.name(group.label) for group in groups[:NAMED])
    names += f" and {len(groups) - NAMED} more" if len(groups) > NAMED else ""
    share = format_weight(sum(group.share for group in groups))
    counts = " In the averages they count with that share." if stages.main.label == POOLED else ""
    return (
        f"A single distinct point each, and so nothing to navigate, is in {_classes(len(groups))},"
        f" with {share} of the data: {names}.{counts}"
    )


def _classes(number: int) -> str:
    return "1 class" if number == 1 else f"{number:,} classes"


def _ending(main: ClassStages) -> str:
    if main.end.value is not None:
        return (
            f"From t = {format_time(main.end.value)} on, one sample holds all the weight"
            f" ({END:.0%} of it on average). What comes after is refinement: there the exact field"
            f" only finishes a training sample, and anything new comes from how a model departs"
            f" from it."
        )
    top = float(main.curves["max_weight"].mean[-1])
    return (
        f"The end of navigation is not reached: even at the last time"
        f" the largest weight is {top:.3f} on average, below {END}. {rivals(main)}"
    )


def rivals(main: ClassStages) -> str:
    """Which rows keep the end from being reached."""
    if not main.rivals:
        return "No pair of rows is to blame for it: the curve is cut before it gets there."
    pairs = sorted({(min(pair), max(pair)) for pair in main.rivals})
    listed = ", ".join(f"{a} and {b}" for a, b in pairs[:6])
    more = f", and {len(pairs) - 6} pairs more" if len(pairs) > 6 else ""
    return (
        f"Near-duplicates share the weight to the last: rows {listed}{more}. Leave one row of each"
        f" pair out, or read the collapse as the border instead."
    )


def _each(main: ClassStages) -> str:
    return " in a class" if main.label == POOLED else ""


def law(main: ClassStages) -> str:
    """Whether the information law holds, in plain sentences: both sides, and what is allowed."""
    if main.single_point:
        return (
            "The information law has nothing to check: with a single distinct point H(w) = 0, and"
            " the area is 0 whatever the weights are."
        )
    unknown = (
        f", less {format_nats(main.remaining_information)} that stay unknown,"
        if main.remaining_information > 5e-4
        else ""
    )
    numbers = (
        f"the measured area is {format_nats(main.area.value)} ± {format_nats(main.area.error)}"
        f" nats, against H(w) = {format_nats(main.max_information)}{unknown} from the number of"
        " samples alone"
    )
    if not (math.isfinite(main.area.value) and math.isfinite(main.area.error)):
        return f"The information law cannot be judged from so few pairs: {numbers}."
    allowed, errors = main.law_allowance, main.law_errors
    bounds = f"{errors:.3g} standard errors and {100 * TOLERATED:g} % of H(w)"
    apart = f"They are {_apart(main)}; up to {format_nats(allowed)} nats are allowed, {bounds}."
    if not main.law_holds:
        return f"The information law is broken: {numbers}. {apart}"
    if not main.law_checked:
        share = f"{100 * main.area.error / main.max_information:.3g} %"
        return (
            f"The information law is not checked: the error is {share} of H(w), and above"
            f" {100 * JUDGED:g} % it says nothing; give more --pairs. Here {numbers}."
        )
    if main.max_information - main.remaining_information <= TOLERATED * main.max_information:
        return (
            f"The information law has nothing to check: {numbers}. What is known at the last time"
            f" is no more than the {100 * TOLERATED:g} % of H(w) by which it may be off."
        )
    if abs(main.law_deviation) > errors:
        return f"The information law holds within {bounds}: {numbers}. {apart}"
    return (
        f"The information law holds: {numbers} ({_apart(main)}, up to {errors:.3g} are allowed)."
    )


def _apart(main: ClassStages) -> str:
    """How far both sides of the law are apart, in standard errors, or in nats beyond `MANY`."""
    off = abs(main.law_deviation)
    many = f"{format_nats(abs(main.law_difference))} nats apart"
    return f"{off:.1f} standard errors apart" if off < MANY else many


BROKEN = (
    "An exact posterior obeys this law whatever the data. Here mass was lost or the time grid is"
    " too coarse: measure again with more --times and --pairs before trusting the landmarks, and"
    " report it if it stays."
)


def deep(found: TrajectoryAnalysis) -> list[str]:
    """What the deeper look shows, a sentence each."""
    run = found.trajectories
    told = [
        f"{len(run.rows)} trajectories of the oracle from noise to data take"
        f" {run.straightness.value:.3f} times the energy of straight lines and end on"
        f" {len(set(run.rows.tolist()))} different training samples."
    ]
    if found.distances is not None:
        told.append(_nearest(found.distances))
    if found.bands is not None:
        halves = zip(found.bands.bands.names, found.bands.half, strict=True)
        spans = [f"{name} at {format_time(mark.value)}" for name, mark in halves]
        told.append(f"Half of each band of frequencies is explained: {', '.join(spans)}.")
    return told


def _nearest(distances: BaselineDistances) -> str:
    """Which simple field is closest to the oracle, and when."""
    if all(curve.mean.max() < ROUNDING for curve in distances.relative.values()):
        last = format_time(float(distances.times[-1]))
        names = ", ".join(distances.relative)
        return f"Up to t = {last} the oracle cannot be told from these simple fields: {names}."
    near = distances.nearest()
    changes = [i for i in range(len(near)) if i == 0 or near[i] != near[i - 1]]
    spans = [f"{near[i]} from t = {format_time(float(distances.times[i]))}" for i in changes]
    return f"Closest to the oracle of these simple fields: {', '.join(spans[:6])}."


def separation(stages: Stages) -> str:
    """When the class is known, if that was measured."""
    whole = [group for group in stages.groups if group.speciation.value is not None]
    if not whole:
        return ""
    mark, known = whole[0].speciation, whole[0].max_class_information
    return (
        f"The class is known before the sample: half of its {known:.2f} nats by"
        f" t = {format_time(mark.value)} (95 % interval {format_interval(mark)})."
    )
