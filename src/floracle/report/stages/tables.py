"""The tables of the report, and the sentences above them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from floracle.analysis.advice import advise
from floracle.analysis.prediction.closed_form import predict
from floracle.analysis.prediction.twin import quick_pairs
from floracle.analysis.prediction.what_if import MARKS
from floracle.analysis.prediction.what_if import what_if as measured_what_if
from floracle.analysis.stages.result import POOLED, ClassStages, Stages
from floracle.analysis.tool_arguments import arguments
from floracle.core.paths import PATHS
from floracle.report.comparison.figures import NAMED, measured_landmarks, predictable
from floracle.report.formatting import (
    format_deviation,
    format_interval,
    format_landmark,
    format_nats,
    format_prediction,
    format_time,
)
from floracle.report.tables import ReportRow, Table

from . import words
from .examples import Examples

POINTS = (0.1, 0.25, 1.0, 4.0, 10.0, 100.0)
"""Numbers of points asked about, in multiples of the number there is."""
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Numbers of dimensions asked about, in multiples of the number there is."""


def agreement(stages: Stages) -> dict[str, Any]:
    """How predictions and measurements of all classes compare."""
    groups = predictable(stages)
    table = Table(
        ("", *("predicted", "measured", "off by") * 2),
        [
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
            for group in _ordered(stages)
        ],
        over=(("", 1), ("centre", 3), ("collapse", 3)),
    )
    return {
        "words": _agreement_words(groups),
        "folded": len(groups) > NAMED + 1,
        "table": table,
        "summary": _spread_table(
            {f"{name}, off by": _offs(groups, name) for name in ("centre", "collapse")},
            lambda value: f"{100 * value:+.1f} %".replace("-", "−"),
        ),
    }


def _offs(groups: Iterable[ClassStages], name: str) -> list[float]:
    pairs = [(getattr(group, f"predicted_{name}"), getattr(group, name).value) for group in groups]
    return [predicted / value - 1 for predicted, value in pairs if value]


def _agreement_words(groups: list[ClassStages]) -> str:
    if not groups:
        return "Nothing is predicted of a single distinct point, so there is nothing to compare."
    offs = {name: _offs(groups, name) for name in ("centre", "collapse")}
    if not all(offs.values()):
        return "Not every landmark was reached, so there is little to compare."
    means = {name: 100 * float(np.mean(np.abs(off))) for name, off in offs.items()}
    return (
        "Both landmarks were predicted before any posterior was computed, from the number of"
        " points and the eigenvalues of their covariance. The prediction is off by"
        f" {means['centre']:.1f} % at the centre and {means['collapse']:.1f} % at the collapse"
        + (" on average." if len(groups) > 1 else ".")
    )


def classes(stages: Stages) -> dict[str, Any]:
    """The landmarks of all classes; beyond a few they are summed up and folded away."""
    groups = [
        group for group in measured_landmarks(stages) if group.label >= 0
    ] or measured_landmarks(stages)
    table = Table(
        ("", "points", "H(w) in nats", "centre", "collapse", "95 % interval", "end",
         "95 % interval", "area"),
        [
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
                    _area(group),
                ),
                main=group.label == POOLED,
            )
            for group in _ordered(stages)
        ],
    )  # fmt: skip
    reached = {
        name: [mark.value for g in groups if (mark := getattr(g, name)).value is not None]
        for name in ("centre", "collapse", "end")
    }
    return {
        "words": _class_words(stages, groups),
        "folded": len(groups) > NAMED + 1,
        "table": table,
        "summary": _spread_table(reached, format_time),
    }


def _area(group: ClassStages) -> str:
    if group.single_point:
        return "nothing to check"
    area = f"{format_nats(group.area.value)} ± {format_nats(group.area.error)}"
    if not group.law_holds:
        return f"{area} ⚠"
    return area if group.law_checked else f"{area} (checks nothing)"


