"""The figures of losses: how far fields are from the oracle, and how they do on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from floracle.analysis.curves import Curve
from floracle.analysis.loss.results import (
    UNKNOWN,
    LossComparison,
    confidence_interval,
    loss_difference,
)
from floracle.report.figure import Columns, Drawing, figure_style
from floracle.report.label_placement import name_curves
from floracle.report.names import inscription, shorten, visible
from floracle.report.plots import (
    Values,
    curve_columns,
    draw_lines,
    draw_log_band,
    even_time_axis,
    inside,
    new_axes,
    smooth,
    to_numpy,
    two_errors,
)
from floracle.report.style import CURVE_COLOURS, DASHED, DOTTED, PAPER, QUIET

FIELD_COLOURS = CURVE_COLOURS[:5]
"""Of fields, in their order; the sixth colour is that of the gap."""
LEAST_LOSS = 1e-4
"""Losses below this share of the largest gap are not drawn."""
WIDEST_INTERVAL = 2.5
"""Intervals may leave the figure where they are wider than this times the largest mean."""


def loss_figures(losses: LossComparison) -> list[Drawing]:
    """All figures of losses."""
    losses = with_visible_names(losses)
    first = next(iter(losses.path.values()))
    with figure_style():
        drawings = [_draw_oracle_loss(losses)]
        if "difference" in first.classes[0].curves:
            drawings.append(_draw_held_out(losses))
        if len(losses.path) > 1 and bool((first.mean_curves()["oracle"].mean > 0).all()):
            drawings.append(_draw_between(losses))
    return drawings


def with_visible_names(losses: LossComparison) -> LossComparison:
    """The losses of fields by names that can be shown."""
    path, trajectories = (
        {visible(name): loss for name, loss in by_name.items()}
        for by_name in (losses.path, losses.own)
    )
    return replace(losses, path=path, own=trajectories)


def _draw_oracle_loss(losses: LossComparison) -> Drawing:
    """‖v − u*‖² of every field on the path, and dashed on its own trajectories."""
    figure, ax = new_axes()
    even_time_axis(ax)
    first = next(iter(losses.path.values()))
    gap = first.mean_curves()["gap"]
    curves: dict[str, Curve] = {"gap": gap}
    styles: dict[str, tuple[str, Any]] = {"gap": (QUIET, DOTTED)}
    for (name, loss), colour in zip(losses.path.items(), FIELD_COLOURS, strict=False):
        curves[name], styles[name] = loss.mean_curves()["oracle"], (colour, "-")
        if name in losses.own:
            title = f"{name}, own trajectories"
            curves[title] = losses.own[name].mean_curves()["oracle"]
            styles[title] = (colour, DASHED)
    # The axis holds all that is above LEAST_LOSS of the gap; curves below leave it.
    floor = LEAST_LOSS * float(gap.mean.max())
    high = max(0.0, *(float(curve.mean.max()) for curve in curves.values()))
    visible_means = [curve.mean[curve.mean > floor] for curve in curves.values()]
    low = min((float(m.min()) for m in visible_means if len(m)), default=floor)
    ax.set_yscale("log")
    # Margins of a logarithmic axis are factors: .4 below all curves and 3 above them.
    ax.set_ylim(max(floor, 0.4 * low) or 0.1, 3 * high or 10.0)
    # A tenth below the axis: 0 has no logarithm, and a line at its edge would be seen.
    bottom, points = ax.get_ylim()[0] / 10, {}
    for name, curve in curves.items():
        colour, style = styles[name]
        low_line, mean, high_line = (np.maximum(v, bottom) for v in two_errors(curve))
        lines = draw_log_band(ax, first.times, (low_line, mean, high_line), colour, style=style)
        points[inscription(name)] = inside(ax, lines)
    name_curves(ax, points, [colour for colour, _ in styles.values()])
    ax.minorticks_off()
    ax.set_ylabel("squared distance per dimension")
    return Drawing(
        "oracle-loss",
        f"Squared distance from the oracle by time of {', '.join(losses.path)}; dotted, the gap",
        figure,
        curve_columns(first.times, curves),
        "Oracle loss: the mean squared distance from the oracle velocity, per dimension. Dotted:"
        " the gap, or irreducible loss, which is the conditional variance of the training target"
        " and the part of the conditional loss that no model can remove. Dashed: the oracle loss"
        " on the model's own trajectories. Bands are two standard errors wide on either side.",
    )


@dataclass(frozen=True)
class _RelativeLoss:
    """By how many percent one loss is above another, by time, with an interval; [T] each."""

    mean: Values
    low: Values
    high: Values
    significant: Sequence[bool]
    """Where it is drawn as a full point."""
    colour: str
    style: Any = "-"


def _draw_held_out(losses: LossComparison) -> Drawing:
    """By how many percent the loss of held-out data exceeds that of training data."""
    curves = {}
    for (name, loss), colour in zip(losses.path.items(), FIELD_COLOURS, strict=False):
        means = loss.mean_curves()
        bounds = means["difference"].mean, *confidence_interval(means["difference"], loss.pairs)
        # 100 (L_held-out − L_training) / L_training, in percent; [T] each
        mean, low, high = (100 * to_numpy(bound / means["conditional"].mean) for bound in bounds)
        curves[name] = _RelativeLoss(mean, low, high, [True] * len(mean), colour)
    figure, times = _draw_relative(losses, curves, "held-out − training / %")
    return Drawing(
        "held-out",
        "How much the loss of held-out data exceeds that of training data, in percent by time, of"
        f" {', '.join(curves)}",
        figure,
        _relative_columns(times, curves),
        "By how much the conditional loss of held-out data exceeds that of training data at the"
        " same noise and time, with 95 % intervals for each time alone. Above 0 the field tells"
        " its training data from other data, if both sets have the same distribution.",
    )


def _draw_between(losses: LossComparison) -> Drawing:
    """By how many percent the losses of the others exceed those of the first field."""
    first, *others = losses.path
    curves = {}
    for name, colour in zip(others, FIELD_COLOURS[1:], strict=False):
        curves[name] = _relative_to_first(losses, name, "oracle", colour, "-")
        if "held_out" in losses.path[first].classes[0].by_pair:
            dashed = _relative_to_first(losses, name, "held_out", colour, DASHED)
            curves[f"{name}, held-out data"] = dashed
    label = f"loss relative to {inscription(shorten(first, 20))} / %"
    figure, times = _draw_relative(losses, curves, label)
    return Drawing(
        "between",
        f"Losses of {', '.join(others)} relative to those of {first}, in percent by time",
        figure,
        _relative_columns(times, curves),
        f"By how much the oracle loss differs from that of {first}, on the same pairs and noise;"
        " dashed, the same for the loss of held-out data. The 95 % intervals hold at all times"
        " together; hollow points are not significant.",
    )


def _relative_to_first(
    losses: LossComparison, name: str, loss: str, colour: str, style: Any
) -> _RelativeLoss:
    first = next(iter(losses.path.values()))
    difference = loss_difference(losses.path[name], first, loss)
    base = to_numpy(first.mean_curves()[loss].mean)
    bounds = (difference.curve.mean, difference.low, difference.high)
    # 100 (L − L_first) / L_first, in percent; the intervals hold at all times together.
    mean, low, high = (100 * to_numpy(bound) / base for bound in bounds)
    significant = [verdict != UNKNOWN for verdict in difference.verdicts()]
    return _RelativeLoss(mean, low, high, significant, colour, style)


def _draw_relative(
    losses: LossComparison, curves: Mapping[str, _RelativeLoss], label: str
) -> tuple[Figure, Values]:
    """Curves and their intervals about a line at 0; hollow points where not significant."""
    figure, ax = new_axes()
    even_time_axis(ax)
    ax.axhline(0, color=QUIET, lw=0.8, zorder=1)
    times = to_numpy(next(iter(losses.path.values())).times)
    ax.set_ylim(*_relative_limits(curves))
    zero = np.stack([np.linspace(0, 1, 160), np.zeros(160)], 1)  # no name on the line at 0
    points = {}
    for name, curve in curves.items():
        lines = smooth(times, curve.low, curve.mean, curve.high)
        visible_points = inside(ax, draw_lines(ax, lines, curve.colour, curve.style))
        points[inscription(name)] = np.concatenate([visible_points, zero])
        for t, value, significant in zip(times, curve.mean, curve.significant, strict=True):
            face = curve.colour if significant else PAPER
            ax.plot([t], [value], "o", ms=3.6, mfc=face, mec=curve.colour, mew=0.9, zorder=4)
    name_curves(ax, points, [curve.colour for curve in curves.values()])
    ax.set_ylabel(label)
    return figure, times


def _relative_limits(curves: Mapping[str, _RelativeLoss]) -> tuple[float, float]:
    """From below to above all curves and 0; intervals may be cut off where they are too wide."""
    reach = WIDEST_INTERVAL * max(float(np.abs(curve.mean).max()) for curve in curves.values())
    lines = [line for curve in curves.values() for line in (curve.low, curve.mean, curve.high)]
    values = np.stack(lines).clip(-reach, reach)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    margin = 0.12 * (high - low) or 1.0  # 1: all curves are 0
    return low - margin, high + margin


def _relative_columns(times: Values, curves: Mapping[str, _RelativeLoss]) -> Columns:
    columns: Columns = {"t": times.tolist()}
    for name, curve in curves.items():
        columns |= {name: curve.mean.tolist(), f"{name}_low": curve.low.tolist()}
        columns |= {f"{name}_high": curve.high.tolist()}
    return columns
