"""The figures of the stages report, by time, each with the numbers it is drawn from."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.analysis.stages.result import ClassStages, Stages
from floracle.report.comparison.figures import (
    agreement,
    compared,
    measured_landmarks,
    predictable,
    voting,
)
from floracle.report.formatting import format_nats
from floracle.report.plots import (
    BLUE,
    FINE,
    HIGH,
    INK,
    ORANGE,
    QUIET,
    STYLE,
    TEAL,
    VIOLET,
    Drawing,
    axes,
    band,
    height,
    label_at,
    numbers,
    say_settled,
    shade_stages,
    smooth,
    time_axis,
)

from .examples import Examples

CALM = 0.99
"""Values later than this, and than the collapse, do not set the scale of the gap: the velocity
divides by 1 − t."""


def drawings(stages: Stages, examples: Examples | None) -> dict[str, Drawing]:
    """All figures that the stages and examples give rise to, by name."""
    with mpl.rc_context(STYLE):
        found = [weights(stages), gap(stages), entropy(stages), votes(stages), law(stages)]
        if len(measured_landmarks(stages)) > 1:
            predicted = [agreement(stages)] if predictable(stages) else []
            found += [*predicted, compared(stages)]
        if examples is not None and examples.noisy is None:
            found += [voting(stages, examples, i) for i in range(len(examples.rows))]
    return {drawing.name: drawing for drawing in found}


def weights(stages: Stages) -> Drawing:
    """The largest weight and the own weight by time."""
    figure, ax, main = _by_time(stages)
    top, own = main.curves["max_weight"], main.curves["self_weight"]
    along = main.predicted_information
    band(ax, stages.times, top, BLUE, along=along)
    band(ax, stages.times, own, ORANGE, along=along)
    label_at(ax, main, (stages.times, top.mean), 0.62, "largest weight", colour=BLUE, side="right")
    label_at(ax, main, (stages.times, own.mean), 0.3, "own weight", colour=ORANGE, side="left")
    if (held_out := main.curves.get("held_out_max_weight")) is not None:
        band(ax, stages.times, held_out, VIOLET)
        _held_out_name(ax, stages, held_out.mean, 0.6, "largest weight,\nheld-out data")
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("mean weight")
    return Drawing(
        "weights",
        "Mean largest weight and mean weight of the pair's own sample by time",
        figure,
        _columns(stages, main, "max_weight", "self_weight", "held_out_max_weight"),
    )


def gap(stages: Stages) -> Drawing:
    """What the target of training leaves unexplained, per dimension, by time."""
    figure, ax, main = _by_time(stages)
    curve = _scaled(main.curves["gap"], stages.dims)

    def between(times: Tensor) -> Curve:
        return _scaled(stages.gap_at(times, label=main.label), stages.dims)

    band(ax, stages.times, curve, BLUE, between=between)
    calm = torch.linspace(0, max(CALM, main.collapse.value or 0.0), FINE, dtype=torch.float64)
    highest = height(float(between(calm).mean.max()))
    held_out = main.curves.get("held_out_gap")
    if held_out is None:
        label_at(
            ax, main, (stages.times, curve.mean), 0.4 * highest, "gap", colour=BLUE, side="left"
        )
    else:
        band(ax, stages.times, _scaled(held_out, stages.dims), VIOLET)
        label_at(
            ax,
            main,
            (stages.times, curve.mean),
            0.35 * highest,
            "training data",
            colour=BLUE,
            side="right",
        )
        level = 1.5 * highest
        _held_out_name(ax, stages, numbers(held_out.mean) / stages.dims, level, "held-out data")
    ax.set_ylim(0, (1.15 if held_out is None else 2.2) * highest)
    ax.set_ylabel("squared error per dimension")
    return Drawing(
        "gap",
        "Gap per dimension by time, with two standard errors on either side",
        figure,
        _columns(stages, main, "gap", "held_out_gap", scale=1 / stages.dims),
    )


def entropy(stages: Stages) -> Drawing:
    """What is not yet known about which sample it is."""
    figure, ax, main = _by_time(stages)
    band(ax, stages.times, main.curves["entropy"], BLUE, along=main.predicted_information)
    if not main.single_point:
        _name_half(ax, main)
    held_out = main.curves.get("held_out_entropy")
    words = "entropy H(t)" if held_out is None else "training data"
    level = 0.75 * main.max_information
    label_at(
        ax,
        main,
        (stages.times, main.curves["entropy"].mean),
        level,
        words,
        colour=BLUE,
        side="left",
    )
    if held_out is not None:
        band(ax, stages.times, held_out, VIOLET)
        _held_out_name(ax, stages, held_out.mean, 0.25 * main.max_information, "held-out data")
    ax.set_ylim(0, 1.04 * height(main.max_information))
    ax.set_ylabel("nats")
    return Drawing(
        "entropy",
        "Posterior entropy by time",
        figure,
        _columns(stages, main, "entropy", "held_out_entropy"),
    )


def votes(stages: Stages) -> Drawing:
    """The effective number of samples that vote."""
    figure, ax, main = _by_time(stages)
    curve = main.curves["participation"]
    mean, error = numbers(curve.mean), np.nan_to_num(numbers(curve.error), posinf=0)
    x = numbers(stages.times)
    logs = [np.log(mean + 2 * error), np.log((mean - 2 * error).clip(0.3 * mean)), np.log(mean)]
    fine, low, high, middle = smooth(x, *logs, along=main.predicted_information)
    ax.fill_between(fine, np.exp(-low), np.exp(-high), color=TEAL, alpha=0.22, lw=0)
    ax.plot(fine, np.exp(-middle), color=TEAL)
    ax.plot(x, 1 / mean, "o", ms=1.9, mew=0, color=TEAL)
    ax.set_yscale("log")
    ax.set_ylim(0.9, 1.3 * (1 / mean).max())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.minorticks_off()
    ax.set_ylabel("effective number of votes")
    return Drawing(
        "votes",
        "Effective number of votes by time, on a logarithmic axis",
        figure,
        {
            "t": x.tolist(),
            "effective": (1 / mean).tolist(),
            "participation": mean.tolist(),
            "participation_error": numbers(curve.error).tolist(),
        },
    )


def law(stages: Stages) -> Drawing:
    """The information by time between its two bounds, and the area that checks it."""
    figure, ax, main = _by_time(stages)
    x = numbers(stages.times)
    bound, roof = numbers(main.predicted_information), 1.22 * height(main.max_information)
    fine, line = smooth(x, bound, along=bound)
    ax.plot(fine, np.where(line > 1.1 * roof, np.nan, line), color=QUIET, lw=1.2, ls=(0, (5, 2)))
    label_at(
        ax,
        main,
        (x, bound),
        0.86 * main.max_information,
        "Gaussian\nbound",
        colour=QUIET,
        side="right",
    )
    band(ax, x, main.curves["information"], BLUE, along=bound)
    label_at(
        ax,
        main,
        (x, main.curves["information"].mean),
        0.6 * main.max_information,
        "information I(t)",
        colour=BLUE,
        side="left",
    )
    ax.axhline(main.max_information, color=INK, lw=0.9)
    ax.annotate(
        f"H(w) = {format_nats(main.max_information)}",
        (0, main.max_information),
        (5, 4),
        textcoords="offset points",
        va="bottom",
        color=INK,
    )
    error = main.area.error if np.isfinite(main.area.error) else 0.0
    if not main.single_point:
        _mark_area(ax, main.area.value, error)
    ax.set_ylim(0, max(roof, 1.05 * (main.area.value + 2 * error)))
    ax.set_ylabel("nats")
    columns = _columns(stages, main, "information")
    columns |= {"gaussian_bound": bound.tolist()}
    return Drawing(
        "information-law",
        f"Information by time up to H(w) = {format_nats(main.max_information)} nats;"
        f" the measured area is {format_nats(main.area.value)}",
        figure,
        columns,
    )


def _mark_area(ax: Axes, area: float, error: float) -> None:
    """The measured area at the right edge, with two standard errors on either side."""
    ax.errorbar(
        [1], [area], [2 * error], color=ORANGE, marker="D", ms=5, capsize=4, lw=1.4,
        clip_on=False, zorder=5,
    )  # fmt: skip
    ax.annotate(
        f"measured area\n{format_nats(area)} ± {format_nats(error)}",
        (1, area),
        (-9, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color=ORANGE,
    )


def _name_half(ax: Axes, main: ClassStages) -> None:
    ax.axhline(main.max_information / 2, color=QUIET, lw=0.8, ls=(0, (1, 2)))
    ax.annotate(
        "½ H(w)",
        (1, main.max_information / 2),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=QUIET,
    )


def _by_time(stages: Stages) -> tuple[Figure, Axes, ClassStages]:
    figure, ax = axes(high=HIGH)
    time_axis(ax, stages.main)
    shade_stages(ax, stages.main)
    say_settled(ax, stages.main)
    return figure, ax, stages.main


def _columns(
    stages: Stages, group: ClassStages, *names: str, scale: float = 1.0
) -> dict[str, list]:
    columns = {"t": stages.times.tolist()}
    for name in names:
        if name in group.curves:
            columns[name] = (group.curves[name].mean * scale).tolist()
            columns[f"{name}_error"] = (group.curves[name].error * scale).tolist()
    return columns


def _scaled(curve: Curve, dims: int) -> Curve:
    return Curve(curve.mean / dims, curve.error / dims)


def _held_out_name(ax: Axes, stages: Stages, values: Any, level: float, words: str) -> None:
    curve = (stages.times, values)
    label_at(ax, stages.main, curve, level, words, colour=VIOLET, side="left")
