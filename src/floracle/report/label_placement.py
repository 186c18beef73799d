"""Where the names of curves go: beside their own curve, away from all else that is drawn.

Lengths are in heights of the axes. A name is a box [2]. Of all positions on a grid it takes the
one of the highest score,

    2 min(r, ENOUGH_ROOM) − d − [r < 2 d] − CROSSING_COST · [the box stands on an upright line],

d the distance from the box to its own curve, r to the nearest other curve or name; positions
closer to the own curve than `LEAST_GAP` would touch it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Points = NDArray[np.float64]

FONT_SIZE = 9
# Estimates: the true extent of a text is known only once a renderer draws it.
LETTER_WIDTH, LINE_HEIGHT = 5.0, 11.0
"""Of text of that size, in points of 1/72 inch."""
# 50 letters are 250 points, and a figure is 382 wide: a longer box would have no position at all.
MAX_LETTERS = 50
"""A longer name is placed as if it had this many letters."""
LEAST_GAP, ENOUGH_ROOM = 0.012, 0.06
"""Between a name and its curve, and from other curves, beyond which more is no better."""
CROSSING_COST = 0.02
GRID = (81, 41)
"""Positions across and up that are tried."""


def name_curves(
    ax: Axes,
    curves: Mapping[str, Points],
    colours: Sequence[str],
    *,
    upright: Sequence[float] = (),
) -> None:
    """Name curves, each by the points [n, 2] of its lines, best off the `upright` lines at x.

    Points are in data coordinates; the limits and scales of the axes must be set by now. A curve
    without points gets no name.
    """
    width, height = _axes_size(ax)
    lines = {name: _to_heights(ax, points) for name, points in curves.items() if len(points)}
    # 50 points on the height of a line: nearer to each other than a box is high.
    crossings = [
        _to_heights(ax, np.stack([np.full(50, x), np.linspace(*ax.get_ylim(), 50)], 1))
        for x in upright
    ]
    placed_names: list[Points] = []
    for (name, points), colour in zip(curves.items(), colours, strict=True):
        if not len(points):
            continue
        box = np.array([LETTER_WIDTH * min(len(name), MAX_LETTERS), LINE_HEIGHT]) / height
        rivals = [other for key, other in lines.items() if key != name] + placed_names
        centres = _candidates(box, width / height)
        scores = _scores(centres, box, lines[name], rivals, crossings)
        x, y = centres[scores.argmax()]
        # The name as five points across, so that later names keep away from all of it.
        across = np.linspace(-0.5, 0.5, 5)[:, None] * box * np.array([1, 0])
        placed_names.append(np.array([x, y]) + across)
        position = (x * height / width, y)  # in shares of the axes
        style: Any = {"color": colour, "fontsize": FONT_SIZE, "ha": "center", "va": "center"}
        ax.text(*position, name, transform=ax.transAxes, **style)


def _candidates(box: Points, width: float) -> Points:
    """Centres [m, 2] at which a box lies within axes that are `width` heights wide."""
    x, y = (np.linspace(0, end, count) for end, count in zip((width, 1.0), GRID, strict=True))
    centres = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    margin = box / 2 + LEAST_GAP
    return centres[((centres >= margin) & (centres <= np.array([width, 1.0]) - margin)).all(1)]


def _scores(
    centres: Points,
    box: Points,
    curve: Points,
    others: Sequence[Points],
    crossings: Sequence[Points],
) -> Points:
    """How good each centre [m] is (above); −1 where the box would touch its own curve."""
    gap = _distances(centres, curve, box)
    # 9 heights: farther than any point of the axes, for a curve that is alone.
    nearest = np.min([_distances(centres, points, box) for points in others], 0, initial=9.0)
    # A reader takes a name for that of the nearest curve. The cost of 1 is more than all the room
    # of another position gains, which is 2 · ENOUGH_ROOM.
    ambiguous = nearest < 2 * gap
    struck = np.any([_distances(centres, points, box) == 0 for points in crossings], 0)
    # 2 min(r, ENOUGH_ROOM) − d − [r < 2 d] − CROSSING_COST · [on an upright line], [m]
    score = 2 * np.minimum(nearest, ENOUGH_ROOM) - gap - ambiguous - CROSSING_COST * struck
    return np.where(gap < LEAST_GAP, -1.0, score)


def _distances(centres: Points, points: Points, box: Points) -> Points:
    """From boxes about centres [m, 2] to the nearest of the points [n, 2]: [m]."""
    # Distance to a rectangle: what lies outside of it in x and in y, 0 within; [m, n, 2].
    outside = np.abs(centres[:, None] - points[None]) - box / 2
    return np.hypot(*np.moveaxis(np.maximum(outside, 0), -1, 0)).min(1)


def _to_heights(ax: Axes, points: Points) -> Points:
    """Data coordinates [n, 2] in heights of the axes, from their lower left corner."""
    shares = ax.transAxes.inverted().transform(ax.transData.transform(points))
    width, height = _axes_size(ax)
    return shares * np.array([width / height, 1.0])


def _axes_size(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points, about: the layout is only settled when drawn."""
    points = 72 / ax.figure.dpi
    return points * ax.bbox.width, points * ax.bbox.height
