"""The figures of the stages report, each with the numbers it is drawn from."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from floracle.analysis.curves import Curve
from floracle.analysis.groups import Group, Stages

from .examples import Examples
from .plots import (
    BLUE,
    HIGH,
    INK,
    ORANGE,
    PAPER,
    QUIET,
    RULE,
    STYLE,
    TEAL,
    VIOLET,
    Drawing,
    axes,
    band,
    label_at,
    name_ends,
    numbers,
    shade_stages,
    smooth,
    time_axis,
    time_words,
)

NAMED = 20
"""Classes up to this number have their names in the drawings."""
CALM = 0.99
"""Values later than this do not set the scale of the gap: the velocity divides by 1 − t."""


def drawings(stages: Stages, examples: Examples | None) -> dict[str, Drawing]:
    """All figures that the stages and examples give rise to, by name."""
    with mpl.rc_context(STYLE):
        found = [weights(stages), gap(stages), entropy(stages), votes(stages), law(stages)]
        if len(measured(stages)) > 1:
            found += [agreement(stages), compared(stages)]
        if examples is not None and examples.noisy is None:
            found += [voting(stages, examples, i) for i in range(len(examples.rows))]
    return {drawing.name: drawing for drawing in found}


def measured(stages: Stages) -> list[Group]:
    """Classes by label and the whole set, without the pooled average."""
    return [group for group in stages.groups if group.label >= -1]


def weights(stages: Stages) -> Drawing:
    """The largest weight and the own weight by time."""
    figure, ax, main = _by_time(stages)
    top, own = main.curves["top"], main.curves["own"]
    band(ax, stages.times, top, BLUE)
    band(ax, stages.times, own, ORANGE)
    label_at(ax, main, (stages.times, top.mean), 0.62, "largest weight", colour=BLUE, side="right")
    label_at(ax, main, (stages.times, own.mean), 0.3, "own weight", colour=ORANGE, side="left")
    if (held_out := main.curves.get("held_out_top")) is not None:
        band(ax, stages.times, held_out, VIOLET)
        _held_out_name(ax, stages, held_out.mean, 0.85, "largest weight,\nheld-out data")
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("mean weight")
    return Drawing(
        "weights",
        "Mean largest weight and mean weight of the pair's own sample by time",
        figure,
        _columns(stages, main, "top", "own", "held_out_top"),
    )


def gap(stages: Stages) -> Drawing:
    """What the target of training leaves unexplained, per dimension, by time."""
    figure, ax, main = _by_time(stages)
    curve = _scaled(main.curves["gap"], stages.dims)
    band(ax, stages.times, curve, BLUE)
    calm = numbers(stages.times) <= CALM
    highest = float(numbers(curve.mean)[calm].max())
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
    band(ax, stages.times, main.curves["entropy"], BLUE)
    ax.axhline(main.knowable / 2, color=QUIET, lw=0.8, ls=(0, (1, 2)))
    ax.annotate(
        "½ H(w)",
        (1, main.knowable / 2),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=QUIET,
    )
    held_out = main.curves.get("held_out_entropy")
    words = "entropy H(t)" if held_out is None else "training data"
    level = 0.75 * main.knowable
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
        _held_out_name(ax, stages, held_out.mean, 0.25 * main.knowable, "held-out data")
    ax.set_ylim(0, 1.04 * main.knowable)
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
    curve = main.curves["concentration"]
    mean, error = numbers(curve.mean), np.nan_to_num(numbers(curve.error), posinf=0)
    x = numbers(stages.times)
    logs = [np.log(mean + 2 * error), np.log((mean - 2 * error).clip(0.3 * mean)), np.log(mean)]
    fine, low, high, middle = smooth(x, *logs)
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
            "concentration": mean.tolist(),
            "concentration_error": numbers(curve.error).tolist(),
        },
    )


def law(stages: Stages) -> Drawing:
    """The information by time between its two bounds, and the area that checks it."""
    figure, ax, main = _by_time(stages)
    x = numbers(stages.times)
    bound, roof = numbers(main.predicted_information), 1.22 * main.knowable
    fine, line = smooth(x, bound)
    ax.plot(fine, np.where(line > 1.1 * roof, np.nan, line), color=QUIET, lw=1.2, ls=(0, (5, 2)))
    label_at(
        ax, main, (x, bound), 0.86 * main.knowable, "Gaussian\nbound", colour=QUIET, side="right"
    )
    band(ax, x, main.curves["information"], BLUE)
    label_at(
        ax,
        main,
        (x, main.curves["information"].mean),
        0.6 * main.knowable,
        "information I(t)",
        colour=BLUE,
        side="left",
    )
    ax.axhline(main.knowable, color=INK, lw=0.9)
    ax.annotate(
        f"H(w) = {main.knowable:.3f}",
        (0, main.knowable),
        (5, 4),
        textcoords="offset points",
        va="bottom",
        color=INK,
    )
    error = main.area.error if np.isfinite(main.area.error) else 0.0
    ax.errorbar(
        [1], [main.area.value], [2 * error], color=ORANGE, marker="D", ms=5, capsize=4,
        lw=1.4, clip_on=False, zorder=5,
    )  # fmt: skip
    ax.annotate(
        f"measured area\n{main.area.value:.3f} ± {error:.3f}",
        (1, main.area.value),
        (-9, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color=ORANGE,
    )
    ax.set_ylim(0, max(roof, 1.05 * (main.area.value + 2 * error)))
    ax.set_ylabel("nats")
    columns = _columns(stages, main, "information")
    columns |= {"gaussian_bound": bound.tolist()}
    return Drawing(
        "information-law",
        f"Information by time up to H(w) = {main.knowable:.3f} nats;"
        f" the measured area is {main.area.value:.3f}",
        figure,
        columns,
    )


def agreement(stages: Stages) -> Drawing:
    """Measured landmarks against those predicted from the spectrum, for every class."""
    figure, ax = axes()
    groups = measured(stages)
    reach: list[float] = []
    for name, colour in (("centre", BLUE), ("collapse", ORANGE)):
        marks = [getattr(group, name) for group in groups]
        known = [i for i, mark in enumerate(marks) if mark.value is not None]
        x = np.array([getattr(groups[i], f"predicted_{name}") for i in known])
        y = np.array([marks[i].value for i in known])
        low = np.array([marks[i].low for i in known])
        high = np.array([marks[i].high for i in known])
        if not known:
            continue
        spread = np.clip(np.array([y - low, high - y]), 0, None)
        ax.errorbar(x, y, spread, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
        ax.plot(x, y, "o", ms=5, mfc=colour, mec=PAPER, mew=0.7)
        place = int(x.argmax())
        ax.annotate(
            name,
            (x[place], y[place]),
            (7, -9),
            textcoords="offset points",
            color=colour,
            va="center",
        )
        reach += [*x, *low, *high]
    low, high = (min(reach), max(reach)) if reach else (0.0, 1.0)
    room = 0.08 * (high - low) + 1e-9
    ax.plot([low - room, high + room], [low - room, high + room], color=RULE, lw=1, zorder=0)
    ax.set_xlim(low - room, high + 2.5 * room)
    ax.set_ylim(low - room, high + room)
    ax.set_xlabel("predicted time (from N and the spectrum alone)")
    ax.set_ylabel("measured time")
    return Drawing(
        "predicted",
        "Measured centre and collapse of every class against the predicted ones",
        figure,
        landmark_columns(stages, groups),
    )


def compared(stages: Stages) -> Drawing:
    """The landmarks of all classes, ordered by their collapse."""
    groups = sorted(measured(stages), key=_collapse_of)
    named = len(groups) <= NAMED + 1
    high = 0.9 + 0.235 * len(groups) if named else 4.4
    figure, ax = axes(high=max(high, 2.2))
    y = np.arange(len(groups))[::-1]
    for name, colour in (("centre", BLUE), ("collapse", ORANGE), ("end", TEAL)):
        marks = [getattr(group, name) for group in groups]
        known = [i for i, mark in enumerate(marks) if mark.value is not None]
        if not known:
            continue
        x = np.array([marks[i].value for i in known])
        spread = [
            [marks[i].value - marks[i].low for i in known],
            [marks[i].high - marks[i].value for i in known],
        ]
        size = 5.5 if named else 2
        ax.errorbar(
            x, y[known], xerr=np.clip(spread, 0, None), fmt="o", ms=size, mfc=colour, mec=PAPER,
            mew=0.7 if named else 0, ecolor=colour, elinewidth=1.4 if named else 0.4,
        )  # fmt: skip
        if name != "end":
            predicted = [getattr(groups[i], f"predicted_{name}") for i in known]
            if named:
                ax.plot(predicted, y[known], "|", color=INK, ms=8, mew=1)
        first = known[0]
        ax.annotate(
            name,
            (marks[first].value, y[first]),
            (0, 9),
            textcoords="offset points",
            ha="right" if name == "centre" else "left",
            va="bottom",
            color=colour,
        )
    _class_axis(ax, stages, groups, y, named=named)
    time_axis(ax, stages.main)
    ax.set_ylim(-0.8, len(groups) - 0.2 + 0.035 * len(groups))
    return Drawing(
        "classes",
        "Centre, collapse and end of every class with 95 % intervals",
        figure,
        landmark_columns(stages, groups),
    )


def voting(stages: Stages, examples: Examples, i: int) -> Drawing:
    """The leading weights of one example by time."""
    figure, ax = axes(high=2.6)
    steps, own = examples.steps, int(examples.rows[i])
    weights, voters = numbers(examples.weights[i, :steps]), examples.voters[i, :steps].numpy()
    below, places = np.zeros(steps), np.arange(steps)
    for k in range(weights.shape[1]):
        for mine, colour in ((True, ORANGE), (False, BLUE)):
            here = (voters[:, k] == own) == mine
            ax.bar(
                places[here],
                weights[here, k],
                0.8,
                below[here],
                color=colour,
                alpha=1 if mine else 1 - 0.16 * k,
                edgecolor=PAPER,
                lw=0.4,
            )
        below += weights[:, k]
    label = int(examples.labels[i])
    name = f", class {short(stages.name(label))}" if label >= 0 else ""
    ax.set_title(f"row {own}{name}", color=INK, loc="left")
    times = examples.times[:steps].tolist()
    ax.set_xticks(places[::2], [time_words(float(f"{t:.2g}")) for t in times[::2]])
    name_ends(ax, "noise", "towards data")
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("leading weights")
    columns = {"t": times} | {
        f"{what}_{k + 1}": values[:, k].tolist()
        for k in range(weights.shape[1])
        for what, values in (("row", voters), ("weight", weights))
    }
    return Drawing(
        f"example-{i + 1}", f"The five leading weights of row {own} by time", figure, columns
    )


def landmark_columns(stages: Stages, groups: list[Group]) -> dict[str, list]:
    """The landmarks of groups as columns."""
    columns: dict[str, list] = {
        "label": [group.label for group in groups],
        "name": [stages.name(group.label) for group in groups],
        "points": [group.points for group in groups],
    }
    for name in ("centre", "collapse", "end"):
        marks = [getattr(group, name) for group in groups]
        columns[name] = [mark.value for mark in marks]
        columns[f"{name}_low"] = [mark.low for mark in marks]
        columns[f"{name}_high"] = [mark.high for mark in marks]
    columns["predicted_centre"] = [group.predicted_centre for group in groups]
    columns["predicted_collapse"] = [group.predicted_collapse for group in groups]
    return columns


def short(name: str, most: int = 22) -> str:
    """A class name that fits beside an axis; nothing in it is markup to a drawing."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    name = name if len(name) <= most else name[: most - 1] + "…"
    return name.replace("$", r"\$")


def _by_time(stages: Stages) -> tuple[Figure, Axes, Group]:
    figure, ax = axes(high=HIGH)
    time_axis(ax, stages.main)
    shade_stages(ax, stages.main)
    return figure, ax, stages.main


def _columns(stages: Stages, group: Group, *names: str, scale: float = 1.0) -> dict[str, list]:
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


def _collapse_of(group: Group) -> float:
    return group.predicted_collapse if group.collapse.value is None else group.collapse.value


def _class_axis(
    ax: Axes, stages: Stages, groups: list[Group], y: np.ndarray, *, named: bool
) -> None:
    if named:
        ax.set_yticks(y, [short(stages.name(group.label)) for group in groups])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.hlines(y, 0, 1, color=RULE, lw=0.6, zorder=0)
        ax.spines["left"].set_visible(False)
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(groups)} classes, earliest collapse on top")
