"""Upper bounds of logits from a coarse view: one matrix product of a few columns.

With z_i = x_i − c about the centre c of the coarse view, y = x − α c, g = α/σ² and h = g α/2,

    l_i = log w_i + g ⟨y, z_i⟩ − h ‖z_i‖²
        ≤ log w_i + g ⟨V y, V z_i⟩ + g Σ_b ‖y_b‖ ‖z_ib‖ − h ‖z_i‖² = U_i,

which is linear in what is known of an atom, [V z_i, ‖z_ib‖, ‖z_i‖² − μ, log w_i]. A *level* holds
these features for some number of coordinates; deeper levels hold more. Everything that float32
may do to U_i, and that directions are orthonormal only up to their defect, is bounded once for
all atoms of a level, by the largest entries of its columns (Higham 2002, §3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

SINGLE, DOUBLE = 2.0**-24, 2.0**-53
"""Unit roundoffs."""
HALF, HALF_STEP = 2.0**-11, 2.0**-25
"""That of float16, and half the step between its smallest numbers."""
UNSEEN = 2.0**-58
"""More than the length of 1024 numbers whose squares vanish in float32."""
OVERFLOW = 1e38
"""Sums of products that may grow larger are no use in float32."""
ROWS = 8192
"""Atoms whose half-precision coordinates are widened together."""
TOGETHER = 2**19
"""Features of pairs that are multiplied together: they should stay in cache."""


def gamma(terms: float, unit: float) -> float:
    """Higham's γ: the relative rounding of a sum of so many products, in any order."""
    return terms * unit / (1 - terms * unit) if terms * unit < 0.5 else torch.inf


def lowered(exact: Tensor) -> Tensor:
    """Numbers in float32, rounded down."""
    return (exact - 8 * SINGLE * exact.abs()).float()


