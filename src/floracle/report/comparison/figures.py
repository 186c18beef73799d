"""The figures that compare data sets: rows of `FIGURES`, a curve of every set by time; spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from floracle.analysis.compare import DataSpace
from floracle.analysis.curves import Curve, Landmark
from floracle.report.figure import Columns, Drawing, figure_style
from floracle.report.names import inscription
from floracle.report.plots import (
    annotate,
    draw_band,
    label_curve,
    landmark_time_axis,
    new_axes,
    shade_stages,
    to_numpy,
)
from floracle.report.style import CURVE_COLOURS, LANDMARK_DASHES, PAPER

MAX_SPACES = len(CURVE_COLOURS)
SCALE_UNTIL = 0.99
"""Values at later times do not set the scale: the gap divides by (1 − t)²."""
NEGLIGIBLE_EIGENVALUE = 1e-9
"""Relative to the largest; below it there is rounding."""


class ComparisonFigure(NamedTuple):
    """A curve of every data set by time."""

    name: str
    curve: str
    ylabel: str
    caption: str
    per_dimension: bool = False
    falls: bool = False


FIGURES = (
    ComparisonFigure(
        "weights",
        "max_weight",
        "mean largest weight",
        "The largest posterior weight. Dashed lines are the ends of navigation.",
    ),
    ComparisonFigure(
        "self_weight",
        "self_weight",
        "mean weight of the true source",
        "The posterior weight of the true source sample: one half at the collapse.",
    ),
    ComparisonFigure(
        "information",
        "information",
        "nats per dimension",
        "What the noisy sample tells about its source, in nats per dimension. Where curves rise"
        " alike, the spaces are alike; they flatten where the number of points is reached.",
        per_dimension=True,
    ),
    ComparisonFigure(
        "gap",
        "gap",
        "gap per dimension",
        "Gap, or irreducible loss: the conditional variance of the training target, the part of"
        " the loss that no model can remove; per dimension.",
        per_dimension=True,
        falls=True,
    ),
)


def comparison_figures(spaces: Sequence[DataSpace]) -> list[Drawing]:
    """All figures of a comparison."""
    with figure_style():
        drawings = [_draw_by_time(spaces, row) for row in FIGURES]
        if all(space.effective_dims is not None for space in spaces):
            drawings.append(_draw_spectra(spaces))
    return drawings


def _draw_by_time(spaces: Sequence[DataSpace], row: ComparisonFigure) -> Drawing:
    figure, ax = new_axes()
    _shared_time_axis(ax, spaces)
    columns: Columns = {"space": [], "t": [], row.curve: [], f"{row.curve}_error": []}
    first, highest = min(spaces, key=_collapse_of), 0.0
    for i, (space, colour) in enumerate(zip(spaces, CURVE_COLOURS, strict=False)):
        scale = 1 / space.stages.dims if row.per_dimension else 1.0
        measured = space.main.curves[row.curve]
        curve = Curve(measured.mean * scale, measured.error * scale)
        times = to_numpy(space.stages.times)
        draw_band(ax, times, curve, colour)
        peak = float(to_numpy(curve.mean)[times <= SCALE_UNTIL].max())
        highest = max(highest, peak)
        # Names at different heights. The earliest curve has its name on the left, the others
        # theirs on the right: so no name stands between two curves.
        low, high = (0.75, 0.3) if row.falls else (0.3, 0.75)
        level = peak * (low + (high - low) * i / max(len(spaces) - 1, 1))
        side = "right" if space is first else "left"
        line = (times, curve.mean)
        name = inscription(space.name)
        label_curve(ax, line, level, name, colour=colour, side=side, last=row.falls)
        columns["space"] += [space.name] * len(times)
        columns["t"] += times.tolist()
        columns[row.curve] += curve.mean.tolist()
        columns[f"{row.curve}_error"] += curve.error.tolist()
    ax.set_ylim(0, 1.08 * (highest if highest > 0 else 1.0))
    ax.set_ylabel(row.ylabel)
    alt = f"{row.ylabel} by time of {' and '.join(space.name for space in spaces)}"
    return Drawing(row.name, alt, figure, columns, row.caption)


def _draw_spectra(spaces: Sequence[DataSpace]) -> Drawing:
    """The covariance eigenvalues of a typical class, in units of the mean variance."""
    figure, ax = new_axes()
    columns: Columns = {"space": [], "rank": [], "eigenvalue": []}
    for i, (space, colour) in enumerate(zip(spaces, CURVE_COLOURS, strict=False)):
        assert space.spectrum is not None
        values = to_numpy(space.spectrum / (space.variance or 1))
        values = values[values > NEGLIGIBLE_EIGENVALUE * values[0]]
        rank = np.arange(1, len(values) + 1)
        ax.plot(rank, values, color=colour)
        # Rank n^p lies at the share p of a logarithmic axis: names stand from 35 to 60 % of it.
        named = min(len(rank) - 1, int(len(rank) ** (0.35 + 0.25 * i / max(len(spaces) - 1, 1))))
        ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6}
        name, at = inscription(space.name), (rank[named], values[named])
        annotate(ax, name, at, (5, 5), color=colour, bbox=ground)
        columns["space"] += [space.name] * len(rank)
        columns["rank"] += rank.tolist()
        columns["eigenvalue"] += values.tolist()
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue / mean variance")
    caption = "Covariance eigenvalues of a typical class in units of the mean variance."
    alt = "Covariance eigenvalues by rank"
    return Drawing("spectra", alt, figure, columns, caption, "spectra")


def _shared_time_axis(ax: Axes, spaces: Sequence[DataSpace]) -> None:
    """A time axis about the (geometric) middle of all collapses, with the ends of navigation."""
    collapses = [time for space in spaces if (time := _collapse_of(space)) > 0]
    middle = float(np.exp(np.mean(np.log(collapses)))) if collapses else 0.5
    landmark_time_axis(ax, replace(spaces[0].main, collapse=Landmark(middle)))
    shade_stages(ax, None)
    for space, colour in zip(spaces, CURVE_COLOURS, strict=False):
        if space.main.end.value is not None:
            ax.axvline(space.main.end.value, color=colour, lw=0.9, ls=LANDMARK_DASHES, zorder=1)


def _collapse_of(space: DataSpace) -> float:
    return space.main.collapse.value or space.main.predicted_collapse
