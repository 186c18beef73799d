"""The figures that compare: predictions, classes, and who votes for a few examples."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from floracle.analysis.stages.result import ClassStages, Stages
from floracle.report.plots import (
    BLUE,
    INK,
    ORANGE,
    PAPER,
    RULE,
    TEAL,
    Drawing,
    axes,
    name_ends,
    numbers,
    time_axis,
    time_words,
)
from floracle.report.stages.examples import Examples

NAMED = 20
"""Classes up to this number have their names in the drawings."""


def agreement(stages: Stages) -> Drawing:
    """Measured landmarks against those predicted from the spectrum, for every class."""
    figure, ax = axes()
    groups = predictable(stages)
    reach: list[float] = []
    for name, colour in (("centre", BLUE), ("collapse", ORANGE)):
        marks = [getattr(group, name) for group in groups]
        known = [i for i, mark in enumerate(marks) if mark.value is not None]
        x = np.array([getattr(groups[i], f"predicted_{name}") for i in known])
        y = np.array([marks[i].value for i in known])
        low, high = np.array([marks[i].ends for i in known]).reshape(-1, 2).T
        if not known:
            continue
        spread = np.clip(np.array([y - low, high - y]), 0, None)
        ax.errorbar(x, y, spread, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
        ax.plot(x, y, "o", ms=5, mfc=colour, mec=PAPER, mew=0.7)
        place = int(x.argmax())
        ax.annotate(
            name,
            (x[place], y[place]),
            (0, 10),
            textcoords="offset points",
            color=colour,
            ha="center",
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
    groups = sorted(measured_landmarks(stages), key=_collapse_of)
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
        low, high = np.array([marks[i].ends for i in known]).T
        spread = [x - low, high - x]
        size = 5.5 if named else 3
        ax.errorbar(
            x, y[known], xerr=np.clip(spread, 0, None), fmt="o", ms=size, mfc=colour, mec=PAPER,
            mew=0.7 if named else 0, ecolor=colour, elinewidth=1.4 if named else 0.4,
        )  # fmt: skip
        if name != "end":
            predicted = [getattr(groups[i], f"predicted_{name}") for i in known]
            if named:
                ax.plot(predicted, y[known], "|", color=INK, ms=8, mew=1)
        first = next((i for i in known if not groups[i].single_point), known[0])
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


def landmark_columns(stages: Stages, groups: list[ClassStages]) -> dict[str, list]:
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


def measured_landmarks(stages: Stages) -> list[ClassStages]:
    """Classes by label and the whole set, without the pooled average."""
    return [group for group in stages.groups if group.label >= -1]


def predictable(stages: Stages) -> list[ClassStages]:
    """Those of them that have more than a single point: of that nothing is predicted."""
    return [group for group in measured_landmarks(stages) if not group.single_point]


def short(name: str, most: int = 22) -> str:
    """A class name that fits beside an axis; nothing in it is markup to a drawing."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    name = name if len(name) <= most else name[: most - 1] + "…"
    return name.replace("$", r"\$")


def _collapse_of(group: ClassStages) -> float:
    return group.predicted_collapse if group.collapse.value is None else group.collapse.value


def _class_axis(
    ax: Axes, stages: Stages, groups: list[ClassStages], y: np.ndarray, *, named: bool
) -> None:
    if named:
        ax.set_yticks(y, [short(stages.name(group.label)) for group in groups])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.hlines(y, 0, 1, color=RULE, lw=0.6, zorder=0)
        ax.spines["left"].set_visible(False)
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(groups)} classes, earliest collapse on top")
