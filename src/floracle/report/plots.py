"""One style for every drawing: sizes, colours, time axes, landmarks, and how they are written.

Colours are told apart by colour-blind readers (after Okabe & Ito) and each is a named variable in
the page, so that an inline SVG follows the reader's light or dark setting.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from floracle.analysis.interpolation import MeasuredTimes
from floracle.analysis.stages.result import ClassStages
from floracle.report.formatting import format_time

INK = "#1c2128"
QUIET = "#667080"
RULE = "#d4d9e1"
PAPER = "#fefefe"
NAVIGATION = "#e9f1fb"
REFINEMENT = "#fdf2e6"
BLUE = "#1f6fb4"
ORANGE = "#c9561a"
TEAL = "#12876a"
VIOLET = "#8457b8"
VARIABLES = {
    INK: "ink",
    QUIET: "quiet",
    RULE: "rule",
    PAPER: "paper",
    NAVIGATION: "navigation",
    REFINEMENT: "refinement",
    BLUE: "blue",
    ORANGE: "orange",
    TEAL: "teal",
    VIOLET: "violet",
}
"""Which variable of the page stands for a colour of the drawings."""

WIDE, HIGH = 5.3, 3.35
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "floracle",
    "legend.frameon": False,
}
PIXELS_PER_INCH = 180
FINE = 160
"""Times at which a curve is drawn between its measured points."""
NEXT = 1e-3
"""Times so near to an end are hidden there on an even axis."""
LONG = 16
"""Letters of a landmark's name beyond which two do not stand beside each other."""
OfTimes = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Drawing:
    """A figure, what it shows in words, and the numbers it is drawn from."""

    name: str
    alt: str
    figure: Figure
    columns: Mapping[str, Sequence[Any]]

    def png(self) -> bytes:
        """As a PNG file."""
        return self._written("png", dpi=PIXELS_PER_INCH, metadata={"Software": "floracle"})

    def svg(self) -> str:
        """As an SVG file that always gives the same bytes."""
        with mpl.rc_context({"svg.hashsalt": self.name}):
            return self._written("svg", metadata={"Date": None}).decode()

    def inline(self) -> str:
        """As SVG markup for a page: colours by variable, no prologue, described in words."""
        markup = self.svg()
        markup = markup[markup.index("<svg") :]
        markup = re.sub(r"<metadata>.*?</metadata>", "", markup, flags=re.DOTALL)
        markup = re.sub(r' xmlns(:\w+)?="[^"]*"', "", markup)
        markup = markup.replace("xlink:href", "href")
        for colour, variable in VARIABLES.items():
            markup = markup.replace(colour, f"var(--{variable})")
        return re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', markup, count=1)

    def csv(self) -> str:
        """The numbers, in full precision."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(zip(*self.columns.values(), strict=True))
        return file.getvalue()

    def _written(self, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        with mpl.rc_context({key: STYLE[key] for key in ("svg.fonttype",)}):
            self.figure.savefig(file, format=kind, **options)
        return file.getvalue()


def axes(*, wide: float = WIDE, high: float = HIGH) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes; call it inside `rc_context(STYLE)`."""
    figure = Figure(figsize=(wide, high), layout="constrained")
    return figure, figure.add_subplot()


def numbers(values: Any) -> NDArray[np.float64]:
    """A tensor as a float64 array."""
    return np.asarray(values, dtype=np.float64)


def time_axis(ax: Axes, group: ClassStages, *, stretch: bool = True) -> None:
    """Time from noise to data; stretched so that the collapse stays near the middle."""
    collapse = group.collapse.value or group.predicted_collapse
    ax.set_xlim(0, 1)
    if stretch and 0 < collapse < 1 and not 0.25 <= collapse <= 0.75:
        ax.set_xscale("function", functions=stretched(collapse))
        ax.set_xlim(0, 1)
    ticks = spread_ticks(ax)
    ax.set_xticks(ticks, [time_words(tick) for tick in ticks])
    ax.minorticks_off()
    name_ends(ax, "noise", "data")


def stretched(middle: float) -> tuple[OfTimes, OfTimes]:
    """An axis that has a time in its middle, its ends in place: from times to places, and back."""
    odds = middle / (1 - middle)
    return (
        lambda t: t / (t + odds * (1 - t)),
        lambda u: odds * u / (1 - u + odds * u),
    )


def name_ends(ax: Axes, first: str, last: str) -> None:
    """Say what lies at both ends of a time axis."""
    ax.set_xlabel("time t")
    for place, word, side in ((0, first, "left"), (1, last, "right")):
        ax.annotate(
            word,
            (place, 0),
            (0, -27),
            xycoords="axes fraction",
            textcoords="offset points",
            ha=side,
            va="center",
            color=INK,
            fontweight="bold",
            fontsize=9,
        )


def height(value: float) -> float:
    """Where an axis from 0 ends that is to show a value; 1 where the value is 0."""
    return value if value > 0 else 1.0


def say_settled(ax: Axes, group: ClassStages) -> None:
    """Say why curves do not move, where a group has a single point."""
    if group.single_point:
        ax.annotate(
            "a single distinct point:\nnothing to know at any time",
            (0.5, 0.5),
            xycoords="axes fraction",
            ha="center",
            va="center",
            color=QUIET,
            fontsize=9,
        )


