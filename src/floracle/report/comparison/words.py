"""Several data sets compared in sentences and tables: where their stages lie, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from floracle.analysis.advice import advise
from floracle.analysis.compare import DataSpace, compare_spaces
from floracle.analysis.stages.result import POOLED
from floracle.report.formatting import (
    format_count,
    format_deviation,
    format_interval,
    format_landmark,
    format_prediction,
    format_time,
)
from floracle.report.tables import ReportRow, Table

NEGLIGIBLE_FACTOR = 0.05
"""Factors nearer to 1 than this are not worth a sentence."""


def headline(spaces: Sequence[DataSpace]) -> str:
    """Where navigation ends in each, in one line."""
    ends = [
        f"in {space.name} at t = {format_time(end)}"
        if (end := space.main.end.value) is not None
        else f"not in {space.name}"
        for space in spaces
    ]
    return f"Navigation ends {', '.join(ends)}."


def differences(spaces: Sequence[DataSpace]) -> list[str]:
    """Why the others differ from the first, a sentence each, and how Gaussian they are."""
    sentences = [_describe_difference(spaces[0], other) for other in spaces[1:]]
    deviations = [
        f"{space.name} {format_deviation(space.main.predicted_collapse, space.main.collapse)}"
        for space in spaces
        if space.main.collapse.value is not None and not space.main.single_point
    ]
    if deviations:
        sentences.append(
            f"The predicted collapse deviates by {', '.join(deviations)} from the measured one."
            " The earlier the prediction, the less a space is like a single Gaussian: clusters,"
            " curved manifolds and near-duplicates all delay the collapse."
        )
    return sentences


def _describe_difference(first: DataSpace, other: DataSpace) -> str:
    factors = compare_spaces(first, other)
    for space in (first, other):
        if space.main.single_point:
            return f"{space.name} has a single distinct point, so all is decided at t = 0."
    if factors is None:
        return f"{other.name} has no spectrum to compare."
    if abs(factors.whole - 1) < NEGLIGIBLE_FACTOR:
        return (
            f"By its number of points and spectrum {other.name} should collapse where"
            f" {first.name} does."
        )
    # Each factor multiplies the signal-to-noise ratio at the collapse: below 1 it is earlier.
    earlier = factors.whole < 1
    reasons = (
        (f"its coordinates have {_more_or_less(factors.scale < 1)} variance", factors.scale),
        (
            "its dimensions and the shape of its spectrum separate points"
            f" {'earlier' if factors.shape < 1 else 'later'}",
            factors.shape,
        ),
        (
            f"it has {'more' if factors.points > 1 else 'fewer'} points to tell apart"
            f" ({_points_of(other)} against {_points_of(first)})",
            factors.points,
        ),
    )
    reasons = [pair for pair in reasons if abs(pair[1] - 1) >= NEGLIGIBLE_FACTOR]
    because, though = (
        ", and ".join(f"{text} (α/σ × {f:.2f})" for text, f in reasons if (f < 1) == side)
        for side in (earlier, not earlier)
    )
    order, opposite = ("earlier", "later") if earlier else ("later", "earlier")
    why = f"{order} than {first.name} because {because}" + (f", though {though}" if though else "")
    first_time, other_time = first.main.collapse.value, other.main.collapse.value
    if first_time is None or other_time is None or (other_time < first_time) == earlier:
        return f"{other.name} collapses {why}."
    return f"{other.name} should collapse {why}, but it was measured {opposite}."


def _more_or_less(is_more: bool) -> str:
    return "more" if is_more else "less"


def _points_of(space: DataSpace) -> str:
    """How many points there are to tell apart, in a class where classes are measured."""
    group = space.stages.group(space.typical)
    count = format_count(math.exp(group.max_information))
    return f"{count} in a class" if group.label >= 0 else count


def landmark_table(spaces: Sequence[DataSpace]) -> Table:
    """Measured and predicted landmarks."""
    rows = []
    for space in spaces:
        main = space.main
        classes = sum(group.label >= 0 for group in space.stages.groups)
        in_classes = f" in {classes} classes" if main.label == POOLED else ""
        cells = [space.name, f"{main.points:,}{in_classes}"]
        for name in ("centre", "collapse"):
            interval = format_interval(getattr(main, name))
            cells += [format_landmark(main, name), interval, format_prediction(main, name)]
        rows.append(ReportRow((*cells, format_time(main.end.value), format_interval(main.end))))
    marks = ("measured", "95 %", "predicted")
    over = (("", 2), ("centre", 3), ("collapse", 3), ("end", 2))
    return Table(("", "points", *marks, *marks, "measured", "95 %"), rows, over=over)


def space_table(spaces: Sequence[DataSpace]) -> Table:
    """What the spaces are like: dimensions, variance, effective directions, nats per dimension."""
    head = (
        *("", "dimensions", "variance of a coordinate", "effective directions"),
        *("H(w)", "nats per dimension", "collapse at unit variance"),
    )
    rows = [
        ReportRow(
            (
                space.name,
                f"{space.stages.dims:,}",
                _format_number(space.variance),
                _format_number(space.effective_dims),
                f"{space.main.max_information:.2f}",
                f"{space.density:.2g}",
                "–" if space.effective_dims is None else format_time(space.unit_collapse()),
            )
        )
        for space in spaces
    ]
    return Table(head, rows)


def factor_table(spaces: Sequence[DataSpace]) -> Table | None:
    """The factors by which the predicted collapse moves from the first space to the others."""
    rows = [
        ReportRow((other.name, *(f"× {value:.3f}" for value in (*factors, factors.whole))))
        for other in spaces[1:]
        if (factors := compare_spaces(spaces[0], other)) is not None
    ]
    head = ("", "scale", "dimensions and spectrum", "points", "product")
    caption = f"α/σ at the predicted collapse, relative to {spaces[0].name}"
    return Table(head, rows, caption) if rows else None


def advice_table(spaces: Sequence[DataSpace]) -> Table:
    """Where to start a search in each space."""
    advice = [{item.name: item.value for item in advise(space.stages)} for space in spaces]
    names = dict.fromkeys(name for values in advice for name in values)
    rows = [ReportRow((name, *(values.get(name, "–") for values in advice))) for name in names]
    return Table(("", *(space.name for space in spaces)), rows)


def _format_number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
