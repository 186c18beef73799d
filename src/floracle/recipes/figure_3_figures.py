"""Figure 3 from its numbers: the curves by D and by N, and their collapse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from floracle.analysis.curves import Curve
from floracle.report.figure import Columns, Drawing
from floracle.report.plots import (
    Values,
    annotate,
    draw_band,
    name_ends,
    new_axes,
    smooth,
    to_numpy,
    two_errors,
)
from floracle.report.style import (
    COOL,
    HEIGHT,
    INK,
    LANDMARK_DASHES,
    NAVIGATION,
    QUIET,
    WARM,
    colour_ramp,
)
from floracle.run.results import Results

from .recipe import rows_by_name

CloudSize = tuple[int, int]
"""D and N."""
NAME_WIDTH = 0.09
"""Width of a dimension's name, as a span of t."""
PANELS = {
    "max_weight": "mean top-1 weight",
    "self_weight": "mean weight of the source",
    "deviation": "source weight less\nclosed form",
}
"""The rows of the figure: quantities and their axes."""
COLUMNS = ("t", "max_weight", "max_weight_error", "self_weight", "self_weight_error", "closed")


def draw_figure_3(results: Results) -> list[Drawing]:
    """Curves and deviations, then the collapse of every size."""
    return [_draw_curves(results), _draw_collapse(results)]


def cloud_name(dims: int, points: int) -> str:
    """The name of a size of cloud in tables and arrays."""
    return f"D={dims} N={points}"


def isotropic_collapse(dims: int, points: float) -> float:
    """The time at which α/σ is √(N^(2/D) − 1): a unit Gaussian tells log N nats by then."""
    # From D/2 · log(1 + r²) = log N. expm1, since N^(2/D) is near 1 where D is large.
    ratio = math.sqrt(math.expm1(2 * math.log(points) / dims))
    return ratio / (1 + ratio)


