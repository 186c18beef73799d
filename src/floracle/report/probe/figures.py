"""The figures of probed fields: what is left of their predictions, how fast they move and turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.analysis.trajectories.probe import ProbeResult
from floracle.report.label_placement import name_curves
from floracle.report.names import inscription, visible
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
    name_ends,
    numbers,
    smooth,
)

COLOURS = (BLUE, ORANGE, TEAL, VIOLET, QUIET)
"""Of fields, in their order; the oracle is drawn in ink."""
CURVES = {
    "remaining": "share of the way still to go",
    "layout": "share of the layout still to go",
    "speed": "velocity norm / √D",
    "change": "change of x̂ by t / √D",
    "turning": "turning of v by t / √D",
}
LEAST = 1e-2
"""Turning below this, relative to the most there is, is not drawn."""
STRIP, NAMES, BETWEEN_SEEDS = 7.4, 1.7, 0.25
"""The width of strips in inches; of names, and between seeds, in pictures."""
BESIDE: Any = {"ha": "right", "va": "center", "fontsize": 8}
CALM = 0.9
"""Speeds later than this do not set the scale: the velocity divides by 1 − t."""


@dataclass(frozen=True)
class ProbedFields:
    """A probe with its name, and pictures of its predictions where samples can be shown."""

    name: str
    probe: ProbeResult
    oracle: bool = False
    pictures: Tensor | None = None
    """Bytes [k, K, C, H, W] at the times the probe has shown."""


def probe_drawings(fields: Sequence[ProbedFields]) -> dict[str, Drawing]:
    """All figures of fields that were probed alike, by name."""
    with mpl.rc_context(STYLE):
        found = [_drawn(fields, name) for name in CURVES if name in fields[0].probe.columns]
        if all(each.pictures is not None for each in fields):
            found.append(strips(fields))
    return {drawing.name: drawing for drawing in found}


def _drawn(fields: Sequence[ProbedFields], name: str) -> Drawing:
    """One curve of every field by time."""
    figure, ax = axes()
    ax.set_xlim(0, 1)
    ax.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    name_ends(ax, "noise", "data")
    ax.set_ylabel(CURVES[name])
    share = name in ("remaining", "layout")
    curves = {visible(each.name): each.probe.curve(name) for each in fields}
    _limits(ax, fields, name)
    points = {}
    for each, colour in zip(fields, colours(fields), strict=True):
        times = each.probe.times(name)
        label = inscription(each.name)
        points[label] = _line(ax, times, curves[visible(each.name)], colour)
        if share:
            marked = _mark(ax, each.probe, name, colour)
            points[label] = np.concatenate([points[label], marked])
    seen = {key: some for key, some in points.items() if len(some)}
    inks = dict(zip(points, colours(fields), strict=True))
    name_curves(ax, seen, [inks[key] for key in seen], lines=np.array([]))
    columns: dict[str, list] = {"t": fields[0].probe.times(name).tolist()}
    for label, curve in curves.items():
        columns |= {label: curve.mean.tolist(), f"{label}_error": curve.error.tolist()}
    names = ", ".join(curves)
    return Drawing(name, f"{CURVES[name]}, by time, of {names}", figure, columns)


def _limits(ax: Axes, fields: Sequence[ProbedFields], name: str) -> None:
    """The upright axis: shares from 0 to 1, turning in logarithms, the others as far as needed."""
    means = [numbers(each.probe.curve(name).mean) for each in fields]
    if name in ("remaining", "layout"):
        threshold = fields[0].probe.threshold
        ax.set_ylim(0, max(1.04, *(1.04 * mean.max() for mean in means)))
        ax.axhline(threshold, color=QUIET, lw=0.8, ls=(0, (1, 2)), zorder=1)
        ax.axvline(fields[0].probe.until, color=QUIET, lw=0.8, ls=(0, (1, 2)), zorder=1)
    elif name == "turning":
        highest = max(mean.max() for mean in means) or 1.0
        ax.set_yscale("log")
        ax.set_ylim(LEAST * highest, 2 * highest)
        ax.minorticks_off()
    elif name == "speed":
        early = numbers(fields[0].probe.times(name)) <= CALM
        low = min(mean[early].min() for mean in means)
        high = max(mean[early].max() for mean in means)
        room = max(0.3 * (high - low), 0.02 * high)
        ax.set_ylim(max(0.0, low - room), high + room or 1.0)
    else:
        ax.set_ylim(0, 1.08 * max(mean.max() for mean in means) or 1.0)


def _line(ax: Axes, times: Tensor, curve: Curve, colour: str) -> NDArray[np.float64]:
    """Draw a curve with its band; the points [n, 2] of the part that is inside the axes."""
    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        mean = numbers(curve.mean)
        kept = mean > low
        ax.plot(numbers(times)[kept], mean[kept], "-o", ms=1.9, mew=0, color=colour)
        return np.stack([numbers(times)[kept], mean[kept]], 1)
    band(ax, times, curve, colour)
    fine, line = smooth(times, numbers(curve.mean))
    inside = (line >= low) & (line <= high)
    return np.stack([fine, line], 1)[inside]


def _mark(ax: Axes, probe: ProbeResult, name: str, colour: str) -> NDArray[np.float64]:
    """The transition, where it is reached, as a dot on the threshold with two errors."""
    found = probe.settling(name)
    if found.value is None:
        return np.zeros((0, 2))
    error = found.error if np.isfinite(found.error) else 0.0
    ax.errorbar(
        [found.value], [probe.threshold], xerr=[2 * error], fmt="o", ms=5.5, mfc=colour,
        mec=PAPER, mew=0.8, ecolor=colour, elinewidth=1.2, capsize=2.5, zorder=4,
    )  # fmt: skip
    reach = np.linspace(-2 * error, 2 * error, 20)
    return np.stack([found.value + reach, np.full(20, probe.threshold)], 1)


def strips(fields: Sequence[ProbedFields], seeds: int = 3) -> Drawing:
    """Predictions of all fields from the same seeds as pictures, times across."""
    shown = fields[0].probe.prediction_times.tolist()
    count = min(seeds, *(len(_pictures(each)) for each in fields))
    names, inks = [visible(each.name) for each in fields], colours(fields)
    high = (len(fields) + BETWEEN_SEEDS) * count - BETWEEN_SEEDS + 0.45
    wide = len(shown) + NAMES
    figure = Figure(figsize=(STRIP, STRIP * high / wide))
    ax = figure.add_axes((0, 0, 1, 1))
    for i in range(count):
        for row, each in enumerate(fields):
            below = 0.45 + i * (len(fields) + BETWEEN_SEEDS) + row
            for k, picture in enumerate(_pictures(each)[i]):
                pixels = picture.expand(3, -1, -1).movedim(0, -1).numpy()
                ax.imshow(pixels, extent=(k, k + 0.95, below + 0.95, below), interpolation="none")
            ax.text(-0.1, below + 0.47, inscription(_short(each.name)), color=inks[row], **BESIDE)
    for k, t in enumerate(shown):
        ax.text(k + 0.47, 0.2, f"{t:.3g}", color=QUIET, ha="center", va="center", fontsize=8)
    ax.text(-0.1, 0.2, "t", color=QUIET, **BESIDE)
    ax.set(xlim=(-NAMES, len(shown)), ylim=(high, 0), aspect="equal")
    ax.set_axis_off()
    alt = f"Predictions of {', '.join(names)} from {count} seeds at {len(shown)} times"
    return Drawing("predictions", alt, figure, {"t": shown})


def colours(fields: Sequence[ProbedFields]) -> list[str]:
    """A colour for each field."""
    others = iter(COLOURS)
    return [INK if each.oracle else next(others) for each in fields]


def _pictures(each: ProbedFields) -> Tensor:
    assert each.pictures is not None
    return each.pictures


def _short(name: str) -> str:
    name = visible(name)
    return name if len(name) <= 14 else f"{name[:13]}…"
