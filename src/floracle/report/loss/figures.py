"""The figures of losses: how far fields are from the oracle, and how they do on unseen data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from floracle.analysis.curves import Curve
from floracle.analysis.loss.results import (
    UNKNOWN,
    LossComparison,
    confidence_interval,
    loss_difference,
)
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
    name_ends,
    numbers,
)

COLOURS = (BLUE, ORANGE, TEAL, VIOLET, INK)
"""Of fields, in their order."""
FLOOR = 1e-4
"""Losses below this share of the largest gap are not drawn."""
DOTTED, DASHED = (0, (1, 1.6)), (0, (4, 1.6))
WIDEST = 2.5
"""Intervals may leave the drawing where they are this much wider than the curves reach."""

Points = NDArray[np.float64]


def loss_drawings(found: LossComparison) -> dict[str, Drawing]:
    """All figures of losses, by name."""
    found = visibly(found)
    first = next(iter(found.path.values()))
    with mpl.rc_context(STYLE):
        drawings = [by_time(found)]
        if "difference" in first.classes[0].curves:
            drawings.append(unseen(found))
        if len(found.path) > 1 and bool((first.mean_curves()["oracle"].mean > 0).all()):
            drawings.append(between(found))
    return {drawing.name: drawing for drawing in drawings}


def visibly(found: LossComparison) -> LossComparison:
    """Losses by names that can be shown."""
    path, own = (
        {visible(name): loss for name, loss in losses.items()}
        for losses in (found.path, found.own)
    )
    return replace(found, path=path, own=own)


def by_time(found: LossComparison) -> Drawing:
    """The oracle loss of every field on the path, and dashed on its own trajectories."""
    figure, ax = axes()
    _time_axis(ax)
    gap = next(iter(found.path.values())).mean_curves()["gap"]
    curves: dict[str, tuple[Curve, str, Any]] = {"gap": (gap, QUIET, DOTTED)}
    for (name, loss), colour in zip(found.path.items(), COLOURS, strict=False):
        curves[name] = (loss.mean_curves()["oracle"], colour, "-")
        if name in found.own:
            curves[f"{name}, own states"] = (
                found.own[name].mean_curves()["oracle"],
                colour,
                DASHED,
            )
    low, high = FLOOR * float(gap.mean.max()), 0.0
    for curve, _, _ in curves.values():
        high = max(high, float(curve.mean.max()))
    seen = [curve.mean[curve.mean > low] for curve, _, _ in curves.values()]
    least = min((float(means.min()) for means in seen if len(means)), default=low)
    ax.set_yscale("log")
    ax.set_ylim(max(low, 0.4 * least) or 0.1, 3 * high or 10.0)
    times, drawn = numbers(next(iter(found.path.values())).times), {}
    for name, (curve, colour, style) in curves.items():
        drawn[name] = _in_logs(ax, times, curve, colour, style)
    inks = {inscription(name): colour for name, (_, colour, _) in curves.items()}
    drawn = {inscription(name): points for name, points in drawn.items() if len(points)}
    name_curves(ax, drawn, [inks[name] for name in drawn], lines=np.array([]))
    ax.minorticks_off()
    ax.set_ylabel("squared distance a dimension")
    return Drawing(
        "oracle-loss",
        f"Squared distance from the oracle by time of {', '.join(found.path)}; dotted, the gap",
        figure,
        _columns(times, {name: curve for name, (curve, _, _) in curves.items()}),
    )


@dataclass(frozen=True)
class Beside:
    """By how many percent one loss is above another, by time, with an interval; [T] each."""

    mean: Points
    low: Points
    high: Points
    sure: Sequence[bool]
    """Where it is drawn as a full point."""
    colour: str
    style: Any = "-"

    @property
    def parts(self) -> Points:
        """All that is drawn, [3, T]."""
        return np.stack([self.low, self.mean, self.high])


def unseen(found: LossComparison) -> Drawing:
    """How much more unseen data costs than training data at the same noise, in percent."""
    curves = {}
    for (name, loss), colour in zip(found.path.items(), COLOURS, strict=False):
        whole = loss.mean_curves()
        parts = whole["difference"].mean, *confidence_interval(whole["difference"], loss.pairs)
        mean, low, high = (100 * numbers(part / whole["conditional"].mean) for part in parts)
        curves[name] = Beside(mean, low, high, [True] * len(mean), colour)
    figure, times = _around_nothing(found, curves, "unseen − training / %")
    names = ", ".join(curves)
    alt = f"How much more unseen data costs than training data, in percent by time, of {names}"
    return Drawing("unseen", alt, figure, _percent_columns(times, curves))


def between(found: LossComparison) -> Drawing:
    """By how much the losses of the others differ from those of the first field, in percent."""
    first, *others = found.path
    curves = {}
    for name, colour in zip(others, COLOURS[1:], strict=False):
        curves[name] = _differing(found, name, "oracle", (colour, "-"))
        if "held_out" in found.path[first].classes[0].by_pair:
            curves[f"{name}, unseen data"] = _differing(found, name, "held_out", (colour, DASHED))
    beside = inscription(_short(first))
    figure, times = _around_nothing(found, curves, f"loss beside that of {beside} / %")
    alt = f"Losses of {', '.join(others)} beside those of {first}, in percent by time"
    return Drawing("between", alt, figure, _percent_columns(times, curves))


def _differing(found: LossComparison, name: str, loss: str, drawn: tuple[str, Any]) -> Beside:
    first = next(iter(found.path.values()))
    differs, base = (
        loss_difference(found.path[name], first, loss),
        numbers(first.mean_curves()[loss].mean),
    )
    parts = (differs.curve.mean, differs.low, differs.high)
    sure = [verdict != UNKNOWN for verdict in differs.verdicts()]
    mean, low, high = (100 * numbers(part) / base for part in parts)
    return Beside(mean, low, high, sure, *drawn)


def _around_nothing(
    found: LossComparison, curves: Mapping[str, Beside], label: str
) -> tuple[Figure, Points]:
    """Curves and their intervals about a line at 0; hollow points where nothing is sure."""
    figure, ax = axes()
    _time_axis(ax)
    ax.axhline(0, color=QUIET, lw=0.8, zorder=1)
    times, drawn = numbers(next(iter(found.path.values())).times), {}
    bottom, top = _limits(curves)
    ax.set_ylim(bottom, top)
    for name, one in curves.items():
        ax.fill_between(times, one.low, one.high, color=one.colour, alpha=0.18, lw=0)
        ax.plot(times, one.mean, color=one.colour, ls=one.style)
        for t, value, known in zip(times, one.mean, one.sure, strict=True):
            face = one.colour if known else PAPER
            ax.plot([t], [value], "o", ms=3.6, mfc=face, mec=one.colour, mew=0.9, zorder=4)
        points = np.concatenate([_dense(np.stack([times, line], 1)) for line in one.parts])
        drawn[name] = points[(points[:, 1] >= bottom) & (points[:, 1] <= top)]
    zero = _dense(np.array([[0.0, 0.0], [1.0, 0.0]]))
    named = {inscription(name): np.concatenate([points, zero]) for name, points in drawn.items()}
    name_curves(ax, named, [one.colour for one in curves.values()], lines=np.array([]))
    ax.set_ylabel(label)
    return figure, times


def _limits(curves: Mapping[str, Beside]) -> tuple[float, float]:
    """From below to above all curves and 0; intervals may be cut off where they are too wide."""
    reach = WIDEST * max(float(np.abs(one.mean).max()) for one in curves.values())
    parts = np.concatenate([one.parts for one in curves.values()]).clip(-reach, reach)
    low, high = min(0.0, float(parts.min())), max(0.0, float(parts.max()))
    room = 0.12 * (high - low) or 1.0
    return low - room, high + room


def _time_axis(ax: Axes) -> None:
    ax.set_xlim(0, 1)
    ax.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    name_ends(ax, "noise", "data")


def _in_logs(ax: Axes, times: Points, curve: Curve, colour: str, style: Any) -> Points:
    """A curve with two errors on either side; the points [n, 2] of what is inside the axes."""
    mean, error = numbers(curve.mean), np.nan_to_num(numbers(curve.error), posinf=0)
    bottom, top = ax.get_ylim()
    low, high = np.maximum(mean - 2 * error, bottom / 10), mean + 2 * error
    shown = np.maximum(mean, bottom / 10)
    ax.fill_between(times, low, high, color=colour, alpha=0.18, lw=0)
    ax.plot(times, shown, color=colour, ls=style, lw=1.8 if style != DOTTED else 1.4)
    if style != DOTTED:
        ax.plot(times, shown, "o", ms=2.6, mew=0, color=colour)
    logs = _dense(np.stack([times, np.log(shown)], 1))
    points = np.stack([logs[:, 0], np.exp(logs[:, 1])], 1)
    return points[(points[:, 1] >= bottom) & (points[:, 1] <= top)]


def _dense(line: Points) -> Points:
    """Points [n, 2] along a line through points."""
    fine = np.linspace(line[0, 0], line[-1, 0], 160)
    return np.stack([fine, np.interp(fine, line[:, 0], line[:, 1])], 1)


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def _columns(times: Points, curves: Mapping[str, Curve]) -> dict[str, list]:
    columns: dict[str, list] = {"t": times.tolist()}
    for name, curve in curves.items():
        columns |= {name: curve.mean.tolist(), f"{name}_error": curve.error.tolist()}
    return columns


def _percent_columns(times: Points, curves: Mapping[str, Beside]) -> dict[str, list]:
    columns: dict[str, list] = {"t": times.tolist()}
    for name, one in curves.items():
        columns |= {name: one.mean.tolist(), f"{name}_low": one.low.tolist()}
        columns |= {f"{name}_high": one.high.tolist()}
    return columns
