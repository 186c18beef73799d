"""The figures of a training run: losses by time as it learned, and by images seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from floracle.report.figure import Columns, Drawing, figure_style
from floracle.report.plots import even_time_axis, new_axes, shade_stages, smooth
from floracle.report.style import BLUE, DOTTED, ORANGE, QUIET

STAGE_COLOURS = {"navigation": BLUE, "refinement": ORANGE}
STAGES = tuple(STAGE_COLOURS)
MAX_EVALUATIONS = 6
"""Evaluations that are drawn by time, the first and the last among them."""
LEGEND: Any = {"fontsize": 8, "labelcolor": QUIET}

Records = Sequence[Mapping[str, Any]]
"""Lines of the log, or the evaluations in it."""


def training_figures(lines: Records, evaluations: Records) -> list[Drawing]:
    """All figures of a run, from the lines of its log and its evaluations."""
    with figure_style():
        drawings = [_draw_by_time(evaluations, stage_boundary(lines))] if evaluations else []
        drawings.append(_draw_by_images(lines, evaluations))
        if evaluations and "difference" in evaluations[-1]:
            drawings.append(_draw_held_out(evaluations))
    return drawings


def _draw_by_time(evaluations: Records, boundary: float) -> Drawing:
    """The oracle loss by time, the latest evaluation the strongest; dotted, the gap."""
    figure, ax = new_axes()
    even_time_axis(ax)
    shade_stages(ax, boundary)
    last = evaluations[-1]
    # A run that went on with other settings has evaluations at other times.
    same_times = [evaluation for evaluation in evaluations if evaluation["t"] == last["t"]]
    count = min(MAX_EVALUATIONS, len(same_times))
    chosen = np.unique(np.linspace(0, len(same_times) - 1, count).round().astype(int))
    columns: Columns = {"t": last["t"]}
    for order, i in enumerate(chosen):
        evaluation, strength = same_times[i], (order + 1) / len(chosen)
        fine, mean = smooth(evaluation["t"], np.array(evaluation["oracle"]["mean"]))
        ax.plot(
            fine, mean, color=BLUE, alpha=0.25 + 0.75 * strength, lw=1 + 0.8 * strength,
            label=f"{evaluation['images']:,} images",
        )  # fmt: skip
        columns[f"oracle loss after {evaluation['images']}"] = evaluation["oracle"]["mean"]
    if "gap" in last:
        fine, gap = smooth(last["t"], np.array(last["gap"]["mean"]))
        ax.plot(fine, gap, color=QUIET, ls=DOTTED, lw=1.2, label="gap")
        columns["gap"] = last["gap"]["mean"]
    ax.set_ylim(bottom=0)
    ax.set_ylabel("squared distance per dimension")
    ax.legend(loc="upper left", **LEGEND)
    return Drawing(
        "run-by-time",
        "The oracle loss by time, at several moments of the training",
        figure,
        columns,
        "Oracle loss: the mean squared distance of the EMA network from the oracle velocity, per"
        " dimension, at several moments; the latest is the strongest. Dotted: the gap, or"
        " irreducible loss, the part of the conditional loss that no model can remove. Shaded:"
        " navigation, then refinement.",
    )


def _draw_by_images(lines: Records, evaluations: Records) -> Drawing:
    """Losses of both stages by images seen: of batches, and the oracle loss of evaluations."""
    figure, ax = new_axes()
    ax.set_xscale("log")
    ax.set_yscale("log")
    columns: Columns = {"images": [line["images"] for line in lines]}
    for stage, colour in STAGE_COLOURS.items():
        means = [(line["by_t"].get(stage) or [None])[0] for line in lines]
        points = [(line["images"], mean) for line, mean in zip(lines, means, strict=True) if mean]
        if points:
            label = None if evaluations else f"loss of batches, {stage}"
            x, y = zip(*points, strict=True)
            ax.plot(x, y, color=colour, alpha=0.45, lw=0.8, label=label)
        # A line without any pair in a stage has an empty cell in the CSV.
        columns[f"loss of batches, {stage}"] = ["" if mean is None else mean for mean in means]
        if evaluations:
            images = [evaluation["images"] for evaluation in evaluations]
            values = [evaluation["oracle"][stage] for evaluation in evaluations]
            ax.plot(images, values, color=colour, marker="o", ms=3, label=f"oracle loss, {stage}")
    ax.set_xlabel("images")
    ax.set_ylabel("loss per dimension")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower left", **LEGEND)
    return Drawing(
        "run-by-images",
        "Losses of both stages by images seen",
        figure,
        columns,
        "By images seen. Dots: the oracle loss of the EMA network. Thin: the loss of batches"
        " against their own target; for conditional targets it includes the gap.",
    )


def _draw_held_out(evaluations: Records) -> Drawing:
    """By how much the loss of held-out data exceeds that of training data, by images seen."""
    figure, ax = new_axes()
    compared = [evaluation for evaluation in evaluations if "difference" in evaluation]
    images = [evaluation["images"] for evaluation in compared]
    columns: Columns = {"images": images}
    for stage, colour in STAGE_COLOURS.items():
        values = [evaluation["difference"][stage] for evaluation in compared]
        ax.plot(images, values, color=colour, marker="o", ms=3, label=stage)
        columns[f"held-out less training data, {stage}"] = values
    ax.axhline(0, color=QUIET, lw=0.7)
    ax.set_xlabel("images")
    ax.set_ylabel("held-out − training, per dimension")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.legend(**LEGEND)
    return Drawing(
        "run-held-out",
        "How much the loss of held-out data exceeds that of training data, by images seen",
        figure,
        columns,
        "By how much the loss of the EMA network on held-out data exceeds that on training data"
        " at the same noise. Where it is above 0 the network has memorized training data, if both"
        " sets have the same distribution.",
    )


def stage_boundary(lines: Records) -> float:
    """The time between the stages: the bins of the losses are as many on either side."""
    edges = lines[-1]["by_t"]["edges"]
    return edges[len(edges) // 2]


def halfway(evaluations: Records) -> Mapping[str, Any]:
    """Of several evaluations the one nearest to half of the images of the last."""
    return min(
        evaluations[:-1],
        key=lambda evaluation: abs(2 * evaluation["images"] - evaluations[-1]["images"]),
    )
