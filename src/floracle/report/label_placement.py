"""Where the names of curves go: beside their own curve, away from all else that is drawn.

Everything is measured in heights of the axes. A name is a box; of all places on a grid it takes
the one farthest from other curves and nearest to its own, without touching it; it stands on the
upright line of a landmark only where there is no better place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Points = NDArray[np.float64]

LETTER, LINE = 5.0, 11.0
"""The width of a letter and the height of a line of size 9, in points of 1/72 inch."""
LONGEST = 50
"""Letters beyond these are not made room for."""
GAP, ENOUGH = 0.012, 0.06
"""The least room between a name and its curve, and the room beyond which more is no better."""
CROSSED = 0.02
"""What standing on an upright line costs, in room."""
GRID = (81, 41)
"""Places across and up that are tried."""


def name_curves(
    ax: Axes, curves: Mapping[str, Points], colours: Sequence[str], *, lines: Points
) -> None:
    """Name curves, each the points [n, 2] of its lines; best off the upright `lines`.

    Points and lines are in data coordinates; limits and scales of the axes must be set by now.
    """
    drawn = {name: _placed(ax, points) for name, points in curves.items()}
    upright = [np.stack([np.full(50, x), np.linspace(*ax.get_ylim(), 50)], 1) for x in lines]
    crossed = [_placed(ax, line) for line in upright]
    taken: list[Points] = []
    for (name, own), colour in zip(drawn.items(), colours, strict=True):
        size = _size(ax, name)
        rivals = [points for other, points in drawn.items() if other != name]
        middles = _middles(size, _shape(ax)[0] / _shape(ax)[1])
        centre = middles[_merit(middles, size, own, [*rivals, *taken], crossed).argmax()]
        taken.append(
            centre + size * np.array([[-0.5, 0], [-0.25, 0], [0, 0], [0.25, 0], [0.5, 0]])
        )
        place = (centre[0] * _shape(ax)[1] / _shape(ax)[0], centre[1])
        words = {"color": colour, "fontsize": 9, "ha": "center", "va": "center"}
        ax.text(*place, name, transform=ax.transAxes, **words)


def _middles(size: Points, wide: float) -> Points:
    """Where the middle of a name of this size may be on axes `wide` heights wide: [m, 2]."""
    across, up = (np.linspace(0, end, count) for end, count in zip((wide, 1.0), GRID, strict=True))
    middles = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)
    room = size / 2 + GAP
    return middles[((middles >= room) & (middles <= np.array([wide, 1.0]) - room)).all(1)]


def _merit(
    middles: Points,
    size: Points,
    own: Points,
    others: Sequence[Points],
    crossed: Sequence[Points],
) -> Points:
    """How good each place [m] is: far from the others, near its own, best on no upright line."""
    away = _distances(middles, own, size)
    rivals = np.min([_distances(middles, points, size) for points in others], 0, initial=9.0)
    doubtful = rivals < 2 * away
    struck = np.any([_distances(middles, points, size) == 0 for points in crossed], 0)
    return np.where(
        away < GAP, -1.0, 2 * np.minimum(rivals, ENOUGH) - away - doubtful - CROSSED * struck
    )


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
    return np.array([LETTER * min(len(name), LONGEST), LINE]) / _shape(ax)[1]


def _shape(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points, about: the layout is only settled when drawn."""
    points = 72 / ax.figure.dpi
    return points * ax.bbox.width, points * ax.bbox.height
