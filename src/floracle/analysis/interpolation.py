"""Values of curves between the times at which they were measured.

Curves over t bend most where times are fewest. Over the predicted information I_G(t) they hardly
do: the measured information is I_G less a little until the collapse, and the variance falls nearly
along a line. So measured values are joined by monotone cubics in I_G (Fritsch & Carlson 1980), and
I_G itself by one in t, of its root, which is nearly a line at first. Numbers and drawn lines come
from the same curves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from torch import Tensor

Array = NDArray[np.float64]
STEPS_BETWEEN_TIMES = 32
"""Steps from one time to the next at which the coordinate is tabulated, to invert it."""
BISECTIONS = 40
"""Halvings until a crossing is known to 10⁻¹² of the interval."""


class MeasuredTimes:
    """The measured times along a coordinate in which curves hardly bend: I_G, or t itself.

    I_G serves where it increases strictly; otherwise t does.
    """

    def __init__(self, times: Any, information: Any | None = None) -> None:
        self.times = _to_array(times)
        nats = None if information is None else _to_array(information).clip(0)
        self._root = None
        if nats is not None and (np.diff(nats) > 0).all():
            self._root = PchipInterpolator(self.times, np.sqrt(nats))
        self.nodes = self.at(self.times)

    def at(self, times: Any) -> Array:
        """The coordinates of times."""
        t = _to_array(times)
        return t if self._root is None else self._root(t) ** 2

    def times_of(self, coordinates: Array) -> Array:
        """The times of coordinates, to within a thousandth of the way to the next."""
        if self._root is None:
            return coordinates
        steps = np.linspace(0, 1, STEPS_BETWEEN_TIMES, endpoint=False)
        fine = (self.times[:-1, None] + np.diff(self.times)[:, None] * steps).ravel()
        fine = np.append(fine, self.times[-1])
        return np.interp(coordinates, self.at(fine), fine)

    def values(self, curves: Any, times: Any) -> Array:
        """Curves [..., T] at other times; beyond the measured ones their end values."""
        t = _to_array(times).clip(self.times[0], self.times[-1])
        return _monotone_cubics(self.nodes, _to_array(curves))(self.at(t))

    def reached(self, curves: Any, levels: Any) -> tuple[Array, Array]:
        """The times at which curves [c, T] first reach levels [c], or NaN.

        Returned by cubics and by straight lines: their difference is what the times leave open.
        """
        curves, levels = _to_array(curves), np.broadcast_to(_to_array(levels), len(curves))
        above = curves >= levels[:, None]
        after, reached = above.argmax(1), above.any(1)  # the first measured time at the level
        before, rows = (after - 1).clip(0), np.arange(len(curves))
        low, high = self.nodes[before], self.nodes[after]
        with np.errstate(divide="ignore", invalid="ignore"):
            rise = curves[rows, after] - curves[rows, before]
            share = np.where(after > 0, (levels - curves[rows, before]) / rise, 0.0)
        linear = low + share * (high - low)

        # bisection of the cubic, all curves at once; its polynomial starts at the node before
        cubics = _monotone_cubics(self.nodes, curves).c[:, before, rows]
        start, stop = np.zeros_like(low), high - low
        for _ in range(BISECTIONS):
            middle = (start + stop) / 2
            over = np.polyval(cubics, middle) >= levels
            start, stop = np.where(over, start, middle), np.where(over, middle, stop)
        cubic = np.where(after > 0, low + stop, low)
        times = self.times_of(np.where(reached, [cubic, linear], self.nodes[0]))
        return tuple(np.where(reached, times, np.nan))


def _monotone_cubics(nodes: Array, curves: Array) -> PchipInterpolator:
    with np.errstate(over="ignore"):  # slopes next to 0 have inverses that float64 does not hold
        return PchipInterpolator(nodes, curves, axis=-1)


def _to_array(values: Any) -> Array:
    array = values.detach().cpu() if isinstance(values, Tensor) else values
    return np.asarray(array, dtype=np.float64)
