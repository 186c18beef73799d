"""The tables of the stages report, and the sentences above them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from floracle.analysis.advice import advise
from floracle.analysis.prediction.closed_form import predict
from floracle.analysis.prediction.twin import quick_pairs
from floracle.analysis.stages.result import POOLED, ClassStages, Stages
from floracle.analysis.stages.what_if import MOVED_LANDMARKS
from floracle.analysis.stages.what_if import what_if as what_if_by_twins
from floracle.core.paths import PATHS
from floracle.report.formatting import (
    format_deviation,
    format_interval,
    format_landmark,
    format_nats,
    format_prediction,
    format_time,
)
from floracle.report.tables import ReportRow, Table
from floracle.run.results import setting_of

from . import words
from .class_figures import MAX_NAMED_CLASSES, measured_groups, predictable_groups
from .examples import Examples

POINT_FACTORS = (0.1, 0.25, 1.0, 4.0, 10.0, 100.0)
"""Other numbers of points of the what-if table, relative to the number there is."""
DIMENSION_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
MAX_UNREACHED = 8
"""Classes without end that are named."""
QUARTILES = {"minimum": 0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75,
             "maximum": 1}  # fmt: skip


def prediction_section(stages: Stages) -> dict[str, Any]:
    """How predictions and measurements of all classes compare: a sentence and tables."""
    groups = predictable_groups(stages)
    rows = [
        ReportRow(
            (
                stages.name(group.label),
                format_prediction(group, "centre"),
                format_landmark(group, "centre"),
                format_deviation(group.predicted_centre, group.centre),
                format_prediction(group, "collapse"),
                format_time(group.collapse.value),
                format_deviation(group.predicted_collapse, group.collapse),
            ),
            main=group.label == POOLED,
        )
        for group in _in_order(stages)
    ]
    over = (("", 1), ("centre", 3), ("collapse", 3))
    deviations = {name: _deviations(groups, name) for name in ("centre", "collapse")}
    return {
        "words": _describe_prediction(groups, deviations),
        "folded": len(groups) > MAX_NAMED_CLASSES + 1,
        "table": Table(("", *("predicted", "measured", "deviation") * 2), rows, over=over),
        "summary": _quartile_table(
            {f"deviation of the {name}": values for name, values in deviations.items()},
            lambda value: f"{100 * value:+.1f} %".replace("-", "−"),
        ),
    }


def _deviations(groups: Iterable[ClassStages], name: str) -> list[float]:
    """Relative deviations of predictions from measured landmarks."""
    pairs = [(getattr(group, f"predicted_{name}"), getattr(group, name).value) for group in groups]
    return [predicted / value - 1 for predicted, value in pairs if value]


def _describe_prediction(groups: list[ClassStages], deviations: dict[str, list[float]]) -> str:
    if not groups:
        return "Nothing is predicted of a single distinct point, so there is nothing to compare."
    if not all(deviations.values()):
        return "Not every landmark was reached, so there is little to compare."
    centre, collapse = (100 * float(np.mean(np.abs(off))) for off in deviations.values())
    return (
        "Both landmarks were predicted before any posterior was computed, from the number of"
        " points and the eigenvalues of their covariance. The prediction deviates by"
        f" {centre:.1f} % at the centre and {collapse:.1f} % at the collapse"
        + (" on average." if len(groups) > 1 else ".")
    )


def class_section(stages: Stages) -> dict[str, Any]:
    """The landmarks of all classes; those of many are summed up, and the table is folded."""
    measured = measured_groups(stages)
    groups = [group for group in measured if group.label >= 0] or measured
    interval = "95 % interval"
    head = ("", "points", "H(w) in nats", "centre", "collapse", interval, "end", interval, "area")
    rows = [
        ReportRow(
            (
                stages.name(group.label),
                f"{group.points:,}",
                format_nats(group.max_information),
                format_landmark(group, "centre"),
                format_time(group.collapse.value),
                format_interval(group.collapse),
                format_time(group.end.value),
                format_interval(group.end),
                _format_area(group),
            ),
            main=group.label == POOLED,
        )
        for group in _in_order(stages)
    ]
    reached = {
        name: [mark.value for g in groups if (mark := getattr(g, name)).value is not None]
        for name in ("centre", "collapse", "end")
    }
    return {
        "words": _describe_classes(stages, groups),
        "folded": len(groups) > MAX_NAMED_CLASSES + 1,
        "table": Table(head, rows),
        "summary": _quartile_table(reached, format_time),
    }


def _format_area(group: ClassStages) -> str:
    """The area of the information law, and whether it could be checked."""
    if group.single_point:
        return "nothing to check"
    area = f"{format_nats(group.area.value)} ± {format_nats(group.area.error)}"
    if not group.law_holds:
        return f"{area} ⚠"
    return area if group.law_checked else f"{area} (not checked)"


def _describe_classes(stages: Stages, groups: list[ClassStages]) -> str:
    reached = [
        (group.collapse.value, stages.name(group.label))
        for group in groups
        if not group.single_point and group.collapse.value is not None
    ]
    single = words.single_points(stages)
    if len(reached) < 2:
        return single or "Too few classes reach their collapse to be compared."
    (first, first_name), (last, last_name) = (
        choose(reached, key=lambda pair: pair[0]) for choose in (min, max)
    )
    sentences = [
        f"The collapse is earliest in class {first_name} (t = {format_time(first)}) and latest in"
        f" class {last_name} (t = {format_time(last)})."
    ]
    endless = [stages.name(group.label) for group in groups if group.end.value is None]
    if endless:
        others = ", and others" if len(endless) > MAX_UNREACHED else ""
        sentences.append(
            f"The end is not reached in {len(endless)} of {len(groups)} classes:"
            f" {', '.join(endless[:MAX_UNREACHED])}{others}."
        )
    return " ".join(filter(None, [*sentences, single]))


def _in_order(stages: Stages) -> list[ClassStages]:
    """By label, then the whole set (−1), then the pooled average (−2)."""
    return sorted(stages.groups, key=lambda g: (g.label < 0, abs(g.label)))


def _quartile_table(columns: dict[str, list[float]], write: Callable[[float], str]) -> Table:
    """The distribution of values over classes."""
    rows = [
        ReportRow((name, *(write(float(np.quantile(values, q))) for q in QUARTILES.values())))
        for name, values in columns.items()
        if values
    ]
    return Table(("", *QUARTILES), rows)


def what_if_section(stages: Stages, examples: Examples | None) -> dict[str, Any] | None:
    """Predicted landmarks of a typical class for other numbers of points and dimensions."""
    if examples is None:
        return None
    group = stages.group(examples.typical)
    if group.single_point:
        return None
    count = float(np.exp(group.max_information))  # e^H(w): the points, weighted ones too
    path = PATHS[setting_of(stages.settings, "path")]
    predicted = predict(count, spectrum=examples.spectrum, path=path)
    points = list(dict.fromkeys(max(2.0, factor * count) for factor in POINT_FACTORS))
    cells = {
        (cell["points"], cell["scale"]): cell
        for cell in predicted.what_if(points, DIMENSION_FACTORS)
    }
    decimals = 3 if predicted.collapse >= 0.1 else 4

    def write(value: float) -> str:
        return f"{value:.{decimals}f}" if 5e-4 <= value < 0.9995 else format_time(value)

    from_measured = _from_measured(stages, group, examples, points)
    sizes = (f"{scale:g} × D = {scale * stages.dims:,.0f}" for scale in DIMENSION_FACTORS)
    head = ("N", *sizes, *(["D, from the measurement"] if from_measured else []))
    rows = []
    for n in points:
        row = [cells[n, scale] for scale in DIMENSION_FACTORS]
        marks = [f"{write(cell['centre'])} · {write(cell['collapse'])}" for cell in row]
        strong = 1 + DIMENSION_FACTORS.index(1.0) if n == count else None
        extra = [from_measured[n]] if from_measured else []
        rows.append(ReportRow((f"{n:,.0f}", *marks, *extra), strong=strong))
    name = stages.name(group.label)
    subject = "the whole set" if group.label < 0 else f"class {name}, a typical one,"
    return {"of": subject, "table": Table(head, rows, "centre · collapse")}


def _from_measured(
    stages: Stages, group: ClassStages, examples: Examples, points: Sequence[float]
) -> dict[float, str]:
    """Centre, collapse and end by number of points, where the class's profile is known.

    Measured landmarks are moved by as much as those of twins move.
    """
    if examples.profile is None or group.collapse.value is None:
        return {}
    pairs = quick_pairs(max(points))
    rows = what_if_by_twins(stages, examples.profile, points, label=group.label, pairs=pairs)
    count = float(np.exp(group.max_information))
    return {
        row.points: " · ".join(
            format_time(getattr(group, name).value if row.points == count else moved)
            for name, moved in zip(MOVED_LANDMARKS, row[1:], strict=True)
        )
        for row in rows
    }


def advice_table(stages: Stages) -> Table | None:
    """Where to start a search on a model of this data."""
    rows = [ReportRow((item.name, item.value, item.reason)) for item in advise(stages)]
    return Table(("", "start from", "because"), rows, wordy=frozenset({1, 2})) if rows else None