@dataclass(frozen=True)
class View:
    """Queries as a coarse view sees them; float64, [b] unless stated."""

    centred: Tensor
    """y, [b, D]."""
    gain: Tensor
    """g = α/σ², over the temperature."""
    half: Tensor
    """h = g α / 2."""
    length: Tensor
    """At least ‖y‖."""
    along: Tensor
    """V y, [b, L]."""
    squares: Tensor
    """Sums of the first 0, 1, … L squares of V y, [b, L + 1]."""
    beyond: Tensor
    """At least the length of what no direction spans of y."""
    skew: Tensor
    """How far V y may be from coordinates along truly orthonormal directions."""
    rate: Tensor
    """How far one coordinate of V y may be from what it should be."""
    slip: Tensor
    """What float64 may lose of a logit."""

    def of(self, chosen: Tensor) -> View:
        """Some of the queries."""
        return View(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def lengths(self, edges: Sequence[int]) -> Tensor:
        """At least the lengths of y along the directions between edges, [b, len(edges) − 1]."""
        squares = self.squares[:, list(edges)].diff(dim=1).clamp(min=0)
        widths = torch.tensor(edges, dtype=torch.float64, device=squares.device).diff()
        return squares.sqrt() + self.off(widths)

    def off(self, widths: Tensor) -> Tensor:
        """How far so many coordinates may be from those along orthonormal directions [b, w]."""
        return self.skew[:, None] + self.rate[:, None] * widths.sqrt()


class Held(NamedTuple):
    """What is known of every atom, of which levels are made."""

    coordinates: Tensor
    """float32 or float16 [n, K]."""
    remainders: Tensor
    """float32 [n, bands]."""
    edges: tuple[int, ...]
    norms: Tensor
    """‖z_i‖² − μ, float32 [n]."""
    middle: float
    """μ."""
    log_weights: Tensor
    """float32 [n]."""
    off: float
    """How far coordinates may be off before they were rounded to be held."""


@dataclass(frozen=True)
class BoundLevel:
    """What a certain number of coordinates tells about every atom; made by `level_of`."""

    width: int
    edges: tuple[int, ...]
    """Bands of directions beyond `width`; one more is what none spans."""
    parts: tuple[Tensor, ...]
    """Features of all atoms, [n, columns] each; float32 (coordinates perhaps float16)."""
    sample: Tensor
    """Features of a few atoms, float32 [s, columns]."""
    longest: float
    """The largest length of held coordinates."""
    rounded: float
    """The largest distance of held coordinates from true ones."""
    largest: Tensor
    """The largest of every further column, float64 [bands + 2]."""
    middle: float
    """μ, subtracted from ‖z‖²."""

    @property
    def columns(self) -> int:
        """The number of features."""
        return self.sample.shape[1]

    def coefficients(self, view: View) -> Tensor:
        """What features are multiplied by, float32 [b, columns]."""
        scaled = view.gain[:, None] * view.along[:, : self.width]
        return torch.cat([scaled, self._further(view)], 1).float()

    def allowance(self, view: View) -> Tensor:
        """How far products may be below U + h μ, and U itself below the logit; [b]."""
        along = view.lengths((0, self.width))[:, 0]
        off = view.skew + view.rate * self.width**0.5
        terms = view.gain * along * self.longest + self._further(view).abs() @ self.largest
        cross = off * self.longest + along * self.rounded
        found = gamma(self.columns + 6, SINGLE) * terms + view.gain * cross + view.slip
        return torch.where(terms < OVERFLOW, found, torch.inf)

    def thresholds(self, view: View, cut: Tensor) -> Tensor:
        """Products below these belong to logits below `cut` [b]; float32, rounded down."""
        return lowered(cut + view.half * self.middle - self.allowance(view))

    def bounds(self, coefficients: Tensor, out: Tensor) -> Tensor:
        """The products of all atoms, written to float32 [n, b]."""
        start = 0
        for part in self.parts:
            factor = coefficients[:, start : start + part.shape[1]].T
            rows = len(part) if part.dtype == torch.float32 else ROWS
            for some, place in zip(part.split(rows), out.split(rows), strict=True):
                torch.addmm(place, some.float(), factor, beta=min(1, start), out=place)
            start += part.shape[1]
        return out

    def pairs(self, coefficients: Tensor, atoms: Tensor, asked: Tensor) -> Tensor:
        """The products of pairs (atom, query), float32 [p]."""
        found = [coefficients.new_empty(0)]
        size = max(64, TOGETHER // self.columns)
        for some, of in zip(atoms.split(size), asked.split(size), strict=True):
            features = torch.cat([part.index_select(0, some).float() for part in self.parts], 1)
            found.append(features.mul_(coefficients.index_select(0, of)).sum(1))
        return torch.cat(found)

    def _further(self, view: View) -> Tensor:
        bands = [view.lengths(self.edges), view.beyond[:, None]]
        scaled = view.gain[:, None] * torch.cat(bands, 1)
        return torch.cat([scaled, -view.half[:, None], torch.ones_like(view.half)[:, None]], 1)


def bound_level(held: Held, width: int, sample: Tensor) -> BoundLevel:
    """A level of the first `width` coordinates; `sample` are positions of a few atoms."""
    coordinates, full = held.coordinates, held.coordinates.shape[1]
    lengths = _lengths(coordinates)
    rounded = _rounded(coordinates, lengths) + held.off
    edges = inner_edges(width, full)
    inside = [_lengths(coordinates[:, low:high]) + rounded for low, high in pairwise(edges)]
    bands = torch.stack(inside, 1) if inside else held.remainders[:, :0]
    further = [bands, held.remainders, held.norms[:, None], held.log_weights[:, None]]
    further = torch.cat([piece.float() for piece in further], 1)
    first = coordinates[:, :width]
    parts = (first, further) if width == full else (torch.cat([first.float(), further], 1),)
    return BoundLevel(
        width,
        edges + held.edges[1:],
        parts,
        torch.cat([part[sample].float() for part in parts], 1),
        float(_lengths(first).max()),
        float(rounded.max()),
        further.abs().amax(0).double(),
        held.middle,
    )


def inner_edges(width: int, full: int) -> tuple[int, ...]:
    """Edges width, 1.5 width, 2 width, 3 width, … of bands up to all held coordinates."""
    edges, step = [width], width
    while edges[-1] < full:
        edges.append(min(full, edges[-1] + step // 2 or full))
        step = step if len(edges) % 2 == 0 else 2 * step
    return tuple(edges)


def _lengths(coordinates: Tensor) -> Tensor:
    """At least the lengths of rows, float32."""
    total = torch.zeros(len(coordinates), device=coordinates.device)
    for column in coordinates.split(64, 1):
        total += column.float().square().sum(1)
    return total.sqrt() * (1 + 1e-4) + UNSEEN


def _rounded(coordinates: Tensor, lengths: Tensor) -> Tensor:
    if coordinates.dtype == torch.float16:
        return lengths * HALF + HALF_STEP * coordinates.shape[1] ** 0.5
    return lengths * SINGLE
