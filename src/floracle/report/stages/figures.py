"""The figures of the stages report over time: each is a row of `FIGURES`.

A row says what a figure is called, shows and means, and which function draws its curves; that
function gets the axes and returns the columns of the CSV. A new curve is a new row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.analysis.stages.result import ClassStages, Stages
from floracle.report.figure import Columns, Drawing, figure_style
from floracle.report.formatting import format_nats
from floracle.report.plots import (
    FINE_TIMES,
    annotate,
    curve_columns,
    draw_band,
    draw_log_band,
    label_curve,
    smooth,
    stages_axes,
    to_numpy,
)
from floracle.report.style import BLUE, INK, ORANGE, QUIET, TEAL, THRESHOLD_DOTS, VIOLET

from .class_figures import (
    draw_classes,
    draw_predicted,
    draw_weights_of,
    measured_groups,
    predictable_groups,
)
from .examples import Examples

GAP_SCALE_UNTIL = 0.99
"""Later values do not set the scale of the gap, unless the collapse is later: the velocity divides
by 1 − t, so that errors at the last times may be large."""


class StagesFigure(NamedTuple):
    """A figure over time."""

    name: str
    alt: str
    ylabel: str
    caption: str
    draw: Callable[[Axes, Stages], Columns]
    held_out: str = ""
    """What the caption adds where the stages have held-out curves."""
    section: str = "stages"


class Line(NamedTuple):
    """A curve and its name beside it, where it passes a level of the upright axis."""

    curve: str
    name: str
    colour: str
    level: float
    side: str
    """The side of the name that faces the curve."""


def stages_figures(stages: Stages, examples: Examples | None) -> list[Drawing]:
    """All figures of stages and their examples."""
    held_out = "held_out_gap" in stages.main.curves
    drawings = []
    with figure_style():
        for row in FIGURES:
            figure, ax = stages_axes(stages.main)
            _note_single_point(ax, stages.main)
            ax.set_ylabel(row.ylabel)
            columns = row.draw(ax, stages)
            caption = row.caption + (f" {row.held_out}" if held_out and row.held_out else "")
            drawings.append(Drawing(row.name, row.alt, figure, columns, caption, row.section))
        if len(measured_groups(stages)) > 1:
            drawings += [draw_predicted(stages)] if predictable_groups(stages) else []
            drawings.append(draw_classes(stages))
        if examples is not None and examples.noisy is None:
            drawings += [draw_weights_of(stages, examples, i) for i in range(len(examples.rows))]
    return drawings


def _draw_weights(ax: Axes, stages: Stages) -> Columns:
    ax.set_ylim(0, 1.02)
    lines = (
        Line("max_weight", "largest weight", BLUE, 0.62, "right"),
        Line("self_weight", "weight of the\ntrue source", ORANGE, 0.3, "left"),
        Line("held_out_max_weight", "largest weight,\nheld-out data", VIOLET, 0.6, "left"),
    )
    return _draw_lines(ax, stages, lines)


def _draw_entropy(ax: Axes, stages: Stages) -> Columns:
    main, most = stages.main, stages.main.max_information
    ax.set_ylim(0, 1.04 * (most or 1.0))
    if not main.single_point:
        ax.axhline(most / 2, color=QUIET, lw=0.8, ls=THRESHOLD_DOTS)
        style = {"ha": "right", "va": "bottom", "color": QUIET}
        edge: Any = ("axes fraction", "data")
        annotate(ax, "½ H(w)", (1, most / 2), (-2, 3), coordinates=edge, **style)
    name = "training data" if "held_out_entropy" in main.curves else "entropy H(t)"
    lines = (
        Line("entropy", name, BLUE, 0.75 * most, "left"),
        Line("held_out_entropy", "held-out data", VIOLET, 0.25 * most, "left"),
    )
    return _draw_lines(ax, stages, lines)


def _draw_lines(ax: Axes, stages: Stages, lines: Sequence[Line]) -> Columns:
    """Those of the curves that were measured, with their names."""
    main = stages.main
    curves = {line.curve: main.curves[line.curve] for line in lines if line.curve in main.curves}
    for line in lines:
        if (curve := curves.get(line.curve)) is not None:
            # The prediction is that of training data; held-out curves are interpolated in t.
            held_out = line.curve.startswith("held_out")
            along = None if held_out else main.predicted_information
            draw_band(ax, stages.times, curve, line.colour, along=along)
            _label(ax, stages, line, curve.mean)
    return curve_columns(stages.times, curves)


def _draw_gap(ax: Axes, stages: Stages) -> Columns:
    """The gap per dimension, E ‖u* − (data − noise)‖² / D."""
    main, dims = stages.main, stages.dims

    def per_dimension(curve: Curve) -> Curve:
        return Curve(curve.mean / dims, curve.error / dims)

    def gap_between(times: Tensor) -> Curve:
        return per_dimension(stages.gap_at(times, label=main.label))

    gap = per_dimension(main.curves["gap"])
    draw_band(ax, stages.times, gap, BLUE, between=gap_between)
    last = max(GAP_SCALE_UNTIL, main.collapse.value or 0.0)
    early = torch.linspace(0, last, FINE_TIMES, dtype=torch.float64)
    # At fine times, since the gap may peak between two measured ones.
    highest = max(float(gap_between(early).mean.max()), 0.0) or 1.0
    curves = {"gap": main.curves["gap"]}
    if "held_out_gap" not in main.curves:
        ax.set_ylim(0, 1.15 * highest)
        _label(ax, stages, Line("gap", "gap", BLUE, 0.4 * highest, "left"), gap.mean)
    else:
        curves["held_out_gap"] = main.curves["held_out_gap"]
        held_out = per_dimension(main.curves["held_out_gap"])
        draw_band(ax, stages.times, held_out, VIOLET)
        # Held-out curves may rise far above the gap; what is above 2.2 of its peak is cut off.
        ax.set_ylim(0, 2.2 * highest)
        line = Line("gap", "training data", BLUE, 0.35 * highest, "right")
        _label(ax, stages, line, gap.mean)
        line = Line("held_out_gap", "held-out data", VIOLET, 1.5 * highest, "left")
        _label(ax, stages, line, held_out.mean)
    # × 1/D, where the band divides by D: the columns of earlier versions differ in the last bit.
    scaled = {k: Curve(c.mean * (1 / dims), c.error * (1 / dims)) for k, c in curves.items()}
    return curve_columns(stages.times, scaled)


def _draw_effective_samples(ax: Axes, stages: Stages) -> Columns:
    """1 / E Σγ², on a logarithmic axis."""
    main = stages.main
    curve = main.curves["participation"]
    mean, error = to_numpy(curve.mean), np.nan_to_num(to_numpy(curve.error), posinf=0)
    # The band is that of the participation E Σγ², turned over; it is kept away from 0.
    band = 1 / (mean + 2 * error), 1 / mean, 1 / (mean - 2 * error).clip(0.3 * mean)
    draw_log_band(ax, stages.times, band, TEAL, along=main.predicted_information)
    ax.set_yscale("log")
    ax.set_ylim(0.9, 1.3 * (1 / mean).max())  # no effective number is below 1
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.minorticks_off()
    columns = curve_columns(stages.times, {"participation": curve})
    return {"t": columns.pop("t"), "effective": (1 / mean).tolist(), **columns}


def _draw_information(ax: Axes, stages: Stages) -> Columns:
    """I(t) between its bounds, H(w) and the Gaussian one, and the area that must equal H(w)."""
    main, most = stages.main, stages.main.max_information
    times, bound = stages.times, to_numpy(main.predicted_information)
    error = main.area.error if np.isfinite(main.area.error) else 0.0
    top = 1.22 * (most or 1.0)  # room for "H(w) = …" above its line
    ax.set_ylim(0, max(top, 1.05 * (main.area.value + 2 * error)))

    fine, line = smooth(times, bound, along=bound)
    line = np.where(line > 1.1 * top, np.nan, line)  # it goes on without limit
    ax.plot(fine, line, color=QUIET, lw=1.2, ls=(0, (5, 2)))
    _label(ax, stages, Line("", "Gaussian\nbound", QUIET, 0.86 * most, "right"), bound)
    columns = _draw_lines(
        ax, stages, [Line("information", "information I(t)", BLUE, 0.6 * most, "left")]
    )
    ax.axhline(most, color=INK, lw=0.9)
    annotate(ax, f"H(w) = {format_nats(most)}", (0, most), (5, 4), va="bottom", color=INK)
    if not main.single_point:
        # On the edge t = 1 of the axes, so it is not clipped.
        ax.errorbar(
            [1], [main.area.value], [2 * error], color=ORANGE, marker="D", ms=5, capsize=4,
            lw=1.4, clip_on=False, zorder=5,
        )  # fmt: skip
        text = f"measured area\n{format_nats(main.area.value)} ± {format_nats(error)}"
        style = {"ha": "right", "va": "top", "color": ORANGE}
        annotate(ax, text, (1, main.area.value), (-9, -4), **style)
    return columns | {"gaussian_bound": bound.tolist()}


def _label(ax: Axes, stages: Stages, line: Line, values: Any) -> None:
    if not stages.main.single_point:  # the curves of a single point lie on top of each other
        label_curve(
            ax, (stages.times, values), line.level, line.name, colour=line.colour,
            side=line.side, end=stages.main.end.value,
        )  # fmt: skip


def _note_single_point(ax: Axes, group: ClassStages) -> None:
    """Why curves do not move, where a group has a single point."""
    if group.single_point:
        text = "a single distinct point:\nnothing to know at any time"
        style: Any = {"ha": "center", "va": "center", "color": QUIET}
        annotate(ax, text, (0.5, 0.5), coordinates="axes fraction", **style)


FIGURES = (
    StagesFigure(
        "weights",
        "Mean largest posterior weight, and mean posterior weight of the true source sample, by"
        " time",
        "mean posterior weight",
        "Posterior weights: the largest one, and that of the true source sample, from which the"
        " noisy sample was made. Both are means over pairs of data and noise; bands are two"
        " standard errors wide on either side.",
        _draw_weights,
    ),
    StagesFigure(
        "effective-samples",
        "Effective number of samples by time, on a logarithmic axis",
        "effective number of samples",
        "Effective number of samples: the inverse of E Σγ², γ the posterior weights. It falls from"
        " nearly all training points to one.",
        _draw_effective_samples,
    ),
    StagesFigure(
        "gap",
        "Gap per dimension by time, with two standard errors on either side",
        "squared error per dimension",
        "Gap, or irreducible loss: the mean squared distance between the training target and the"
        " oracle velocity, per dimension. It is the conditional variance of the target given the"
        " noisy sample, so no model can bring the training loss below it.",
        _draw_gap,
        "On held-out data the oracle stays wrong where it has collapsed onto training points; that"
        " curve leaves the figure upwards.",
    ),
    StagesFigure(
        "entropy",
        "Posterior entropy by time",
        "nats",
        "Posterior entropy: what the noisy sample leaves unknown about its source. The centre of"
        " navigation is the time at which half of H(w) is left.",
        _draw_entropy,
    ),
    StagesFigure(
        "information-law",
        "Information by time between its two bounds, H(w) and the Gaussian bound, and the"
        " measured area",
        "nats",
        "Mutual information I(t) of the noisy sample and its source. It rises to H(w), and no"
        " faster than the Gaussian bound of the data's covariance spectrum. The integral of the"
        " gap, weighted by the path (the area, at the right edge with two standard errors), must"
        " equal H(w), less what is still unknown at the last time.",
        _draw_information,
        section="check",
    ),
)
