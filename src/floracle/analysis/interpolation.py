"""Values of curves between the times at which they were measured.

Curves over t bend most where times are fewest. Over the information that is predicted to be known
by then, I_G(t), they hardly do: the measured information is I_G less a little until the collapse,
and the variance falls nearly along a line. So what is measured is joined by monotone cubics in I_G
(Fritsch & Carlson 1980), and I_G itself by one in t, of its root, which is nearly a line at first.
Numbers and drawn lines come from the same curves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from torch import Tensor

Array = NDArray[np.float64]
FINER = 32
"""Places on the way from one time to the next at which it is known where a place lies in t."""
BISECTED = 40
"""Halvings until a crossing is known to 10⁻¹² of the way."""


class MeasuredTimes:
    """Where times lie along a coordinate in which curves hardly bend; t itself without any."""

    def __init__(self, times: Any, information: Any | None = None) -> None:
        self.times = _numbers(times)
        known = None if information is None else _numbers(information).clip(0)
        self._root = None
        if known is not None and (np.diff(known) > 0).all():
            self._root = PchipInterpolator(self.times, np.sqrt(known))
        self.nodes = self.at(self.times)

    def at(self, times: Any) -> Array:
        """The places of times."""
        t = _numbers(times)
        return t if self._root is None else self._root(t) ** 2

    def times_of(self, places: Array) -> Array:
        """The times of places, to within a thousandth of the way to the next."""
        if self._root is None:
            return places
        steps = np.linspace(0, 1, FINER, endpoint=False)
        fine = (self.times[:-1, None] + np.diff(self.times)[:, None] * steps).ravel()
        fine = np.append(fine, self.times[-1])
        return np.interp(places, self.at(fine), fine)

    def values(self, curves: Any, times: Any) -> Array:
        """Curves [..., T] at other times; at their ends beyond these."""
        t = _numbers(times).clip(self.times[0], self.times[-1])
        return _through(self.nodes, _numbers(curves))(self.at(t))

    def reached(self, curves: Any, levels: Any) -> tuple[Array, Array]:
        """Where curves [c, T] first reach levels [c], by cubics and along straight lines; or NaN.

        What both are apart is what the times leave open.
        """
        curves, levels = _numbers(curves), np.broadcast_to(_numbers(levels), len(curves))
        above = curves >= levels[:, None]
        after, known = above.argmax(1), above.any(1)
        before, rows = (after - 1).clip(0), np.arange(len(curves))
        low, high = self.nodes[before], self.nodes[after]
        with np.errstate(divide="ignore", invalid="ignore"):
            rise = curves[rows, after] - curves[rows, before]
            share = np.where(after > 0, (levels - curves[rows, before]) / rise, 0.0)
        straight = low + share * (high - low)
        cubics = _through(self.nodes, curves).c[:, before, rows]  # from the node before
        start, stop = np.zeros_like(low), high - low
        for _ in range(BISECTED):
            middle = (start + stop) / 2
            over = np.polyval(cubics, middle) >= levels
            start, stop = np.where(over, start, middle), np.where(over, middle, stop)
        bent = np.where(after > 0, low + stop, low)
        found = self.times_of(np.where(known, [bent, straight], self.nodes[0]))
        return tuple(np.where(known, found, np.nan))


def _through(nodes: Array, curves: Array) -> PchipInterpolator:
    """Monotone cubics through curves [..., T]."""
    with np.errstate(over="ignore"):  # slopes next to 0 have inverses that float64 does not hold
        return PchipInterpolator(nodes, curves, axis=-1)


def _numbers(values: Any) -> Array:
    found = values.detach().cpu() if isinstance(values, Tensor) else values
    return np.asarray(found, dtype=np.float64)
