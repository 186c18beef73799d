"""Where the names of curves go: beside their own curve, away from all else that is drawn.

Everything is measured in heights of the axes. A name is a box; of all places on a grid it takes
the one that is farthest from other curves and nearest to its own, without touching it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .plots import numbers, smooth

Points = NDArray[np.float64]

LETTER, LINE = 5.3, 11.0
"""The width of a letter and the height of a line of size 9, in points of 1/72 inch."""
GAP, ENOUGH = 0.012, 0.06
"""The least room between a name and its curve, and the room beyond which more is no better."""
GRID = (81, 41)
"""Places across and up that are tried."""


def name_curves(
    ax: Axes, curves: Mapping[str, Sequence[Points]], colours: Sequence[str], *, lines: Points
) -> None:
    """Name curves, each the points [n, 2] of one or several lines; keep off vertical `lines`.

    Points and lines are in data coordinates; limits and scales of the axes must be set by now.
    """
    drawn = {name: _placed(ax, np.concatenate(parts)) for name, parts in curves.items()}
    upright = [np.stack([np.full(50, x), np.linspace(*ax.get_ylim(), 50)], 1) for x in lines]
    taken = [_placed(ax, line) for line in upright]
    for (name, own), colour in zip(drawn.items(), colours, strict=True):
        size = _size(ax, name)
        rivals = [points for other, points in drawn.items() if other != name]
        centre = _best(own, [*rivals, *taken], size, wide=_shape(ax)[0] / _shape(ax)[1])
        taken.append(
            centre + size * np.array([[-0.5, 0], [-0.25, 0], [0, 0], [0.25, 0], [0.5, 0]])
        )
        place = (centre[0] * _shape(ax)[1] / _shape(ax)[0], centre[1])
        words = {"color": colour, "fontsize": 9, "ha": "center", "va": "center"}
        ax.text(*place, name, transform=ax.transAxes, **words)


def line_points(times: object, *values: object) -> list[Points]:
    """The points [n, 2] of lines through values at times, as `band` draws them."""
    fine, *found = smooth(times, *(numbers(value) for value in values))
    return [np.stack([fine, line], 1) for line in found]


def _best(own: Points, others: Sequence[Points], size: Points, *, wide: float) -> Points:
    """The middle [2] of the name's best place on axes `wide` heights wide."""
    across, up = (np.linspace(0, end, count) for end, count in zip((wide, 1.0), GRID, strict=True))
    middles = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)
    inside = (middles >= size / 2 + GAP) & (middles <= np.array([wide, 1.0]) - size / 2 - GAP)
    middles = middles[inside.all(1)]
    away = _distances(middles, own, size)
    rivals = np.min([_distances(middles, points, size) for points in others], 0, initial=ENOUGH)
    return middles[np.where(away < GAP, -1.0, rivals - away).argmax()]


def _distances(middles: Points, points: Points, size: Points) -> Points:
    """From boxes [m, 2] of one size to the nearest of the points [n, 2]: float64 [m]."""
    apart = np.abs(middles[:, None] - points[None]) - size / 2
    return np.hypot(*np.moveaxis(np.maximum(apart, 0), -1, 0)).min(1)


def _placed(ax: Axes, points: Points) -> Points:
    """Data coordinates in heights of the axes, from their lower left corner."""
    shares = ax.transAxes.inverted().transform(ax.transData.transform(points))
    wide, high = _shape(ax)
    return shares * np.array([wide / high, 1.0])


def _size(ax: Axes, name: str) -> Points:
    return np.array([LETTER * len(name), LINE]) / _shape(ax)[1]


def _shape(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points, about: the layout is only settled when drawn."""
    points = 72 / ax.figure.dpi
    return points * ax.bbox.width, points * ax.bbox.height