def spread_ticks(ax: Axes, least: float = 0.12) -> list[float]:
    """Round times at least `least` of the axis apart, both ends among them."""
    fine = [0.0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    if ax.get_xscale() == "linear":
        return [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    place = ax.transScale.transform
    low, high = (place((t, 1))[0] for t in (0.0, 1.0))
    kept = [0.0]
    for tick in fine[1:-1]:
        here, before = place((tick, 1))[0], place((kept[-1], 1))[0]
        if here - before >= least * (high - low) and high - here >= least * (high - low):
            kept.append(tick)
    return [*kept, 1.0]


def time_words(t: float) -> str:
    """A time as an axis shows it."""
    return f"{t:.3g}"


def shade_stages(ax: Axes, group: ClassStages) -> None:
    """Navigation and refinement as ground, landmarks as lines with their names above."""
    end = group.end.value
    ax.axvspan(0, 1 if end is None else end, color=NAVIGATION, lw=0, zorder=0)
    if end is not None:
        ax.axvspan(end, 1, color=REFINEMENT, lw=0, zorder=0)
    reached = [
        (name, mark.value)
        for name, mark in (
            ("centre", group.centre),
            ("collapse", group.collapse),
            ("end", group.end),
        )
        if mark.value is not None
    ]
    places = [_place(ax, value) for _, value in reached]
    names = [f"{name} {format_time(value)}" for name, value in reached]
    long = any(len(name) > LONG for name in names)
    for i, (_, value) in enumerate(reached):
        ax.axvline(value, color=QUIET, lw=0.9, ls=(0, (4, 2)), zorder=1)
        crowded = i > 0 and places[i] - places[i - 1] < 0.17 and i % 2 == 1
        lifted = i if long else int(crowded)
        ax.annotate(
            names[i],
            (places[i], 1),
            (0, 4 + 11 * lifted),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=INK,
        )


def _place(ax: Axes, value: float) -> float:
    """Where a time lies along the axis, as a share of its length."""
    low, high, here = (ax.transScale.transform((t, 1))[0] for t in (0.0, 1.0, value))
    return float((here - low) / (high - low))


def band(
    ax: Axes,
    times: Any,
    curve: Any,
    colour: str,
    *,
    along: Any = None,
    between: Callable[[Any], Any] | None = None,
) -> None:
    """A curve through its measured points, with two standard errors on either side.

    Between them it is followed `along` what is predicted to be known, or is what `between` says.
    """
    mean, error = numbers(curve.mean), np.nan_to_num(numbers(curve.error), posinf=0)
    if between is None:
        x, low, middle, high = smooth(times, mean - 2 * error, mean, mean + 2 * error, along=along)
    else:
        x = smooth(times, mean)[0]
        found = between(torch.from_numpy(x))
        middle, apart = numbers(found.mean), 2 * np.nan_to_num(numbers(found.error), posinf=0)
        low, high = middle - apart, middle + apart
    ax.fill_between(x, low, high, color=colour, alpha=0.22, lw=0)
    ax.plot(x, middle, color=colour)
    ax.plot(numbers(times), mean, "o", ms=1.9, mew=0, color=colour)


def smooth(
    times: Any, *curves: NDArray[np.float64], along: Any = None
) -> list[NDArray[np.float64]]:
    """Finer times, and curves through all their points that rise and fall only where these do.

    Curves are followed `along` what is predicted to be known at times, or t; where half of the
    times lie next to an end, the finer ones lie along an axis that is stretched, and so do curves
    of which nothing is predicted.
    """
    t = numbers(times)
    middle = float(np.median(t))
    if NEXT <= middle <= 1 - NEXT or not 0 < middle < 1:
        fine = np.unique(np.concatenate([t, np.linspace(t[0], t[-1], FINE)]))
        return [fine, *MeasuredTimes(t, along).values(np.stack(curves), fine)]
    stretch, back = stretched(middle)
    places = stretch(t)
    fine = np.unique(np.concatenate([places, np.linspace(places[0], places[-1], FINE)]))
    if along is None:
        return [back(fine), *MeasuredTimes(places).values(np.stack(curves), fine)]
    return [back(fine), *MeasuredTimes(t, along).values(np.stack(curves), back(fine))]


def label_at(
    ax: Axes,
    group: ClassStages,
    curve: tuple[Any, Any],
    level: float,
    name: str,
    *,
    colour: str,
    side: str,
) -> None:
    """Name a curve (times, values) beside the place where it passes a level.

    `side` is the side of the name that faces the curve: "right" puts it on its left.
    """
    if group.single_point:  # its curves lie on top of each other
        return
    x, *rest = smooth(curve[0], numbers(curve[1]))
    y = rest[0]
    passed = np.flatnonzero((y[:-1] - level) * (y[1:] - level) <= 0)
    if not len(passed):
        return
    i = passed[0]
    share = 0.0 if y[i + 1] == y[i] else (level - y[i]) / (y[i + 1] - y[i])
    place = x[i] + share * (x[i + 1] - x[i])
    end = 1.0 if group.end.value is None else group.end.value
    ground = NAVIGATION if place < end else REFINEMENT
    ax.annotate(
        name,
        (place, level),
        (-6 if side == "right" else 6, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        color=colour,
        fontsize=9,
        bbox={"facecolor": ground, "edgecolor": "none", "pad": 0.6},
    )
