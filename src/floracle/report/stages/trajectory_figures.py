"""The figures of `--deep`: baseline fields, the speed of trajectories, bands of frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from floracle.analysis.curves import Landmark
from floracle.analysis.loss.baselines import BaselineDistances
from floracle.analysis.stages.result import ClassStages, Stages
from floracle.analysis.trajectories.frequency_bands import HALF_EXPLAINED, SettledBands
from floracle.analysis.trajectories.oracle_trajectories import OracleTrajectories
from floracle.analysis.trajectories.trajectory_analysis import TrajectoryAnalysis
from floracle.report.figure import Drawing, figure_style
from floracle.report.formatting import format_time
from floracle.report.label_placement import name_curves
from floracle.report.plots import (
    annotate,
    axis_position,
    curve_columns,
    draw_band,
    draw_log_band,
    stages_axes,
    two_errors,
)
from floracle.report.style import BLUE, INK, PAPER, QUIET, THRESHOLD_DOTS, curve_colours

LEAST_DISTANCE = 1e-5
"""Relative distances below this are not drawn: float32 hardly tells them from 0."""


def trajectory_figures(stages: Stages, deep: TrajectoryAnalysis) -> list[Drawing]:
    """All figures of a deeper look."""
    group = stages.group(deep.label)
    with figure_style():
        drawings = [] if deep.distances is None else [draw_baselines(deep.distances, group)]
        drawings.append(draw_speed(deep.trajectories, group))
        if deep.bands is not None:
            drawings.append(draw_bands(deep.bands, group))
    return drawings


def draw_baselines(distances: BaselineDistances, group: ClassStages) -> Drawing:
    """The squared distance of baseline fields from the oracle, relative to the oracle's norm."""
    figure, ax = stages_axes(group)
    curves, nearest = distances.relative, distances.nearest()
    ax.set_yscale("log")
    ax.set_ylim(LEAST_DISTANCE, 4)
    ax.set_yticks([1e-5, 1e-4, 1e-3, 0.01, 0.1, 1], ["10⁻⁵", "10⁻⁴", "10⁻³", "0.01", "0.1", "1"])
    ax.minorticks_off()
    ax.set_ylabel("squared distance / ‖oracle velocity‖²")
    colours = curve_colours(len(curves))
    points = {}
    for (name, curve), colour in zip(curves.items(), colours, strict=True):
        # Just below the axis: 0 has no logarithm, and a baseline may equal the oracle.
        low, mean, high = (np.maximum(v, LEAST_DISTANCE / 3) for v in two_errors(curve))
        lines = draw_log_band(ax, distances.times, (low, mean, high), colour)
        above = lines[len(lines) // 3 : 2 * len(lines) // 3, 1] > LEAST_DISTANCE  # of the mean
        points[name] = lines[np.tile(above, 3)]
    marks = (group.centre, group.collapse, group.end)
    upright = [mark.value for mark in marks if mark.value is not None]
    name_curves(ax, points, colours, upright=upright)
    if below := [name for name, line in points.items() if not len(line)]:
        text = f"below 10⁻⁵ at all times: {', '.join(below)}"
        style = {"ha": "center", "va": "bottom", "color": INK}
        annotate(ax, text, (0.5, 0), (0, 5), coordinates="axes fraction", **style)
    return Drawing(
        "baselines",
        "Squared distance of baseline fields from the oracle by time, relative to the oracle's"
        f" squared norm; the nearest is {nearest[1]} early and {nearest[-1]} late",
        figure,
        curve_columns(distances.times, curves) | {"nearest": nearest},
        "Squared distance of baselines (closed-form fields that know less than the training set)"
        " from the oracle velocity, relative to its squared norm.",
        "deep",
    )


def draw_speed(trajectories: OracleTrajectories, group: ClassStages) -> Drawing:
    """The velocity norm along oracle trajectories."""
    figure, ax = stages_axes(group)
    speed = trajectories.curves["speed"]
    draw_band(ax, trajectories.times, speed, BLUE)
    low, high = float(speed.mean.min()), float(speed.mean.max())
    margin = max(0.35 * (high - low), 0.02 * high)  # a constant speed has its axis too
    ax.set_ylim(low - margin, high + margin)
    ax.set_ylabel("velocity norm / √D")
    return Drawing(
        "speed",
        f"Velocity norm along {len(trajectories.rows)} oracle trajectories by time; their energy"
        f" is {trajectories.straightness.value:.3f} times that of straight lines",
        figure,
        curve_columns(trajectories.times, {"speed": speed}),
        "Velocity norm along trajectories of the oracle.",
        "deep",
    )


def draw_bands(settled: SettledBands, group: ClassStages) -> Drawing:
    """The share of each frequency band that the oracle's prediction explains."""
    figure, ax = stages_axes(group)
    curves = dict(zip(settled.bands.names, settled.explained, strict=True))
    halves = dict(zip(curves, settled.half, strict=True))
    ax.axhline(HALF_EXPLAINED, color=QUIET, lw=0.8, ls=THRESHOLD_DOTS)
    for curve, colour in zip(curves.values(), curve_colours(len(curves)), strict=True):
        draw_band(ax, settled.times, curve, colour)
    ax.set_ylim(-0.02, 1.04)
    ax.set_ylabel("explained share of the band")
    _name_halves(ax, halves)
    return Drawing(
        "bands",
        "Share of each frequency band that the prediction explains by time; half: "
        + ", ".join(f"{name} at {mark}" for name, mark in halves.items()),
        figure,
        curve_columns(settled.times, curves),
        "The share of each band of spatial frequencies that the oracle's prediction x̂ explains:"
        " low frequencies are the coarse structure of a picture, high ones its details.",
        "deep",
    )


def _name_halves(ax: Axes, halves: Mapping[str, Landmark]) -> None:
    """Mark where each band is half explained, with its name on the side that has room."""
    colours = curve_colours(len(halves))
    reached = sorted(
        (mark.value, name, colour)
        for (name, mark), colour in zip(halves.items(), colours, strict=True)
        if mark.value is not None
    )
    # Names to the right of early marks, to the left of late ones, .085 of the height for a line.
    early = not reached or axis_position(ax, reached[-1][0]) < 0.55
    side, x, lowest = ("left", 0.6, 0.42) if early else ("right", 0.4, 0.9)
    lowest -= 0.085 * (len(reached) - 1)
    line = {"arrowstyle": "-", "lw": 0.7, "shrinkA": 0, "shrinkB": 3}
    line["relpos"] = (float(side == "right"), 0.5)
    for i, (t, name, colour) in enumerate(reached):  # the earliest lowest: no leaders cross
        ax.plot([t], [HALF_EXPLAINED], "o", ms=5.5, mfc=colour, mec=PAPER, mew=0.8, zorder=4)
        text = f"{name}, half at {format_time(t)}"
        arrow: dict[str, Any] = line | {"color": colour}
        style = {"ha": side, "va": "center", "color": colour, "arrowprops": arrow}
        ax.annotate(
            text, (t, HALF_EXPLAINED), (x, lowest + 0.085 * i), textcoords="axes fraction", **style
        )
