"""What figures share: time axes with landmarks, bands of two standard errors, names of curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from floracle.analysis.curves import Curve
from floracle.analysis.interpolation import MeasuredTimes
from floracle.analysis.stages.result import ClassStages

from .figure import Columns
from .formatting import format_time
from .style import DOTTED, HEIGHT, INK, LANDMARK_DASHES, NAVIGATION, QUIET, REFINEMENT, WIDTH

Values = NDArray[np.float64]
AxisScale = Callable[[Values], Values]

FINE_TIMES = 160  # every 2.4 points of a figure of WIDTH: corners of the line are not seen
"""Points of a drawn line, besides the measured ones."""
NEAR_AN_END = 1e-3
"""Times so near to 0 or 1 cannot be told apart on an even axis."""
LONG_LANDMARK = 16
"""Letters of a landmark's name beyond which two do not stand beside each other."""
EVEN_TICKS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
# Denser near 0, since the collapse of latents lies near .1 and its axis is stretched there.
ROUND_TIMES = [
    0.0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
]  # fmt: skip
TICK_DISTANCE = 0.12
"""Least distance of two ticks, as a share of the axis: labels of 8.5 points do not touch."""


def new_axes(*, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, within `figure_style`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def to_numpy(values: Any) -> Values:
    """A tensor as a float64 array."""
    return np.asarray(values, dtype=np.float64)


def two_errors(curve: Curve) -> tuple[Values, Values, Values]:
    """A mean less two standard errors, the mean, and the mean plus two; [T] each.

    The error of a single pair is infinite; then there is no band.
    """
    mean, error = to_numpy(curve.mean), np.nan_to_num(to_numpy(curve.error), posinf=0)
    return mean - 2 * error, mean, mean + 2 * error


def curve_columns(times: Any, curves: Mapping[str, Curve], axis: str = "t") -> Columns:
    """Times, and each curve with its standard error in the column beside it."""
    columns: Columns = {axis: to_numpy(times).tolist()}
    for name, curve in curves.items():
        columns[name] = to_numpy(curve.mean).tolist()
        columns[f"{name}_error"] = to_numpy(curve.error).tolist()
    return columns


# ------------------------------------------------------------------ axes


def annotate(
    ax: Axes,
    text: str,
    point: tuple[float, float],
    offset: tuple[float, float] = (0, 0),
    *,
    coordinates: Any = "data",
    **style: Any,
) -> None:
    """Write text at a point of the axes, moved by an offset in points of 1/72 inch."""
    style = {"fontsize": 9, "textcoords": "offset points"} | style
    ax.annotate(text, point, offset, xycoords=coordinates, **style)


def even_axis(ax: Axes, label: str) -> None:
    """An even horizontal axis from 0 to 1."""
    ax.set_xlim(0, 1)
    ax.set_xticks(EVEN_TICKS)
    ax.set_xlabel(label)


def even_time_axis(ax: Axes) -> None:
    """An even time axis from noise to data."""
    even_axis(ax, "time t")
    name_ends(ax)


def name_ends(ax: Axes, first: str = "noise", last: str = "data") -> None:
    """Label a time axis, with what lies at both of its ends."""
    ax.set_xlabel("time t")
    # 27 points down is the line of the axis label, below the labels of the ticks.
    style = {"va": "center", "color": INK, "fontweight": "bold"}
    annotate(ax, first, (0, 0), (0, -27), coordinates="axes fraction", ha="left", **style)
    annotate(ax, last, (1, 0), (0, -27), coordinates="axes fraction", ha="right", **style)


def landmark_time_axis(ax: Axes, group: ClassStages) -> None:
    """A time axis that is stretched where the collapse would lie near one of its ends."""
    collapse = group.collapse.value or group.predicted_collapse
    ax.set_xlim(0, 1)
    # A collapse at .1 leaves a tenth of an even axis to navigation; the stretch takes it to ½.
    if 0 < collapse < 1 and not 0.25 <= collapse <= 0.75:
        ax.set_xscale("function", functions=stretch_functions(collapse))
        ax.set_xlim(0, 1)
    ticks = spread_ticks(ax)
    ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    ax.minorticks_off()
    name_ends(ax)


def stretch_functions(middle: float) -> tuple[AxisScale, AxisScale]:
    """The map of [0, 1] onto itself that takes `middle` to ½ (see below), and its inverse.

    It divides the odds t / (1 − t) by those of the middle: u = t / (t + odds (1 − t)).
    """
    odds = middle / (1 - middle)
    return (
        lambda t: t / (t + odds * (1 - t)),
        lambda u: odds * u / (1 - u + odds * u),
    )


def axis_position(ax: Axes, t: float) -> float:
    """Where a time lies along the axis, as a share of its length."""
    low, high, position = (ax.transScale.transform((time, 1))[0] for time in (0.0, 1.0, t))
    return float((position - low) / (high - low))


def spread_ticks(ax: Axes) -> list[float]:
    """Round times that keep their distance along the axis, both ends among them."""
    if ax.get_xscale() == "linear":
        return EVEN_TICKS
    ticks = [0.0]
    for tick in ROUND_TIMES[1:-1]:
        # The last tick, 1, is always there: the others keep their distance from it as well.
        position = axis_position(ax, tick)
        if min(position - axis_position(ax, ticks[-1]), 1 - position) >= TICK_DISTANCE:
            ticks.append(tick)
    return [*ticks, 1.0]


def shade_stages(ax: Axes, end: float | None, *, upright: bool = False) -> None:
    """Colour the ground: navigation before its end, refinement after it."""
    span = ax.axhspan if upright else ax.axvspan
    end = 1.0 if end is None else end
    span(0, end, color=NAVIGATION, lw=0, zorder=0)
    span(end, 1, color=REFINEMENT, lw=0, zorder=0)


def ground_colour(t: float, end: float | None) -> str:
    """The colour of the ground at a time, for what is written on it."""
    return NAVIGATION if end is None or t < end else REFINEMENT


def mark_landmarks(ax: Axes, group: ClassStages) -> list[float]:
    """Draw the landmarks that are reached, with their names above; returns their times."""
    marks = {name: getattr(group, name).value for name in ("centre", "collapse", "end")}
    times = [time for time in marks.values() if time is not None]
    names = [f"{name} {format_time(t)}" for name, t in marks.items() if t is not None]
    positions = [axis_position(ax, time) for time in times]
    is_long = any(len(name) > LONG_LANDMARK for name in names)
    for i, (time, name) in enumerate(zip(times, names, strict=True)):
        ax.axvline(time, color=QUIET, lw=0.9, ls=LANDMARK_DASHES, zorder=1)
        # A name that would run into the one before it goes a line higher; long ones always do.
        crowded = i % 2 == 1 and positions[i] - positions[i - 1] < 0.17
        lines_up = i if is_long else int(crowded)
        point, offset = (positions[i], 1), (0, 4 + 11 * lines_up)  # 11 points: a line of text
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8.5, "color": INK}
        annotate(ax, name, point, offset, coordinates="axes fraction", **style)
    return times


