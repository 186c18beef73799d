"""Figures beside the stages: yardstick fields, the speed of trajectories, bands of frequencies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from floracle.analysis.curves import Curve, Landmark
from floracle.analysis.loss.baselines import BaselineDistances
from floracle.analysis.stages.result import ClassStages, Stages
from floracle.analysis.trajectories.frequency_bands import HALF_EXPLAINED, SettledBands
from floracle.analysis.trajectories.oracle_trajectories import OracleTrajectories
from floracle.analysis.trajectories.trajectory_analysis import TrajectoryAnalysis
from floracle.report.formatting import format_time
from floracle.report.label_placement import name_curves
from floracle.report.plots import (
    BLUE,
    INK,
    ORANGE,
    PAPER,
    QUIET,
    STYLE,
    TEAL,
    VIOLET,
    Drawing,
    axes,
    band,
    numbers,
    shade_stages,
    smooth,
    time_axis,
)

COLOURS = (BLUE, ORANGE, TEAL, VIOLET, INK, QUIET)
LEAST = 1e-5
"""Relative distances below this are not told apart."""


def yardsticks(distances: BaselineDistances, group: ClassStages) -> Drawing:
    """How far each field is from the oracle, as a share of the oracle's own size."""
    with mpl.rc_context(STYLE):
        figure, ax = _by_time(group)
        curves = distances.relative
        ax.set_yscale("log")
        ax.set_ylim(LEAST, 4)
        drawn = {}
        for (name, curve), colour in zip(curves.items(), _colours(len(curves)), strict=True):
            drawn[name] = (_drawn_in_logs(ax, distances.times, curve, colour), colour)
        _name_seen(ax, drawn, group)
        ax.set_yticks(
            [1e-5, 1e-4, 1e-3, 0.01, 0.1, 1], ["10⁻⁵", "10⁻⁴", "10⁻³", "0.01", "0.1", "1"]
        )
        ax.minorticks_off()
        ax.set_ylabel("squared distance / size of oracle")
    nearest = distances.nearest()
    return Drawing(
        "yardsticks",
        "Squared distance of yardstick fields from the oracle by time, relative to the oracle's"
        f" squared norm; the nearest is {nearest[1]} early and {nearest[-1]} late",
        figure,
        _columns(distances.times, curves) | {"nearest": nearest},
    )


def speed(followed: OracleTrajectories, group: ClassStages) -> Drawing:
    """How fast oracle trajectories move."""
    with mpl.rc_context(STYLE):
        figure, ax = _by_time(group)
        curve = followed.curves["speed"]
        band(ax, followed.times, curve, BLUE)
        low, high = float(curve.mean.min()), float(curve.mean.max())
        room = max(0.35 * (high - low), 0.02 * high)
        ax.set_ylim(low - room, high + room)
        ax.set_ylabel("velocity norm / √D")
    straight = followed.straightness.value
    return Drawing(
        "speed",
        f"Velocity norm along {len(followed.rows)} oracle trajectories by time;"
        f" their energy is {straight:.3f} times that of straight lines",
        figure,
        _columns(followed.times, {"speed": curve}),
    )


def settling(settled: SettledBands, group: ClassStages) -> Drawing:
    """How much of each band of frequencies the prediction explains."""
    with mpl.rc_context(STYLE):
        figure, ax = _by_time(group)
        curves = dict(zip(settled.bands.names, settled.explained, strict=True))
        ax.axhline(HALF_EXPLAINED, color=QUIET, lw=0.8, ls=(0, (1, 2)))
        for curve, colour in zip(curves.values(), _colours(len(curves)), strict=True):
            band(ax, settled.times, curve, colour)
        ax.set_ylim(-0.02, 1.04)
        _name_halves(ax, curves, settled.half)
        ax.set_ylabel("share of the band explained")
    halves = ", ".join(
        f"{name} at {mark}" for name, mark in zip(curves, settled.half, strict=True)
    )
    return Drawing(
        "bands",
        f"Share of each band of frequencies that the prediction explains by time; half: {halves}",
        figure,
        _columns(settled.times, curves),
    )