def _class_words(stages: Stages, groups: list[ClassStages]) -> str:
    several = [group for group in groups if not group.single_point]
    known = [group for group in several if group.collapse.value is not None]
    single = words.single_points(stages)
    if len(known) < 2:
        return single or "Too few classes reach their collapse to be compared."
    first = min(known, key=lambda group: group.collapse.value or 0)
    last = max(known, key=lambda group: group.collapse.value or 0)
    told = (
        f"The collapse comes first in class {stages.name(first.label)}"
        f" (t = {format_time(first.collapse.value)}) and last in class {stages.name(last.label)}"
        f" (t = {format_time(last.collapse.value)})."
    )
    never = [group for group in groups if group.end.value is None]
    if never:
        named = ", ".join(stages.name(group.label) for group in never[:8])
        told += f" The end is not reached in {len(never)} of {len(groups)} classes: {named}"
        told += ", and others." if len(never) > 8 else "."
    return " ".join(filter(None, [told, single]))


def _ordered(stages: Stages) -> list[ClassStages]:
    """By label, then the whole set, then the pooled average."""
    return sorted(stages.groups, key=lambda g: (g.label < 0, -g.label if g.label < 0 else g.label))


def _spread_table(columns: dict[str, list[float]], write: Callable[[float], str]) -> Table:
    """The spread of values over classes."""
    shares = {"least": 0, "lower quarter": 0.25, "median": 0.5, "upper quarter": 0.75, "most": 1}
    rows = [
        ReportRow((name, *(write(float(np.quantile(v, q))) for q in shares.values())))
        for name, v in columns.items()
        if v
    ]
    return Table(("", *shares), rows)


def what_if(stages: Stages, examples: Examples | None) -> dict[str, Any] | None:
    """Predicted landmarks for other numbers of points and dimensions."""
    if examples is None:
        return None
    group = stages.group(examples.typical)
    if group.single_point:
        return None
    count = float(np.exp(group.max_information))
    path = PATHS[stages.settings.get("path", "linear")]
    predicted = predict(count, spectrum=examples.spectrum, path=path)
    points = [max(2.0, factor * count) for factor in POINTS]
    found = predicted.what_if(points, SCALES)
    decimals = 3 if predicted.collapse >= 0.1 else 4

    def shown(value: float) -> str:
        return f"{value:.{decimals}f}" if 5e-4 <= value < 0.9995 else format_time(value)

    cells = {(one["points"], one["scale"]): one for one in found}
    measured = _from_measured(stages, group, examples, points)
    sizes = (f"{scale:g} × D = {scale * stages.dims:,.0f}" for scale in SCALES)
    head = ("N", *sizes, *(["D, from what was measured"] if measured else []))
    rows = [
        ReportRow(
            (
                f"{n:,.0f}",
                *(
                    f"{shown(cells[n, scale]['centre'])} · {shown(cells[n, scale]['collapse'])}"
                    for scale in SCALES
                ),
                *measured.get(n, ()),
            ),
            strong=1 + SCALES.index(1.0) if n == count else None,
        )
        for n in dict.fromkeys(points)
    ]
    of = (
        "the whole set" if group.label < 0 else f"class {stages.name(group.label)}, a typical one,"
    )
    return {"of": of, "table": Table(head, rows, "centre · collapse")}


def _from_measured(
    stages: Stages, group: ClassStages, examples: Examples, points: Sequence[float]
) -> dict[float, tuple[str, ...]]:
    """Centre, collapse and end from those measured, where the class's profile is known."""
    if examples.profile is None or group.collapse.value is None:
        return {}
    known = {"label": group.label, "pairs": quick_pairs(max(points))}
    moved = measured_what_if(stages, examples.profile, points, **known)
    here = float(np.exp(group.max_information))
    return {
        one.points: (
            " · ".join(
                format_time(getattr(group, name).value if one.points == here else moved_to)
                for name, moved_to in zip(MARKS, one[1:], strict=True)
            ),
        )
        for one in moved
    }


def pasted(stages: Stages) -> list[dict[str, str]]:
    """The advice as each tool wants it: what to paste, and what it will not do there."""
    return [
        {"tool": one.tool, "text": one.text, "caveat": one.caveat} for one in arguments(stages)
    ]


def advice(stages: Stages) -> Table | None:
    """Where to start a search on a model of this data."""
    found = advise(stages)
    rows = [ReportRow((one.name, one.value, one.reason)) for one in found]
    return Table(("", "start from", "because"), rows, wordy=frozenset({1, 2})) if rows else None
