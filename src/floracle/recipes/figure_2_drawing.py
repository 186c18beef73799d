"""Figure 2 from its numbers: one data set with its landmarks, or several over each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from floracle.analysis.curves import Curve
from floracle.analysis.saved import group_of
from floracle.analysis.stages.result import ClassStages
from floracle.report.plots import (
    BLUE,
    HIGH,
    NAVIGATION,
    ORANGE,
    QUIET,
    TEAL,
    VIOLET,
    Drawing,
    axes,
    band,
    label_at,
    numbers,
    shade_stages,
    time_axis,
)
from floracle.run.results import Results

COLOURS = (BLUE, ORANGE, TEAL, VIOLET)
MOST = len(COLOURS)
"""Data sets in one figure."""
PAPER_ENDS = 0.1
"""Where the paper's gap is gone and its top-1 weight saturates: D = 4096 and 8192, N ≈ 1300."""
CALM = 0.99
"""Values later than this do not set the scale of the gap."""


@dataclass(frozen=True)
class Line:
    """What is drawn of a data set."""

    name: str
    times: NDArray[np.float64]
    curve: Curve
    group: ClassStages
    colour: str

    @property
    def mean(self) -> NDArray[np.float64]:
        """The curve's values."""
        return numbers(self.curve.mean)


def draw_gap(results: Results) -> list[Drawing]:
    """Figure 2a."""
    lines = _lines(results, "gap", per_dimension=True)
    ax, figure = _ground(lines, low=len(lines) == 1)
    for line, level in zip(lines, _levels(len(lines)), strict=True):
        falls = int(line.mean.argmax())
        name = line.name if len(lines) > 1 else f"gap, {line.name}"
        _draw(ax, line, level * line.mean[falls], name, side="left", since=falls)
    highest = max(float(line.mean[line.times <= CALM].max()) for line in lines)
    ax.set_ylim(0, 1.12 * highest)
    ax.set_ylabel("squared error per dimension")
    words = "Gap per dimension between the conditional target and the oracle velocity by time"
    return [Drawing("figure-2a", words, figure, _columns(lines, "gap"))]


def draw_top(results: Results) -> list[Drawing]:
    """Figure 2b."""
    lines = _lines(results, "max_weight")
    ax, figure = _ground(lines, low=False)
    levels = _levels(len(lines)) if len(lines) > 1 else [0.25]
    for line, level in zip(lines, levels, strict=True):
        name = line.name if len(lines) > 1 else f"top-1 weight, {line.name}"
        _draw(ax, line, level, name, side="right")
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("mean top-1 weight")
    words = "Mean largest posterior weight by time"
    return [Drawing("figure-2b", words, figure, _columns(lines, "max_weight"))]


def _lines(results: Results, name: str, *, per_dimension: bool = False) -> list[Line]:
    found = []
    for i, (values, colour) in enumerate(zip(results.values["sets"], COLOURS, strict=False)):
        group = group_of(values["group"], results.arrays, f"{i}/")
        curve, scale = group.curves[name], 1 / values["dims"] if per_dimension else 1.0
        times = numbers(results.arrays[f"{i}/times"])
        scaled = Curve(curve.mean * scale, curve.error * scale)
        found.append(Line(values["name"], times, scaled, group, colour))
    return found


def _ground(lines: list[Line], *, low: bool) -> tuple[Axes, Any]:
    """Axes with the stages of a single data set, and where the paper's latents end navigation."""
    figure, ax = axes(high=HIGH)
    earliest = min(lines, key=lambda line: line.group.collapse.value or 1.0)
    time_axis(ax, earliest.group)
    if len(lines) == 1:
        shade_stages(ax, lines[0].group)
    else:
        ax.set_facecolor(NAVIGATION)
    ax.axvline(PAPER_ENDS, color=QUIET, lw=0.9, ls=(0, (1, 2)), zorder=1)
    ax.annotate(
        "paper's latents ≈ 0.1",
        (PAPER_ENDS, 0.03 if low else 0.97),
        (3 if len(lines) > 1 else -3, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        rotation=90,
        ha="left" if len(lines) > 1 else "right",
        va="bottom" if low else "top",
        fontsize=8,
        color=QUIET,
        bbox=None if len(lines) == 1 else {"fc": NAVIGATION, "ec": "none", "pad": 0.4},
    )
    return ax, figure


def _draw(ax: Axes, line: Line, level: float, name: str, *, side: str, since: int = 0) -> None:
    """A curve, named where it first passes a level from its point `since` on."""
    band(ax, line.times, line.curve, line.colour)
    curve = line.times[since:], line.mean[since:]
    label_at(ax, line.group, curve, level, name, colour=line.colour, side=side)


def _levels(count: int) -> list[float]:
    """Heights at which curves are named."""
    return np.linspace(0.62, 0.25, count).tolist() if count > 1 else [0.45]


def _columns(lines: list[Line], name: str) -> dict[str, list[Any]]:
    """All data sets below each other."""
    columns: dict[str, list[Any]] = {"data": [], "t": [], name: [], f"{name}_error": []}
    for line in lines:
        columns["data"] += [line.name] * len(line.times)
        columns["t"] += line.times.tolist()
        columns[name] += line.mean.tolist()
        columns[f"{name}_error"] += line.curve.error.tolist()
    return columns
