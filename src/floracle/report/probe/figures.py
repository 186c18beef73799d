"""The figures of probed fields: when predictions settle, how fast states and predictions move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from floracle.analysis.trajectories.probe import ProbeResult
from floracle.report.figure import Drawing, figure_style, picture_sheet
from floracle.report.label_placement import name_curves
from floracle.report.names import inscription, shorten, visible
from floracle.report.plots import (
    Values,
    curve_columns,
    draw_band,
    even_time_axis,
    inside,
    new_axes,
    to_numpy,
)
from floracle.report.style import BLUE, INK, ORANGE, PAPER, QUIET, TEAL, THRESHOLD_DOTS, VIOLET

FIELD_COLOURS = (BLUE, ORANGE, TEAL, VIOLET, QUIET)
"""Of fields, in their order; the oracle is drawn in ink."""
LEAST_TURNING = 1e-2
"""Turning below this share of the largest is not drawn."""
SPEED_SCALE_UNTIL = 0.9
"""Speeds at later times do not set the scale: a velocity divides by 1 − t."""
SHEET_SEEDS = 3
LABEL_LETTERS = 14


@dataclass(frozen=True)
class ProbedField:
    """A probe with its name, and pictures of its predictions where samples can be shown."""

    name: str
    probe: ProbeResult
    oracle: bool = False
    pictures: Tensor | None = None
    """Bytes [k, K, C, H, W] at the K times `probe.prediction_times`."""


class ProbeFigure(NamedTuple):
    """A curve of every field by time."""

    name: str
    curve: str
    ylabel: str
    section: str
    caption: str

    @property
    def is_share(self) -> bool:
        """Whether the curve is a share that settles below a threshold."""
        return self.section == "settling"


FIGURES = (
    ProbeFigure(
        "remaining",
        "remaining",
        "remaining squared distance, relative",
        "settling",
        "The squared distance of x̂(t) from the reference, relative to its value at t = 0. Dots:"
        " the time at which a trajectory falls below the threshold for good, on average, with two"
        " standard errors. Dotted lines: the threshold and the time of the reference. Bands are"
        " two standard errors wide on either side.",
    ),
    ProbeFigure(
        "coarse-structure",
        "layout",
        "remaining for coarse structure, relative",
        "settling",
        "The same for low frequencies alone: the coarse structure of a picture, without its"
        " details.",
    ),
    ProbeFigure(
        "speed",
        "speed",
        "velocity norm / √D",
        "movement",
        "Velocity norm along the trajectories.",
    ),
    ProbeFigure(
        "change",
        "change",
        "change of x̂ per unit of t / √D",
        "movement",
        "The rate at which predictions change with time.",
    ),
    ProbeFigure(
        "turning",
        "turning",
        "turning of v per unit of t / √D",
        "movement",
        "The rate at which velocities turn: the part of their change that is perpendicular to"
        " them, on a logarithmic axis.",
    ),
)


def probe_figures(fields: Sequence[ProbedField]) -> list[Drawing]:
    """All figures of fields that were probed alike."""
    with figure_style():
        measured = fields[0].probe.columns
        drawings = [_draw_curve(fields, row) for row in FIGURES if row.curve in measured]
        if all(field.pictures is not None for field in fields):
            drawings.append(_draw_predictions(fields))
    return drawings


def field_colours(fields: Sequence[ProbedField]) -> list[str]:
    """A colour for each field."""
    others = iter(FIELD_COLOURS)
    return [INK if field.oracle else next(others) for field in fields]


def _draw_curve(fields: Sequence[ProbedField], row: ProbeFigure) -> Drawing:
    figure, ax = new_axes()
    even_time_axis(ax)
    ax.set_ylabel(row.ylabel)
    curves = {visible(field.name): field.probe.curve(row.curve) for field in fields}
    _set_limits(ax, fields, row)
    colours, points = field_colours(fields), {}
    for (name, curve), field, colour in zip(curves.items(), fields, colours, strict=True):
        times = field.probe.times(row.curve)
        if row.curve == "turning":
            lines = _draw_log_points(ax, times, to_numpy(curve.mean), colour)
        else:
            lines = inside(ax, draw_band(ax, times, curve, colour))
        if row.is_share:
            mark = _mark_settling(ax, field.probe, row.curve, colour)
            lines = np.concatenate([lines, mark])
        points[inscription(name)] = lines
    name_curves(ax, points, colours)
    columns = curve_columns(fields[0].probe.times(row.curve), curves)
    alt = f"{row.ylabel}, by time, of {', '.join(curves)}"
    return Drawing(row.name, alt, figure, columns, row.caption, row.section)


def _set_limits(ax: Axes, fields: Sequence[ProbedField], row: ProbeFigure) -> None:
    """The upright axis: shares from 0 to 1, turning in logarithms, the others as far as needed."""
    first = fields[0].probe
    means = [to_numpy(field.probe.curve(row.curve).mean) for field in fields]
    highest = max(mean.max() for mean in means)
    if row.is_share:
        ax.set_ylim(0, 1.04 * max(1.0, highest))
        ax.axhline(first.threshold, color=QUIET, lw=0.8, ls=THRESHOLD_DOTS, zorder=1)
        ax.axvline(first.until, color=QUIET, lw=0.8, ls=THRESHOLD_DOTS, zorder=1)
    elif row.curve == "turning":
        ax.set_yscale("log")
        ax.set_ylim(LEAST_TURNING * (highest or 1.0), 2 * (highest or 1.0))
        ax.minorticks_off()
    elif row.curve == "speed":
        early = to_numpy(first.times(row.curve)) <= SPEED_SCALE_UNTIL
        low = min(mean[early].min() for mean in means)
        high = max(mean[early].max() for mean in means)
        margin = max(0.3 * (high - low), 0.02 * high)  # a constant speed has its axis too
        ax.set_ylim(max(0.0, low - margin), high + margin or 1.0)
    else:
        ax.set_ylim(0, 1.08 * highest or 1.0)


def _draw_log_points(ax: Axes, times: Tensor, mean: Values, colour: str) -> Values:
    """The points of a curve within a logarithmic axis, joined; [n, 2].

    Turning may fall by orders of magnitude between neighbouring times, and to 0: a monotone cubic
    of its logarithm would invent values in between.
    """
    above = mean > ax.get_ylim()[0]
    points = np.stack([to_numpy(times)[above], mean[above]], 1)
    ax.plot(*points.T, "-o", ms=1.9, mew=0, color=colour)
    return points


def _mark_settling(ax: Axes, probe: ProbeResult, curve: str, colour: str) -> Values:
    """The settling time as a dot on the threshold with two errors; points [n, 2] of its bar."""
    settling = probe.settling(curve)
    if settling.value is None:
        return np.zeros((0, 2))
    # The error of a single sample is infinite: it has a dot without a bar.
    reach = 2 * settling.error if np.isfinite(settling.error) else 0.0
    ax.errorbar(
        [settling.value], [probe.threshold], xerr=[reach], fmt="o", ms=5.5, mfc=colour,
        mec=PAPER, mew=0.8, ecolor=colour, elinewidth=1.2, capsize=2.5, zorder=4,
    )  # fmt: skip
    # The bar as points, from which the names of curves keep away.
    along = settling.value + np.linspace(-reach, reach, 20)
    return np.stack([along, np.full(20, probe.threshold)], 1)


def _draw_predictions(fields: Sequence[ProbedField]) -> Drawing:
    """Predictions of all fields from the same seeds as pictures, times across."""
    pictures = [field.pictures for field in fields if field.pictures is not None]
    seeds, times = min(SHEET_SEEDS, *map(len, pictures)), fields[0].probe.prediction_times.tolist()
    rows = torch.stack([picture[:seeds] for picture in pictures], 1)  # [seeds, fields, K, C, H, W]
    names = [visible(field.name) for field in fields]
    labels: list[Any] = [shorten(name, LABEL_LETTERS) for name in names]
    return picture_sheet(
        "predictions",
        rows.flatten(0, 1),
        [f"t = {t:.3g}" if k == 0 else f"{t:.3g}" for k, t in enumerate(times)],
        alt=f"Predictions of {', '.join(names)} from {seeds} seeds at {len(times)} times",
        section="sheet",  # the page has its own strips
        labels=list(zip(labels, field_colours(fields), strict=True)),
    )