def stages_axes(group: ClassStages) -> tuple[Figure, Axes]:
    """Axes over time with the stages of a group as ground and its landmarks."""
    figure, ax = new_axes()
    landmark_time_axis(ax, group)
    shade_stages(ax, group.end.value)
    mark_landmarks(ax, group)
    return figure, ax


# ------------------------------------------------------------------ curves


def smooth(times: Any, *curves: Values, along: Any = None) -> list[Values]:
    """Finer times, and monotone cubics through all points of curves [T].

    Curves are interpolated `along` the predicted information at the times, or t. Where half of the
    times lie next to an end, the finer times are even along a stretched axis, and so is the
    interpolation without prediction: steps in t would leave that half without any.
    """
    t = to_numpy(times)
    if len(t) < 2:
        return [t, *curves]
    middle = float(np.median(t))
    if NEAR_AN_END <= middle <= 1 - NEAR_AN_END or not 0 < middle < 1:
        # Measured times are among the fine ones, so that the line passes through every dot.
        fine = np.unique(np.concatenate([t, np.linspace(t[0], t[-1], FINE_TIMES)]))
        return [fine, *MeasuredTimes(t, along).values(np.stack(curves), fine)]
    stretch, unstretch = stretch_functions(middle)
    positions = stretch(t)
    even = np.linspace(positions[0], positions[-1], FINE_TIMES)
    fine = np.unique(np.concatenate([positions, even]))
    if along is None:
        return [unstretch(fine), *MeasuredTimes(positions).values(np.stack(curves), fine)]
    times_of_fine = unstretch(fine)
    return [times_of_fine, *MeasuredTimes(t, along).values(np.stack(curves), times_of_fine)]


