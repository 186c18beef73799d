"""Figure 3 from its numbers: the curves by D and by N, and where they collapse."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from floracle.analysis.curves import Curve
from floracle.report.plots import (
    HIGH,
    INK,
    NAVIGATION,
    QUIET,
    Drawing,
    axes,
    band,
    name_ends,
    numbers,
    smooth,
)
from floracle.run.results import Results

from .palette import COOL, WARM, ramp
from .recipe import rows_of

Cell = tuple[int, int]
NAME_WIDTH = 0.09
"""What the name of a dimension is wide, as a span of t."""
ROWS = (
    ("max_weight", "mean top-1 weight"),
    ("self_weight", "mean own weight"),
    ("deviation", "own weight less\nclosed form"),
)


def draw(results: Results) -> list[Drawing]:
    """Curves and deviations, then the collapse of every size."""
    return [_curves(results), _collapse(results)]


def _curves(results: Results) -> Drawing:
    """Three rows (top-1, own, deviation) for D varied on the left and N varied on the right."""
    dims, points = results.settings["dims"], results.settings["points"]
    figure = Figure(figsize=(9.2, 8.2), layout=ConstrainedLayoutEngine(wspace=0.05))
    grid = figure.subplots(3, 2, sharex=True, sharey="row", height_ratios=[1.25, 1.25, 0.9])
    count, size = points[len(points) // 2], dims[len(dims) // 2]
    sides = (
        (grid[:, 0], [(d, count) for d in dims], ramp(len(dims), COOL), f"N = {count:,}"),
        (grid[:, 1], [(size, n) for n in points], ramp(len(points), WARM), f"D = {size:,}"),
    )
    for column, (panels, cells, colours, title) in enumerate(sides):
        names = [f"D = {d:,}" if column == 0 else f"N = {n:,}" for d, n in cells]
        for panel, (kind, _) in zip(panels, ROWS, strict=True):
            _panel(panel, results, cells, kind, colours)
        earliest_first = slice(None, None, -1 if column == 0 else 1)
        _name_curves(panels[0], names[earliest_first], colours[earliest_first])
        panels[0].set_title(title, loc="left", color=INK)
        panels[2].set_xlim(0, 1)
        name_ends(panels[2], "noise", "data")
    for panel, (kind, words) in zip(grid[:, 0], ROWS, strict=True):
        panel.set_ylabel(words)
        if kind != "deviation":
            panel.set_ylim(0, 1.03)
    _name_peaks(grid[2, 0], results, *sides[0][1:3])
    _say(grid[1, 1], "points: Monte Carlo ± 2 standard errors\ndashes: closed form")
    return Drawing(
        "figure-3",
        "Top-1 and own weight by time for unit Gaussians of several D and N, measured and in"
        " closed form, and the difference",
        figure,
        _columns(results),
    )


def _panel(ax: Axes, results: Results, cells: list[Cell], kind: str, colours: list[str]) -> None:
    """One quantity of a few sizes; the own weight with its closed form."""
    if kind == "deviation":
        ax.axhline(0, color=QUIET, lw=0.8)
    for cell, colour in zip(cells, colours, strict=True):
        t = _array(results, cell, "t")
        curve = _curve(results, cell, kind)
        if kind != "self_weight":
            band(ax, t, curve, colour)
        else:
            _measured(ax, t, curve, colour)
            fine, closed = smooth(t, _array(results, cell, "closed"))
            ax.plot(fine, closed, color=colour, lw=1.1, ls=(0, (4, 2)))


def _measured(ax: Axes, t: NDArray[np.float64], curve: Curve, colour: str) -> None:
    mean, error = numbers(curve.mean), numbers(curve.error)
    ax.errorbar(t, mean, 2 * error, fmt="o", ms=3, mew=0, lw=0.9, color=colour)


def _curve(results: Results, cell: Cell, kind: str) -> Curve:
    if kind == "deviation":
        found = results.arrays[_key(cell, "self_weight")] - results.arrays[_key(cell, "closed")]
        return Curve(found, results.arrays[_key(cell, "self_weight_error")])
    return Curve(results.arrays[_key(cell, kind)], results.arrays[_key(cell, f"{kind}_error")])


def _name_curves(ax: Axes, names: list[str], colours: list[str]) -> None:
    """Names below each other in the order of the curves: the uppermost is the leftmost."""
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        ax.annotate(
            name,
            (0.97, 0.1 + 0.09 * (len(names) - i)),
            xycoords="axes fraction",
            ha="right",
            va="center",
            color=colour,
            fontweight="bold",
        )
    _say(ax, "from left to right:", place=(0.97, 0.15 + 0.09 * len(names)))


def _name_peaks(ax: Axes, results: Results, cells: list[Cell], colours: list[str]) -> None:
    """The dimension above each deviation, and room for it."""
    highest, right = 0.0, 2.0
    for i, (cell, colour) in enumerate(zip(cells, colours, strict=True)):
        curve = _curve(results, cell, "deviation")
        upper = numbers(curve.mean + 2 * curve.error)
        peak = int(upper.argmax())
        highest = max(highest, float(upper[peak]))
        at = float(_array(results, cell, "t")[peak])
        apart, right = right - at > NAME_WIDTH, at
        ax.annotate(
            f"D = {cell[0]:,}" if i == 0 else f"{cell[0]:,}",
            (at, upper[peak]),
            (0, 3 if apart else 14),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontsize=8.5,
        )
    ax.set_ylim(-0.12 * highest, 1.25 * highest)


def _collapse(results: Results) -> Drawing:
    """Measured and predicted collapse of every size, by N."""
    dims, points = results.settings["dims"], results.settings["points"]
    figure, ax = axes(high=HIGH + 0.4)
    ax.set_facecolor(NAVIGATION)
    fine = np.geomspace(0.6 * min(points), 1.7 * max(points), 80)
    rows = {row[""]: row for row in rows_of(results)}
    for size, colour in zip(dims, ramp(len(dims), COOL), strict=True):
        ratio = np.sqrt(np.expm1(2 * np.log(fine) / size))
        ax.plot(fine, ratio / (1 + ratio), color=colour, lw=1.3)
        found = [rows[f"D={size} N={count}"] for count in points]
        middle = np.array([row["collapse"] for row in found])
        away = np.abs(np.array([[row["low"], row["high"]] for row in found]).T - middle)
        ax.errorbar(points, middle, away, fmt="o", ms=4, mew=0, lw=1.2, capsize=2, color=colour)
        ax.annotate(
            f"D = {size:,}",
            (fine[-1], (ratio / (1 + ratio))[-1]),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )
    _logarithmic(ax, points, fine)
    ax.set_ylabel("time of collapse (mean own weight ½)")
    _say(ax, "lines: r = √(N^(2/D) − 1)\npoints: measured, 95 %", place=(0.03, 0.97))
    saved = results.values["table"]
    names = [name or "size" for name in saved["columns"]]
    columns = dict(zip(names, map(list, zip(*saved["rows"], strict=True)), strict=True))
    return Drawing(
        "figure-3-collapse",
        "The time of collapse by the number of points for several dimensions, measured and r ="
        " √(N^(2/D) − 1)",
        figure,
        columns,
    )


def _logarithmic(ax: Axes, points: list[int], fine: NDArray[np.float64]) -> None:
    ax.set_xscale("log")
    ax.set_xlim(fine[0], fine[-1])
    ax.set_ylim(0, None)
    ax.xaxis.set_major_locator(FixedLocator(points))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("points N")


def _say(ax: Axes, words: str, place: tuple[float, float] = (0.97, 0.06)) -> None:
    left = place[0] < 0.5
    ax.annotate(
        words,
        place,
        xycoords="axes fraction",
        ha="left" if left else "right",
        va="top" if left else "bottom",
        color=QUIET,
        fontsize=8,
    )


def _columns(results: Results) -> dict[str, list[Any]]:
    """All sizes below each other."""
    columns: dict[str, list[Any]] = {"dims": [], "points": []}
    names = ("t", "max_weight", "max_weight_error", "self_weight", "self_weight_error", "closed")
    columns |= {name: [] for name in names}
    for dims in results.settings["dims"]:
        for points in results.settings["points"]:
            arrays = {name: results.arrays[_key((dims, points), name)] for name in names}
            columns["dims"] += [dims] * len(arrays["t"])
            columns["points"] += [points] * len(arrays["t"])
            for name, array in arrays.items():
                columns[name] += array.tolist()
    return columns


def _array(results: Results, cell: Cell, name: str) -> NDArray[np.float64]:
    return numbers(results.arrays[_key(cell, name)])


def _key(cell: Cell, name: str) -> str:
    return f"D={cell[0]} N={cell[1]}/{name}"
