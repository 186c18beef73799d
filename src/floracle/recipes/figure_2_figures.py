"""Figure 2 from its numbers: one data set with its landmarks, or several over each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from floracle.analysis.curves import Curve
from floracle.analysis.stages.class_stages import ClassStages
from floracle.report.figure import Columns, Drawing
from floracle.report.plots import (
    Values,
    annotate,
    draw_band,
    label_curve,
    landmark_time_axis,
    new_axes,
    stages_axes,
    to_numpy,
)
from floracle.report.style import CURVE_COLOURS, NAVIGATION, QUIET, THRESHOLD_DOTS
from floracle.run.results import Results

MAX_DATA_SETS = 4
PAPER_END = 0.1
"""Where the paper's gap is gone and its top-1 weight saturates: D = 4096 and 8192, N ≈ 1300."""
SCALE_UNTIL = 0.99
"""Values at later times do not set the scale of the gap."""


@dataclass(frozen=True)
class _Line:
    """The curve of a data set."""

    name: str
    times: Values
    curve: Curve
    group: ClassStages
    colour: str

    @property
    def mean(self) -> Values:
        """The curve's values [T]."""
        return to_numpy(self.curve.mean)


def draw_figure_2a(results: Results) -> list[Drawing]:
    """The gap per dimension by time."""
    lines = _lines(results, "gap", per_dimension=True)
    figure, ax = _axes_of(lines, note_at_bottom=len(lines) == 1)
    for line, level in zip(lines, _label_levels(len(lines), 0.45), strict=True):
        top = int(line.mean.argmax())  # named where it falls
        name = line.name if len(lines) > 1 else f"gap, {line.name}"
        # Levels are shares of the peak of each curve, since scales of data sets differ.
        _draw_line(ax, line, level * line.mean[top], name, side="left", since=top)
    highest = max(float(line.mean[line.times <= SCALE_UNTIL].max()) for line in lines)
    ax.set_ylim(0, 1.12 * highest)
    ax.set_ylabel("squared error per dimension")
    alt = "Gap per dimension between the conditional target and the oracle velocity by time"
    return [Drawing("figure-2a", alt, figure, _columns(lines, "gap"))]


def draw_figure_2b(results: Results) -> list[Drawing]:
    """The mean top-1 posterior weight by time."""
    lines = _lines(results, "max_weight")
    figure, ax = _axes_of(lines, note_at_bottom=False)
    for line, level in zip(lines, _label_levels(len(lines), 0.25), strict=True):
        name = line.name if len(lines) > 1 else f"top-1 weight, {line.name}"
        _draw_line(ax, line, level, name, side="right")
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("mean top-1 weight")
    alt = "Mean largest posterior weight by time"
    return [Drawing("figure-2b", alt, figure, _columns(lines, "max_weight"))]


def _lines(results: Results, name: str, *, per_dimension: bool = False) -> list[_Line]:
    lines = []
    for i, (values, colour) in enumerate(zip(results.values["sets"], CURVE_COLOURS, strict=False)):
        group = ClassStages.of_saved(values["group"], results.arrays, f"{i}/")
        curve, scale = group.curves[name], 1 / values["dims"] if per_dimension else 1.0
        times = to_numpy(results.arrays[f"{i}/times"])
        scaled = Curve(curve.mean * scale, curve.error * scale)
        lines.append(_Line(values["name"], times, scaled, group, colour))
    return lines


def _axes_of(lines: list[_Line], *, note_at_bottom: bool) -> tuple[Figure, Axes]:
    """Axes with the stages of a single data set, and where the paper's latents end navigation."""
    single = len(lines) == 1
    if single:
        figure, ax = stages_axes(lines[0].group)
    else:
        figure, ax = new_axes()
        # One axis for all: stretched about the earliest collapse, which has the least room.
        earliest = min(lines, key=lambda line: line.group.collapse.value or 1.0)
        landmark_time_axis(ax, earliest.group)
        ax.set_facecolor(NAVIGATION)
    ax.axvline(PAPER_END, color=QUIET, lw=0.9, ls=THRESHOLD_DOTS, zorder=1)
    style: dict[str, Any] = {"rotation": 90, "fontsize": 8, "color": QUIET}
    style |= {"va": "bottom" if note_at_bottom else "top", "ha": "right" if single else "left"}
    if not single:
        style["bbox"] = {"fc": NAVIGATION, "ec": "none", "pad": 0.4}
    point, offset = (PAPER_END, 0.03 if note_at_bottom else 0.97), (-3 if single else 3, 0)
    coordinates = ("data", "axes fraction")
    annotate(ax, "paper's latents ≈ 0.1", point, offset, coordinates=coordinates, **style)
    return figure, ax


def _draw_line(
    ax: Axes, line: _Line, level: float, name: str, *, side: str, since: int = 0
) -> None:
    """A curve, named where it first passes a level from its point `since` on."""
    draw_band(ax, line.times, line.curve, line.colour)
    curve, end = (line.times[since:], line.mean[since:]), line.group.end.value
    label_curve(ax, curve, level, name, colour=line.colour, side=side, end=end)


def _label_levels(count: int, single: float) -> list[float]:
    """Heights at which curves are named."""
    # Each at another height: names beside each other would run into the next curve.
    return np.linspace(0.62, 0.25, count).tolist() if count > 1 else [single]


def _columns(lines: list[_Line], name: str) -> Columns:
    """All data sets below each other."""
    columns: Columns = {"data": [], "t": [], name: [], f"{name}_error": []}
    for line in lines:
        columns["data"] += [line.name] * len(line.times)
        columns["t"] += line.times.tolist()
        columns[name] += line.mean.tolist()
        columns[f"{name}_error"] += line.curve.error.tolist()
    return columns
