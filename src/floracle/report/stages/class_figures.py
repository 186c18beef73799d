"""The figures of landmarks by class, and of the posterior weights of single examples."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from floracle.analysis.stages.result import ClassStages, Stages
from floracle.report.figure import Columns, Drawing
from floracle.report.names import inscription, shorten
from floracle.report.plots import annotate, landmark_time_axis, name_ends, new_axes, to_numpy
from floracle.report.style import BLUE, INK, ORANGE, PAPER, RULE, TEAL

from .examples import Examples

MAX_NAMED_CLASSES = 20
"""Up to this number the figures and tables name every class."""
LANDMARK_COLOURS = {"centre": BLUE, "collapse": ORANGE, "end": TEAL}
NAME_LETTERS = 22
"""Letters of a class name beside an axis."""


def measured_groups(stages: Stages) -> list[ClassStages]:
    """The classes by label and the whole set, without the pooled average."""
    return [group for group in stages.groups if group.label >= -1]


def predictable_groups(stages: Stages) -> list[ClassStages]:
    """Those of them with more than a single point; for a single one nothing is predicted."""
    return [group for group in measured_groups(stages) if not group.single_point]


def draw_predicted(stages: Stages) -> Drawing:
    """Measured centre and collapse against those predicted from the spectrum, by class."""
    figure, ax = new_axes()
    groups = predictable_groups(stages)
    extent: list[float] = []
    for name in ("centre", "collapse"):
        reached = [group for group in groups if getattr(group, name).value is not None]
        if not reached:
            continue
        colour = LANDMARK_COLOURS[name]
        times, low, high = _landmark_bars(reached, name)
        x = np.array([getattr(group, f"predicted_{name}") for group in reached])
        spread = np.clip([times - low, high - times], 0, None)
        ax.errorbar(x, times, spread, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
        ax.plot(x, times, "o", ms=5, mfc=colour, mec=PAPER, mew=0.7)
        rightmost = int(x.argmax())
        annotate(ax, name, (x[rightmost], times[rightmost]), (0, 10), color=colour, ha="center")
        extent += [*x, *low, *high]
    low, high = (min(extent), max(extent)) if extent else (0.0, 1.0)
    margin = 0.08 * (high - low) + 1e-9
    diagonal = [low - margin, high + margin]
    ax.plot(diagonal, diagonal, color=RULE, lw=1, zorder=0)
    ax.set_xlim(low - margin, high + 2.5 * margin)  # the names stand at the rightmost points
    ax.set_ylim(*diagonal)
    ax.set_xlabel("predicted time (from N and the spectrum alone)")
    ax.set_ylabel("measured time")
    return Drawing(
        "predicted",
        "Measured centre and collapse of every class against the predicted ones",
        figure,
        landmark_columns(stages, groups),
        "Every class, and the whole set, with 95 % intervals. On the diagonal prediction and"
        " measurement agree.",
        "predicted",
    )


def draw_classes(stages: Stages) -> Drawing:
    """The landmarks of all classes, in the order of their collapse."""
    groups = sorted(measured_groups(stages), key=_collapse_of)
    named = len(groups) <= MAX_NAMED_CLASSES + 1
    # .235 inch is 17 points for a row, whose name is 8.5 points high; .9 inch are for the axis.
    height = 0.9 + 0.235 * len(groups) if named else 4.4
    figure, ax = new_axes(height=max(height, 2.2))
    rows = np.arange(len(groups))[::-1]
    for name, colour in LANDMARK_COLOURS.items():
        reached = [i for i, group in enumerate(groups) if getattr(group, name).value is not None]
        if not reached:
            continue
        times, low, high = _landmark_bars([groups[i] for i in reached], name)
        ax.errorbar(
            times, rows[reached], xerr=np.clip([times - low, high - times], 0, None), fmt="o",
            ms=5.5 if named else 3, mfc=colour, mec=PAPER, mew=0.7 if named else 0, ecolor=colour,
            elinewidth=1.4 if named else 0.4,
        )  # fmt: skip
        if named and name != "end":  # nothing predicts the end from the spectrum
            predicted = [getattr(groups[i], f"predicted_{name}") for i in reached]
            ax.plot(predicted, rows[reached], "|", color=INK, ms=8, mew=1)
        # Landmarks of a single point are all at t = 0: their names would overlap.
        first = next((i for i in reached if not groups[i].single_point), reached[0])
        point = (getattr(groups[first], name).value, rows[first])
        # The centre comes first: its name ends where it lies, the names of the others begin there.
        side = "right" if name == "centre" else "left"
        annotate(ax, name, point, (0, 9), ha=side, va="bottom", color=colour)
    if named:
        names = [inscription(shorten(stages.name(g.label), NAME_LETTERS)) for g in groups]
        _name_rows(ax, rows, names)
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(groups)} classes, earliest collapse on top")
    landmark_time_axis(ax, stages.main)
    ax.set_ylim(-0.8, len(groups) - 0.2 + 0.035 * len(groups))
    return Drawing(
        "classes",
        "Centre, collapse and end of every class with 95 % intervals",
        figure,
        landmark_columns(stages, groups),
        "Centre, collapse and end of navigation of every class, ordered by collapse, with 95 %"
        " intervals." + (" Thin strokes are predictions." if named else ""),
        "classes",
    )


def draw_weights_of(stages: Stages, examples: Examples, i: int) -> Drawing:
    """The leading posterior weights of example i by time, as bars."""
    figure, ax = new_axes(height=2.6)
    steps, own_row = examples.steps, int(examples.rows[i])
    times = examples.times[:steps].tolist()
    weights, rows = to_numpy(examples.weights[i, :steps]), examples.voters[i, :steps].numpy()
    below, positions = np.zeros(steps), np.arange(steps)
    for k in range(weights.shape[1]):  # bars upon each other, the largest weight at the bottom
        for is_source, colour in ((True, ORANGE), (False, BLUE)):
            chosen = (rows[:, k] == own_row) == is_source
            ax.bar(
                positions[chosen], weights[chosen, k], 0.8, below[chosen], color=colour,
                alpha=1 if is_source else 1 - 0.16 * k, edgecolor=PAPER, lw=0.4,
            )  # fmt: skip
        below += weights[:, k]
    label = int(examples.labels[i])
    name = inscription(shorten(stages.name(label), NAME_LETTERS))
    title = f"row {own_row}, class {name}" if label >= 0 else f"row {own_row}"
    ax.set_title(title, color=INK, loc="left")
    ax.set_xticks(positions[::2], [f"{float(f'{t:.2g}'):.3g}" for t in times[::2]])
    name_ends(ax, "noise", "towards data")
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("largest weights")
    columns: Columns = {"t": times}
    for k in range(weights.shape[1]):
        columns |= {f"row_{k + 1}": rows[:, k].tolist(), f"weight_{k + 1}": weights[:, k].tolist()}
    alt = f"The five largest posterior weights of row {own_row} by time"
    return Drawing(f"example-{i + 1}", alt, figure, columns, section="examples")


def landmark_columns(stages: Stages, groups: list[ClassStages]) -> Columns:
    """The landmarks of groups, measured and predicted, a row for each."""
    columns: Columns = {
        "label": [group.label for group in groups],
        "name": [stages.name(group.label) for group in groups],
        "points": [group.points for group in groups],
    }
    for name in LANDMARK_COLOURS:
        marks = [getattr(group, name) for group in groups]
        columns[name] = [mark.value for mark in marks]
        columns[f"{name}_low"] = [mark.low for mark in marks]
        columns[f"{name}_high"] = [mark.high for mark in marks]
    columns["predicted_centre"] = [group.predicted_centre for group in groups]
    columns["predicted_collapse"] = [group.predicted_collapse for group in groups]
    return columns


def _landmark_bars(groups: list[ClassStages], name: str) -> np.ndarray:
    """The times of a landmark that all groups reach, and the ends of their intervals: [3, n]."""
    marks = [getattr(group, name) for group in groups]
    return np.array([(mark.value, *mark.ends) for mark in marks]).T


def _collapse_of(group: ClassStages) -> float:
    return group.predicted_collapse if group.collapse.value is None else group.collapse.value


def _name_rows(ax: Axes, rows: np.ndarray, names: list[str]) -> None:
    """Names of classes beside the axis, and a line across for each."""
    ax.set_yticks(rows, names)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.hlines(rows, 0, 1, color=RULE, lw=0.6, zorder=0)
    ax.spines["left"].set_visible(False)