def deep_drawings(stages: Stages, deep: TrajectoryAnalysis) -> dict[str, Drawing]:
    """All figures of a deeper look, by name."""
    group = stages.group(deep.label)
    found = [speed(deep.trajectories, group)]
    if deep.distances is not None:
        found.append(yardsticks(deep.distances, group))
    if deep.bands is not None:
        found.append(settling(deep.bands, group))
    return {drawing.name: drawing for drawing in found}


def _drawn_in_logs(ax: Axes, times: object, curve: Curve, colour: str) -> NDArray[np.float64]:
    """A curve and two errors on either side, down to `LEAST`: the points [n, 2] of its lines."""
    mean, error = numbers(curve.mean), np.nan_to_num(numbers(curve.error), posinf=0)
    logs = [
        np.log(np.maximum(values, LEAST / 3))
        for values in (mean - 2 * error, mean, mean + 2 * error)
    ]
    fine, *lines = smooth(times, *logs)
    low, middle, high = (np.exp(line) for line in lines)
    ax.fill_between(fine, low, high, color=colour, alpha=0.22, lw=0)
    ax.plot(fine, middle, color=colour)
    ax.plot(numbers(times), np.maximum(mean, LEAST / 3), "o", ms=1.9, mew=0, color=colour)
    seen = middle > LEAST
    return np.concatenate([np.stack([fine, line], 1)[seen] for line in (low, middle, high)])


def _name_seen(
    ax: Axes, drawn: dict[str, tuple[NDArray[np.float64], str]], group: ClassStages
) -> None:
    """Name the curves that rise over `LEAST` anywhere, and say so of the others."""
    seen = {name: points for name, (points, _) in drawn.items() if len(points)}
    colours = [colour for points, colour in drawn.values() if len(points)]
    name_curves(ax, seen, colours, lines=np.array(_marks(group)))
    below = [name for name in drawn if name not in seen]
    if below:
        ax.annotate(
            f"below 10⁻⁵ at all times: {', '.join(below)}",
            (0.5, 0),
            (0, 5),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=INK,
            fontsize=9,
        )


def _by_time(group: ClassStages) -> tuple[Figure, Axes]:
    figure, ax = axes()
    time_axis(ax, group)
    shade_stages(ax, group)
    return figure, ax


def _marks(group: ClassStages) -> list[float]:
    """The times of the lines that `shade_stages` draws."""
    marks = (group.centre, group.collapse, group.end)
    return [mark.value for mark in marks if mark.value is not None]


def _name_halves(ax: Axes, names: Iterable[str], halves: Sequence[Landmark]) -> None:
    """Where each band is half explained, with its name on the side that has room."""
    ranked = sorted(
        (mark.value, name, colour)
        for name, mark, colour in zip(names, halves, _colours(len(halves)), strict=True)
        if mark.value is not None
    )
    early = not ranked or _across(ax, ranked[-1][0]) < 0.55
    side, first, lowest = ("left", 0.6, 0.42) if early else ("right", 0.4, 0.9)
    lowest -= 0.085 * (len(ranked) - 1)
    for i, (t, name, colour) in enumerate(ranked):  # earliest lowest: so no leaders cross
        ax.plot([t], [HALF_EXPLAINED], "o", ms=5.5, mfc=colour, mec=PAPER, mew=0.8, zorder=4)
        ax.annotate(
            f"{name}, half at {format_time(t)}",
            (t, HALF_EXPLAINED),
            (first, lowest + 0.085 * i),
            textcoords="axes fraction",
            ha=side,
            va="center",
            color=colour,
            fontsize=9,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.7,
                "shrinkA": 0,
                "shrinkB": 3,
                "relpos": (float(side == "right"), 0.5),
            },
        )


def _across(ax: Axes, t: float) -> float:
    """Where a time lies along the axis, as a share of its length."""
    return float(ax.transAxes.inverted().transform(ax.transData.transform((t, HALF_EXPLAINED)))[0])


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _columns(times: object, curves: dict[str, Curve]) -> dict[str, list]:
    columns: dict[str, list] = {"t": numbers(times).tolist()}
    for name, curve in curves.items():
        columns[name] = numbers(curve.mean).tolist()
        columns[f"{name}_error"] = numbers(curve.error).tolist()
    return columns