def draw_band(
    ax: Axes,
    times: Any,
    curve: Curve,
    colour: str,
    *,
    style: Any = "-",
    along: Any = None,
    between: Callable[[torch.Tensor], Curve] | None = None,
) -> Values:
    """A curve with two standard errors on either side; the points [n, 2] of its lines.

    Between measured times it follows `along`, as `smooth` does, or is what `between` says.
    """
    if between is None:
        lines = smooth(times, *two_errors(curve), along=along)
    else:
        fine = smooth(times, to_numpy(curve.mean))[0]
        lines = [fine, *two_errors(between(torch.from_numpy(fine)))]
    draw_points(ax, times, curve.mean, colour, style)
    return draw_lines(ax, lines, colour, style)


def draw_log_band(
    ax: Axes,
    times: Any,
    band: tuple[Values, Values, Values],
    colour: str,
    *,
    style: Any = "-",
    along: Any = None,
) -> Values:
    """The same of positive low, mean and high [T], interpolated in logarithms."""
    # A cubic through logarithms stays positive, and an exponential decay stays a straight line.
    fine, *logs = smooth(times, *map(np.log, band), along=along)
    draw_points(ax, times, band[1], colour, style)
    return draw_lines(ax, [fine, *map(np.exp, logs)], colour, style)


def draw_points(ax: Axes, times: Any, means: Any, colour: str, style: Any = "-") -> None:
    """The measured points of a curve; a dotted line would run into them, so it has none."""
    if style != DOTTED:
        ax.plot(to_numpy(times), to_numpy(means), "o", ms=1.9, mew=0, color=colour)


def draw_lines(ax: Axes, lines: list[Values], colour: str, style: Any = "-") -> Values:
    """Times, low, mean and high [n] as a band about a line; the points [3 n, 2] of all three."""
    times, low, mean, high = lines
    ax.fill_between(
        times, low, high, color=colour, alpha=0.22, lw=0
    )  # an outline looks like a curve
    ax.plot(times, mean, color=colour, ls=style)
    return np.concatenate([np.stack([times, line], 1) for line in (low, mean, high)])


def inside(ax: Axes, points: Values) -> Values:
    """Those of the points [n, 2] that lie within the upright limits of the axes."""
    low, high = ax.get_ylim()
    return points[(points[:, 1] >= low) & (points[:, 1] <= high)]


def label_curve(
    ax: Axes,
    curve: tuple[Any, Any],
    level: float,
    name: str,
    *,
    colour: str,
    side: str,
    end: float | None = None,
    last: bool = False,
) -> None:
    """Name a curve (times, values) where it first or last passes a level.

    `side` is the side of the name that faces the curve: "right" puts it on its left. `end` is the
    end of navigation, past which the ground has another colour.
    """
    x, y = smooth(curve[0], to_numpy(curve[1]))
    # y − level changes its sign between fine times i and i + 1, or is 0 at one of them.
    passed = np.flatnonzero((y[:-1] - level) * (y[1:] - level) <= 0)
    if not len(passed):
        return
    i = passed[-1 if last else 0]
    share = 0.0 if y[i + 1] == y[i] else (level - y[i]) / (y[i + 1] - y[i])
    t = float(x[i] + share * (x[i + 1] - x[i]))  # linear between fine times
    # The colour of the ground behind the name hides the lines that it stands on.
    ground = {"facecolor": ground_colour(t, end), "edgecolor": "none", "pad": 0.6}
    offset = (-6 if side == "right" else 6, 0)
    annotate(ax, name, (t, level), offset, ha=side, va="center", color=colour, bbox=ground)
