"""The figures of a training run: losses by time as it learned, and by images seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from floracle.report.plots import (
    BLUE,
    NAVIGATION,
    ORANGE,
    QUIET,
    REFINEMENT,
    STYLE,
    Drawing,
    axes,
    name_ends,
    smooth,
)

STAGES = ("navigation", "refinement")
INKS = {"navigation": BLUE, "refinement": ORANGE}
MOST = 6
"""Evaluations that are drawn by time, the first and the last among them."""


def run_drawings(
    lines: Sequence[Mapping[str, Any]], looks: Sequence[Mapping[str, Any]]
) -> dict[str, Drawing]:
    """All figures of a run, by name."""
    with mpl.rc_context(STYLE):
        drawings = [by_images(lines, looks)]
        if looks:
            drawings.insert(0, by_time(looks, split_of(lines)))
        if looks and "difference" in looks[-1]:
            drawings.append(unseen(looks))
    return {drawing.name: drawing for drawing in drawings}


def by_time(looks: Sequence[Mapping[str, Any]], split: float) -> Drawing:
    """The oracle loss by time, the latest evaluation the strongest; dotted, the gap."""
    figure, ax = axes()
    last = looks[-1]
    alike = [look for look in looks if look["t"] == last["t"]]  # evaluations may have changed
    _stages(ax, split)
    places = np.unique(np.linspace(0, len(alike) - 1, min(MOST, len(alike))).round().astype(int))
    columns: dict[str, Any] = {"t": last["t"]}
    for order, place in enumerate(places):
        look, share = alike[place], (order + 1) / len(places)
        fine, mean = smooth(look["t"], np.array(look["oracle"]["mean"]))
        words = f"{look['images']:,} images"
        ax.plot(fine, mean, color=BLUE, alpha=0.25 + 0.75 * share, lw=1 + 0.8 * share, label=words)
        columns[f"oracle loss after {look['images']}"] = look["oracle"]["mean"]
    if "gap" in last:
        fine, shown = smooth(last["t"], np.array(last["gap"]["mean"]))
        ax.plot(fine, shown, color=QUIET, ls=(0, (1, 1.6)), lw=1.2, label="gap")
        columns["gap"] = last["gap"]["mean"]
    ax.set_ylim(bottom=0)
    ax.set_ylabel("squared distance a dimension")
    ax.legend(fontsize=8, labelcolor=QUIET, loc="upper left")
    return Drawing("run-by-time", "The oracle loss by time, at several moments", figure, columns)


def by_images(lines: Sequence[Mapping[str, Any]], looks: Sequence[Mapping[str, Any]]) -> Drawing:
    """Losses of both stages by images seen: of batches, and the oracle loss of evaluations."""
    figure, ax = axes()
    ax.set_xscale("log")
    ax.set_yscale("log")
    columns: dict[str, Any] = {"images": [line["images"] for line in lines]}
    for stage, ink in INKS.items():
        means = [(line["by_t"].get(stage) or [None])[0] for line in lines]
        seen = [(line["images"], m) for line, m in zip(lines, means, strict=True) if m]
        if seen:
            words = None if looks else f"loss of batches, {stage}"
            ax.plot(*zip(*seen, strict=True), color=ink, alpha=0.45, lw=0.8, label=words)
        columns[f"loss of batches, {stage}"] = ["" if mean is None else mean for mean in means]
        if looks:
            images = [look["images"] for look in looks]
            values = [look["oracle"][stage] for look in looks]
            ax.plot(images, values, color=ink, marker="o", ms=3, label=f"oracle loss, {stage}")
    ax.set_xlabel("images")
    ax.set_ylabel("loss a dimension")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, labelcolor=QUIET, loc="lower left")
    return Drawing("run-by-images", "Losses of both stages by images seen", figure, columns)


def unseen(looks: Sequence[Mapping[str, Any]]) -> Drawing:
    """How much more unseen data costs, by images seen: whether the network memorizes."""
    figure, ax = axes()
    there = [look for look in looks if "difference" in look]
    images = [look["images"] for look in there]
    columns: dict[str, Any] = {"images": images}
    for stage, ink in INKS.items():
        values = [look["difference"][stage] for look in there]
        ax.plot(images, values, color=ink, marker="o", ms=3, label=stage)
        columns[f"unseen less training data, {stage}"] = values
    ax.axhline(0, color=QUIET, lw=0.7)
    ax.set_xlabel("images")
    ax.set_ylabel("more a dimension")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.legend(fontsize=8, labelcolor=QUIET)
    return Drawing("run-unseen", "How much more unseen data costs by images", figure, columns)


def _stages(ax: Any, split: float) -> None:
    """Time from noise to data, both stages as ground."""
    ax.set_xlim(0, 1)
    ax.axvspan(0, split, color=NAVIGATION, lw=0, zorder=0)
    ax.axvspan(split, 1, color=REFINEMENT, lw=0, zorder=0)
    name_ends(ax, "noise", "data")


def split_of(lines: Sequence[Mapping[str, Any]]) -> float:
    """Where the stages part: both have as many bins."""
    edges = lines[-1]["by_t"]["edges"]
    return edges[len(edges) // 2]


def halfway(looks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of several evaluations the one nearest to half of the images of the last."""
    return min(looks[:-1], key=lambda look: abs(2 * look["images"] - looks[-1]["images"]))