def _draw_curves(results: Results) -> Drawing:
    """A row for each quantity; D varied on the left, N on the right, the other in its middle."""
    dims, points = results.settings["dims"], results.settings["points"]
    figure = Figure(figsize=(9.2, 8.2), layout=ConstrainedLayoutEngine(wspace=0.05))
    grid = figure.subplots(3, 2, sharex=True, sharey="row", height_ratios=[1.25, 1.25, 0.9])
    middle_points, middle_dims = points[len(points) // 2], dims[len(dims) // 2]
    by_dims, cool = [(d, middle_points) for d in dims], colour_ramp(len(dims), COOL)
    by_points, warm = [(middle_dims, n) for n in points], colour_ramp(len(points), WARM)
    _draw_side(grid[:, 0], results, by_dims, cool)
    _draw_side(grid[:, 1], results, by_points, warm)
    # More dimensions collapse earlier, more points later: the leftmost curve is named first.
    _list_names(grid[0, 0], [f"D = {d:,}" for d in reversed(dims)], cool[::-1])
    _list_names(grid[0, 1], [f"N = {n:,}" for n in points], warm)
    grid[0, 0].set_title(f"N = {middle_points:,}", loc="left", color=INK)
    grid[0, 1].set_title(f"D = {middle_dims:,}", loc="left", color=INK)
    for panel, (quantity, label) in zip(grid[:, 0], PANELS.items(), strict=True):
        panel.set_ylabel(label)
        if quantity != "deviation":
            panel.set_ylim(0, 1.03)
    _name_peaks(grid[2, 0], results, by_dims, cool)
    _note(grid[1, 1], "points: Monte Carlo ± 2 standard errors\ndashes: closed form")
    alt = (
        "Top-1 weight and weight of the source by time for unit Gaussians of several D and N,"
        " measured and in closed form, and the difference"
    )
    return Drawing("figure-3", alt, figure, _columns(results))


def _draw_side(
    panels: np.ndarray, results: Results, sizes: list[CloudSize], colours: list[str]
) -> None:
    """All quantities of a few sizes; the weight of the source with its closed form."""
    for panel, quantity in zip(panels, PANELS, strict=True):
        if quantity == "deviation":
            panel.axhline(0, color=QUIET, lw=0.8)
        for size, colour in zip(sizes, colours, strict=True):
            t, curve = _array(results, size, "t"), _curve(results, size, quantity)
            if quantity != "self_weight":
                draw_band(panel, t, curve, colour)
                continue
            mean, error = to_numpy(curve.mean), to_numpy(curve.error)
            panel.errorbar(t, mean, 2 * error, fmt="o", ms=3, mew=0, lw=0.9, color=colour)
            fine, closed = smooth(t, _array(results, size, "closed"))
            panel.plot(fine, closed, color=colour, lw=1.1, ls=LANDMARK_DASHES)
    panels[2].set_xlim(0, 1)
    name_ends(panels[2])


def _curve(results: Results, size: CloudSize, quantity: str) -> Curve:
    name = cloud_name(*size)
    mean = "self_weight" if quantity == "deviation" else quantity
    curve = Curve(results.arrays[f"{name}/{mean}"], results.arrays[f"{name}/{mean}_error"])
    if quantity == "deviation":
        return Curve(curve.mean - results.arrays[f"{name}/closed"], curve.error)
    return curve


def _list_names(ax: Axes, names: list[str], colours: list[str]) -> None:
    """Names below each other in the order of the curves: the uppermost is the leftmost."""
    style: Any = {"ha": "right", "va": "center", "fontweight": "bold"}
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        point = (0.97, 0.1 + 0.09 * (len(names) - i))
        annotate(ax, name, point, coordinates="axes fraction", color=colour, **style)
    _note(ax, "from left to right:", (0.97, 0.15 + 0.09 * len(names)))


def _name_peaks(ax: Axes, results: Results, sizes: list[CloudSize], colours: list[str]) -> None:
    """The dimension above each deviation, and room for it."""
    highest, last = 0.0, 2.0
    for i, (size, colour) in enumerate(zip(sizes, colours, strict=True)):
        upper = two_errors(_curve(results, size, "deviation"))[2]
        peak = int(upper.argmax())
        highest = max(highest, float(upper[peak]))
        t = float(_array(results, size, "t")[peak])
        raised, last = last - t <= NAME_WIDTH, t  # peaks go leftwards as dimensions grow
        name = f"D = {size[0]:,}" if i == 0 else f"{size[0]:,}"
        style: Any = {"ha": "center", "color": colour, "fontsize": 8.5}
        annotate(ax, name, (t, upper[peak]), (0, 14 if raised else 3), **style)
    ax.set_ylim(-0.12 * highest, 1.25 * highest)  # a quarter more for two lines of names


def _draw_collapse(results: Results) -> Drawing:
    """Measured and predicted collapse of every size, by N."""
    dims, points = results.settings["dims"], results.settings["points"]
    figure, ax = new_axes(height=HEIGHT + 0.4)
    ax.set_facecolor(NAVIGATION)
    # Even in log N, and beyond the measured sizes on both sides.
    fine, rows = np.geomspace(0.6 * min(points), 1.7 * max(points), 80), rows_by_name(results)
    for size, colour in zip(dims, colour_ramp(len(dims), COOL), strict=True):
        predicted = np.array([isotropic_collapse(size, count) for count in fine])
        ax.plot(fine, predicted, color=colour, lw=1.3)
        measured = [rows[cloud_name(size, count)] for count in points]
        mean = np.array([row["collapse"] for row in measured])
        interval = np.array([[row["low"], row["high"]] for row in measured]).T
        bars: Any = {"fmt": "o", "ms": 4, "mew": 0, "lw": 1.2, "capsize": 2, "color": colour}
        ax.errorbar(points, mean, np.abs(interval - mean), **bars)
        style: Any = {"va": "center", "color": colour, "annotation_clip": False}
        annotate(ax, f"D = {size:,}", (fine[-1], predicted[-1]), (5, 0), **style)
    ax.set(xscale="log", xlim=(fine[0], fine[-1]), ylim=(0, None), xlabel="points N")
    ax.xaxis.set_major_locator(FixedLocator(points))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_ylabel("time of collapse (mean source weight ½)")
    _note(ax, "lines: r = √(N^(2/D) − 1)\npoints: measured, 95 %", (0.03, 0.97))
    table = results.values["table"]
    names = [name or "size" for name in table["columns"]]
    columns = dict(zip(names, map(list, zip(*table["rows"], strict=True)), strict=True))
    alt = (
        "The time of collapse by the number of points for several dimensions, measured and r ="
        " √(N^(2/D) − 1)"
    )
    return Drawing("figure-3-collapse", alt, figure, columns)


def _note(ax: Axes, text: str, point: tuple[float, float] = (0.97, 0.06)) -> None:
    """A remark in a corner of the axes."""
    sides = ("left", "top") if point[0] < 0.5 else ("right", "bottom")
    style: Any = {"ha": sides[0], "va": sides[1], "color": QUIET, "fontsize": 8}
    annotate(ax, text, point, coordinates="axes fraction", **style)


def _columns(results: Results) -> Columns:
    """All sizes below each other."""
    columns: Columns = {name: [] for name in ("dims", "points", *COLUMNS)}
    for dims in results.settings["dims"]:
        for points in results.settings["points"]:
            arrays = {name: _array(results, (dims, points), name) for name in COLUMNS}
            columns["dims"] += [dims] * len(arrays["t"])
            columns["points"] += [points] * len(arrays["t"])
            for name, array in arrays.items():
                columns[name] += array.tolist()
    return columns


def _array(results: Results, size: CloudSize, name: str) -> Values:
    return to_numpy(results.arrays[f"{cloud_name(*size)}/{name}"])
