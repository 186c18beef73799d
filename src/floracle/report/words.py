"""The numbers in words: headline, explanations, warnings."""

from __future__ import annotations

import math

from floracle.analysis.curves import Landmark
from floracle.analysis.deep import Deep
from floracle.analysis.groups import END, POOLED, Group, Stages

MEANINGS = {
    "centre": "half of what there is to know is known: H = ½ H(w)",
    "collapse": "a sample's own training point holds half of the weight",
    "end": f"one training sample holds {END:.0%} of the weight on average",
}


def time(value: float | None) -> str:
    """A time with three digits that count; early ones need more decimals."""
    if value is None:
        return "not reached"
    return f"{value:.4f}" if 0 < value < 0.1 or 0.9995 <= value < 1 else f"{value:.3f}"


def interval(mark: Landmark) -> str:
    """The 95 % interval of a landmark."""
    if mark.value is None or mark.low is None or mark.high is None:
        return "–"
    return f"{time(mark.low)} – {time(mark.high)}"


def deviation(predicted: float, mark: Landmark) -> str:
    """By how many percent a prediction lies off the measurement."""
    if mark.value is None or not mark.value:
        return "–"
    return f"{100 * (predicted / mark.value - 1):+.1f} %".replace("-", "−")


def headline(stages: Stages) -> str:
    """The answer in one line."""
    main = stages.main
    if main.end.value is None:
        return "Navigation does not end: some samples share their votes to the last."
    return f"Navigation ends at t = {time(main.end.value)}: from there one sample has every vote."


def story(stages: Stages) -> list[str]:
    """What happens between noise and data, a sentence or two per stage."""
    main = stages.main
    start = float(1 / main.curves["concentration"].mean[0])
    told = []
    if main.centre.value is not None:
        told.append(
            f"Until t = {time(main.centre.value)} many samples vote. The noise starts with"
            f" {count(start)} effective votes{_each(main)}, and half of the"
            f" {main.knowable:.2f} nats that tell the samples apart are known by then."
        )
    if main.collapse.value is not None:
        told.append(
            f"By t = {time(main.collapse.value)} the training sample a noisy one was made from"
            f" holds half of the weight."
        )
    told.append(_ending(main))
    return [*told, *filter(None, [separation(stages)])]


def _ending(main: Group) -> str:
    if main.end.value is not None:
        return (
            f"From t = {time(main.end.value)} on, one sample holds all the weight"
            f" ({END:.0%} of it on average). What comes after is refinement: there the exact field"
            f" only finishes a training sample, and anything new comes from how a model departs"
            f" from it."
        )
    top = float(main.curves["top"].mean[-1])
    return (
        f"The end of navigation is not reached: even at the last time"
        f" the largest weight is {top:.3f} on average, below {END}. {rivals(main)}"
    )


def rivals(main: Group) -> str:
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


def _each(main: Group) -> str:
    return " in a class" if main.label == POOLED else ""


def law(main: Group) -> str:
    """Whether the information law holds, in a plain sentence."""
    target = main.knowable - main.unknown
    left = f", less {main.unknown:.3f} that stay unknown," if main.unknown > 5e-4 else ""
    numbers = (
        f"the measured area is {main.area.value:.3f} ± {main.area.error:.3f} nats, against"
        f" H(w) = {main.knowable:.3f}{left} from the number of samples alone"
    )
    if not math.isfinite(main.area.error):
        return f"The law cannot be judged from so few pairs: {numbers}."
    off = abs(main.area.value - target) / max(main.area.error, 1e-12)
    if main.law_holds:
        return f"The information law holds: {numbers} ({off:.1f} standard errors apart)."
    return f"The information law is broken: {numbers}, {off:.1f} standard errors apart."


BROKEN = (
    "An exact posterior obeys this law whatever the data. Here mass was lost or the time grid is"
    " too coarse: measure again with more --times and --pairs before trusting the landmarks, and"
    " report it if it stays."
)


def deep(found: Deep) -> list[str]:
    """What the deeper look shows, a sentence each."""
    run = found.followed
    told = [
        f"{len(run.rows)} trajectories of the oracle from noise to data take"
        f" {run.straightness.value:.3f} times the energy of straight lines and end on"
        f" {len(set(run.rows.tolist()))} different training samples."
    ]
    if found.distances is not None:
        near = found.distances.nearest()
        changes = [i for i in range(len(near)) if i == 0 or near[i] != near[i - 1]]
        spans = [f"{near[i]} from t = {time(float(found.distances.times[i]))}" for i in changes]
        told.append(f"Closest to the oracle of these simple fields: {', '.join(spans[:6])}.")
    if found.settled is not None:
        halves = zip(found.settled.bands.names, found.settled.half, strict=True)
        spans = [f"{name} at {time(mark.value)}" for name, mark in halves]
        told.append(f"Half of each band of frequencies is explained: {', '.join(spans)}.")
    return told


def separation(stages: Stages) -> str:
    """When the class is known, if that was measured."""
    whole = [group for group in stages.groups if group.separation.value is not None]
    if not whole:
        return ""
    mark, known = whole[0].separation, whole[0].classes_knowable
    return (
        f"The class is known before the sample: half of its {known:.2f} nats by"
        f" t = {time(mark.value)} (95 % interval {interval(mark)})."
    )


def count(value: float) -> str:
    """A number of things."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def percent(weight: float) -> str:
    """A weight as a percentage."""
    if weight >= 0.9995:
        return "100 %"
    if weight >= 0.1:
        return f"{100 * weight:.0f} %"
    return f"{100 * weight:.1f} %" if weight >= 0.001 else "≈ 0"


def size(value: float) -> str:
    """A number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """A time span."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
