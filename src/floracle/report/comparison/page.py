"""Several measured data sets on one page: where their stages lie, why, and what follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from floracle.analysis.advice import advise
from floracle.analysis.compare import DataSpace, compare_spaces
from floracle.analysis.curves import Landmark
from floracle.analysis.saved import load
from floracle.analysis.stages.result import POOLED, Stages
from floracle.report.formatting import (
    format_count,
    format_deviation,
    format_interval,
    format_landmark,
    format_prediction,
    format_time,
)
from floracle.report.html import inlined, rendered
from floracle.report.plots import (
    BLUE,
    INK,
    NAVIGATION,
    ORANGE,
    PAPER,
    QUIET,
    STYLE,
    TEAL,
    VIOLET,
    Drawing,
    axes,
    band,
    height,
    numbers,
    smooth,
    time_axis,
)
from floracle.report.stages.examples import Examples
from floracle.report.stages.write import examples_in
from floracle.report.tables import ReportRow, Table
from floracle.run.errors import InputError
from floracle.run.files import write_bytes, write_json, write_text
from floracle.version import VERSION

COLOURS = (BLUE, ORANGE, TEAL, VIOLET, INK, QUIET)
PAGE = "compare.html"
ALIKE = 0.05
"""Factors nearer to 1 than this are not worth a sentence."""


def space(folder: Path, name: str) -> DataSpace:
    """A measured data set from the folder of its stages."""
    stages = load(folder)
    if not isinstance(stages, Stages):
        raise InputError(f"{folder} holds {stages.kind}, not stages; only stages can be compared")
    found: Examples | None = examples_in(folder, stages)
    if found is None:
        return DataSpace(name, stages, None, stages.typical.label)
    return DataSpace(name, stages, found.spectrum, found.typical)


def write_comparison(spaces: Sequence[DataSpace], folder: Path, *, command: str = "") -> Path:
    """Draw the comparison into a folder; returns the page."""
    if not 2 <= len(spaces) <= len(COLOURS):
        raise InputError(f"2 to {len(COLOURS)} data sets can be compared, got {len(spaces)}")
    found = comparison_drawings(spaces)
    for name, drawing in found.items():
        write_bytes(folder / "figures" / f"{name}.png", drawing.png())
        write_text(folder / "figures" / f"{name}.svg", drawing.svg())
        write_text(folder / "figures" / f"{name}.csv", drawing.csv())
    write_json(folder / "comparison.json", comparison_values(spaces))
    content = rendered(
        "comparison/page.html.j2",
        names=[one.name for one in spaces],
        headline=headline(spaces),
        sentences=[*differences(spaces)],
        landmarks=landmark_table(spaces),
        build=build_table(spaces),
        why=why_table(spaces),
        advice=advice_table(spaces),
        figures=inlined(found),
        command=command,
        version=VERSION,
    )
    write_text(folder / PAGE, content)
    return folder / PAGE


def comparison_values(spaces: Sequence[DataSpace]) -> list[dict[str, Any]]:
    """The numbers of the page, for JSON."""
    rows = []
    for one in spaces:
        apart = compare_spaces(spaces[0], one)
        marks = {name: getattr(one.main, name) for name in ("centre", "collapse", "end")}
        rows.append(
            {
                "name": one.name,
                "data": one.stages.settings.get("data"),
                "points": one.main.points,
                "dims": one.stages.dims,
                "max_information": one.main.max_information,
                "density": one.density,
                "variance": one.variance,
                "effective_dims": one.effective_dims,
                "unit_collapse": one.unit_collapse(),
                "predicted_centre": one.main.predicted_centre,
                "predicted_collapse": one.main.predicted_collapse,
                "factors": None if apart is None else apart._asdict(),
                **{
                    name: {"value": mark.value, "low": mark.low, "high": mark.high}
                    for name, mark in marks.items()
                },
            }
        )
    return rows


def headline(spaces: Sequence[DataSpace]) -> str:
    """Where navigation ends in each, in one line."""
    ends = [one.main.end.value for one in spaces]
    told = [
        f"{one.name} at t = {format_time(end)}" if end is not None else f"{one.name} nowhere"
        for one, end in zip(spaces, ends, strict=True)
    ]
    return f"Navigation ends in {', in '.join(told)}."


def differences(spaces: Sequence[DataSpace]) -> list[str]:
    """Why the others part from the first, a sentence each, and how Gaussian they are."""
    told = [_difference(spaces[0], other) for other in spaces[1:]]
    off = [
        f"{one.name} {format_deviation(one.main.predicted_collapse, one.main.collapse)}"
        for one in spaces
        if one.main.collapse.value is not None and not one.main.single_point
    ]
    if not off:
        return told
    return [
        *told,
        f"The prediction of the collapse is off by: {', '.join(off)}. The earlier it is"
        " than what was measured, the less a space is like one Gaussian: clusters, curved"
        " sheets and look-alikes all delay it.",
    ]


def _difference(first: DataSpace, other: DataSpace) -> str:
    apart = compare_spaces(first, other)
    for one in (first, other):
        if one.main.single_point:
            return f"{one.name} has a single distinct point: there all is decided at t = 0."
    if apart is None:
        return f"{other.name} has no spectrum to compare."
    if abs(apart.whole - 1) < ALIKE:
        return (
            f"By its number of points and spectrum {other.name} should collapse where"
            f" {first.name} does."
        )
    reasons = {
        f"its coordinates vary {'more' if apart.scale < 1 else 'less'}": apart.scale,
        "its dimensions and the form of its spectrum tell points apart "
        + ("sooner" if apart.shape < 1 else "later"): apart.shape,
        f"it has {'more' if apart.points > 1 else 'fewer'} points to tell apart"
        f" ({_told_apart(other)} beside {_told_apart(first)})": apart.points,
    }
    told = {
        f"{reason} (α/σ × {factor:.2f})": (factor < 1) == (apart.whole < 1)
        for reason, factor in reasons.items()
        if abs(factor - 1) >= ALIKE
    }
    sides = ("earlier", "later") if apart.whole < 1 else ("later", "earlier")
    why = ", and ".join(reason for reason, with_it in told.items() if with_it)
    though = ", and ".join(reason for reason, with_it in told.items() if not with_it)
    why = f"{sides[0]} than {first.name} because {why}" + (f", though {though}" if though else "")
    ours, theirs = first.main.collapse.value, other.main.collapse.value
    if ours is None or theirs is None or (theirs < ours) == (apart.whole < 1):
        return f"{other.name} collapses {why}."
    return f"{other.name} should collapse {why}, but it was measured {sides[1]}."


def _told_apart(one: DataSpace) -> str:
    """How many points there are to tell apart, in a class where classes are measured."""
    group = one.stages.group(one.typical)
    count = format_count(math.exp(group.max_information))
    return f"{count} in a class" if group.label >= 0 else count


def landmark_table(spaces: Sequence[DataSpace]) -> Table:
    """Measured and predicted landmarks."""
    rows = []
    for one in spaces:
        main = one.main
        rows.append(
            ReportRow(
                (
                    one.name,
                    f"{main.points:,}{_in_classes(one)}",
                    format_landmark(main, "centre"),
                    format_interval(main.centre),
                    format_prediction(main, "centre"),
                    format_time(main.collapse.value),
                    format_interval(main.collapse),
                    format_prediction(main, "collapse"),
                    format_time(main.end.value),
                    format_interval(main.end),
                )
            )
        )
    marks = ("measured", "95 %", "predicted")
    head = ("", "points", *marks, *marks, "measured", "95 %")
    over = (("", 2), ("centre", 3), ("collapse", 3), ("end", 2))
    return Table(head, rows, over=over)


def _in_classes(one: DataSpace) -> str:
    """In how many classes the points of the headline are."""
    count = sum(group.label >= 0 for group in one.stages.groups)
    return f" in {count} classes" if one.main.label == POOLED else ""


def build_table(spaces: Sequence[DataSpace]) -> Table:
    """What the spaces are like: dimensions, variance, effective directions, nats a dimension."""
    head = (
        *("", "dimensions", "variance of a coordinate", "effective directions"),
        *("H(w)", "nats a dimension", "collapse at unit variance"),
    )
    rows = [
        ReportRow(
            (
                one.name,
                f"{one.stages.dims:,}",
                _number(one.variance),
                _number(one.effective_dims),
                f"{one.main.max_information:.2f}",
                f"{one.density:.2g}",
                format_time(one.unit_collapse()) if one.effective_dims is not None else "–",
            )
        )
        for one in spaces
    ]
    return Table(head, rows)


def why_table(spaces: Sequence[DataSpace]) -> Table | None:
    """The factors by which the predicted collapse moves."""
    rows = []
    for other in spaces[1:]:
        apart = compare_spaces(spaces[0], other)
        if apart is not None:
            cells = (*apart, apart.whole)
            rows.append(ReportRow((other.name, *(f"× {value:.3f}" for value in cells))))
    head = ("", "scale", "dimensions and spectrum", "points", "together")
    return (
        Table(head, rows, f"α/σ at the predicted collapse, from {spaces[0].name}")
        if rows
        else None
    )


def advice_table(spaces: Sequence[DataSpace]) -> Table:
    """Where to start a search in each."""
    told = [{one.name: one.value for one in advise(each.stages)} for each in spaces]
    names = list(dict.fromkeys(name for each in told for name in each))
    rows = [ReportRow((name, *(each.get(name, "–") for each in told))) for name in names]
    return Table(("", *(one.name for one in spaces)), rows)


def comparison_drawings(spaces: Sequence[DataSpace]) -> dict[str, Drawing]:
    """All figures of a comparison by name."""
    with mpl.rc_context(STYLE):
        found = [
            by_time(spaces, "max_weight", "mean largest weight", name="weights"),
            by_time(spaces, "self_weight", "mean own weight", name="self_weight"),
            by_time(spaces, "information", "nats a dimension", name="information", per_dim=True),
            by_time(spaces, "gap", "gap per dimension", name="gap", per_dim=True),
        ]
        if all(one.effective_dims is not None for one in spaces):
            found.append(spectra_drawing(spaces))
    return {drawing.name: drawing for drawing in found}


def by_time(
    spaces: Sequence[DataSpace], curve: str, ylabel: str, *, name: str, per_dim: bool = False
) -> Drawing:
    """One curve of every space by time."""
    figure, ax = axes()
    _shared_axis(ax, spaces)
    columns: dict[str, Any] = {"space": [], "t": [], curve: [], f"{curve}_error": []}
    highest = 0.0
    for i, one in enumerate(spaces):
        scale = 1 / one.stages.dims if per_dim else 1.0
        found = one.main.curves[curve]
        found = replace(found, mean=found.mean * scale, error=found.error * scale)
        band(ax, one.stages.times, found, COLOURS[i])
        calm = numbers(one.stages.times) <= 0.99
        peak = float(numbers(found.mean)[calm].max())
        highest = max(highest, peak)
        low, high = (0.75, 0.3) if curve == "gap" else (0.3, 0.75)
        level = peak * (low + (high - low) * i / max(len(spaces) - 1, 1))
        first = one is min(spaces, key=_place)
        _named(ax, one, found.mean, level, COLOURS[i], first=first, falls=curve == "gap")
        columns["space"] += [one.name] * len(found.mean)
        columns["t"] += one.stages.times.tolist()
        columns[curve] += found.mean.tolist()
        columns[f"{curve}_error"] += found.error.tolist()
    ax.set_ylim(0, 1.08 * height(highest))
    ax.set_ylabel(ylabel)
    names = " and ".join(one.name for one in spaces)
    return Drawing(name, f"{ylabel} by time of {names}", figure, columns)


def spectra_drawing(spaces: Sequence[DataSpace]) -> Drawing:
    """The covariance eigenvalues of a typical class, in units of the mean variance."""
    figure, ax = axes()
    columns: dict[str, Any] = {"space": [], "rank": [], "eigenvalue": []}
    for i, one in enumerate(spaces):
        assert one.spectrum is not None
        values = numbers(one.spectrum / (one.variance or 1))
        values = values[values > 1e-9 * values[0]]
        rank = np.arange(1, len(values) + 1)
        ax.plot(rank, values, color=COLOURS[i])
        place = min(len(rank) - 1, int(len(rank) ** (0.35 + 0.25 * i / max(len(spaces) - 1, 1))))
        ax.annotate(
            one.name,
            (rank[place], values[place]),
            (5, 5),
            textcoords="offset points",
            color=COLOURS[i],
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},
        )
        columns["space"] += [one.name] * len(rank)
        columns["rank"] += rank.tolist()
        columns["eigenvalue"] += values.tolist()
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue / mean variance")
    return Drawing("spectra", "Covariance eigenvalues by rank", figure, columns)


def _shared_axis(ax: Axes, spaces: Sequence[DataSpace]) -> None:
    """A time axis around the middle of all collapses, on navigation's ground."""
    places = [_place(one) for one in spaces if _place(one) > 0]
    middle = float(np.exp(np.mean(np.log(places)))) if places else 0.5
    time_axis(ax, replace(spaces[0].main, collapse=Landmark(middle)))
    ax.axvspan(0, 1, color=NAVIGATION, lw=0, zorder=0, alpha=0.45)
    for i, one in enumerate(spaces):
        if one.main.end.value is not None:
            ax.axvline(one.main.end.value, color=COLOURS[i], lw=0.9, ls=(0, (4, 2)), zorder=1)


def _place(one: DataSpace) -> float:
    return one.main.collapse.value or one.main.predicted_collapse


def _named(
    ax: Axes, one: DataSpace, mean: Any, level: float, colour: str, *, first: bool, falls: bool
) -> None:
    """The name of a space where its curve passes a level: last if it falls, first if it rises.

    The first curve has its name on the left, the others theirs on the right: so none is between.
    """
    x, y = smooth(one.stages.times, numbers(mean))
    passed = np.flatnonzero((y[:-1] - level) * (y[1:] - level) <= 0)
    if not len(passed):
        return
    place = passed[-1] if falls else passed[0]
    ax.annotate(
        one.name,
        (x[place], y[place]),
        (-7 if first else 7, 0),
        textcoords="offset points",
        ha="right" if first else "left",
        va="center",
        color=colour,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
    )


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
