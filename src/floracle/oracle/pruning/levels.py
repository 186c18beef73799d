"""Upper bounds of logits from a coarse view: one matrix product of a few columns.

With z_i = x_i − c about the centre c of the coarse view, y = x − α c, g = α/σ² and h = g α/2,

    l_i = log w_i + g ⟨y, z_i⟩ − h ‖z_i‖²
        ≤ log w_i + g ⟨V y, V z_i⟩ + g Σ_b ‖y_b‖ ‖z_ib‖ − h ‖z_i‖² = U_i,

which is linear in what is known of a point, [V z_i, ‖z_ib‖, ‖z_i‖² − μ, log w_i], its *features*.
A *level* holds them for some number of coordinates; deeper levels hold more. Everything that
float32 may do to U_i, and that directions are orthonormal only up to their defect, is bounded once
for all points of a level, by the largest entries of its columns (Higham 2002, §3.1): a point is
ruled out where its product is below a threshold that has been lowered by this allowance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

FLOAT32_UNIT, FLOAT64_UNIT = 2.0**-24, 2.0**-53
"""Unit roundoffs."""
FLOAT16_UNIT, FLOAT16_HALF_STEP = 2.0**-11, 2.0**-25
"""That of float16, and half the step between its smallest numbers."""
VANISHED_LENGTH = 2.0**-58
"""More than the length of 1024 numbers whose squares vanish in float32."""
OVERFLOW = 1e38
"""Sums of products that may grow larger are of no use in float32."""
WIDENED_ROWS = 8192
"""Points whose half-precision coordinates are widened together."""
PAIR_FEATURES = 2**19
"""Features of pairs that are multiplied together: they should stay in cache."""


def gamma(terms: float, unit: float) -> float:
    """γ_n = n u / (1 − n u): the relative rounding of a sum of n products in any order."""
    return terms * unit / (1 - terms * unit) if terms * unit < 0.5 else torch.inf


def rounded_down(exact: Tensor) -> Tensor:
    """Numbers in float32, rounded down."""
    return (exact - 8 * FLOAT32_UNIT * exact.abs()).float()


@dataclass(frozen=True)
class ProjectedQueries:
    """Queries seen along the directions of a coarse view; float64, [b] unless stated."""

    centred: Tensor
    """y = x − α c, [b, D]."""
    gain: Tensor
    """g = α/σ²."""
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
    coordinate_error: Tensor
    """How far one coordinate of V y may be from what it should be."""
    logit_error: Tensor
    """What float64 may lose of a logit."""

    def of(self, indices: Tensor) -> ProjectedQueries:
        """Some of the queries."""
        return ProjectedQueries(*(values[indices] for values in vars(self).values()))

    def lengths(self, edges: Sequence[int]) -> Tensor:
        """At least the lengths of y along the directions between edges, [b, len(edges) − 1]."""
        squares = self.squares[:, list(edges)].diff(dim=1).clamp(min=0)
        widths = torch.tensor(edges, dtype=torch.float64, device=squares.device).diff()
        return squares.sqrt() + self.skew[:, None] + self.coordinate_error[:, None] * widths.sqrt()


class PointFeatures(NamedTuple):
    """What is known of every point, of which levels are made."""

    coordinates: Tensor
    """V z_i along the leading directions, float32 or float16 [n, K]."""
    remainders: Tensor
    """‖z_ib‖ in every band of the further ones, float32 [n, bands]."""
    edges: tuple[int, ...]
    norms: Tensor
    """‖z_i‖² − μ, float32 [n]."""
    mean_norm: float
    """μ, so that float32 holds the norms well."""
    log_weights: Tensor
    """log w_i, float32 [n]."""
    coordinate_error: float
    """How far coordinates may be off before they were rounded to be stored."""


@dataclass(frozen=True)
class BoundLevel:
    """Features of every point with a certain number of coordinates; made by `make_level`."""

    width: int
    edges: tuple[int, ...]
    """Bands of directions beyond `width`; one more is what none spans."""
    parts: tuple[Tensor, ...]
    """The features of all points, [n, columns] each; float32 (coordinates perhaps float16)."""
    sample: Tensor
    """The features of a few points, float32 [s, columns]."""
    max_length: float
    """The largest length of stored coordinates."""
    max_rounding: float
    """The largest distance of stored coordinates from true ones."""
    max_features: Tensor
    """The largest entry of every column beyond the coordinates, float64 [bands + 2]."""
    mean_norm: float
    """μ."""

    @property
    def columns(self) -> int:
        """The number of features."""
        return self.sample.shape[1]

    def coefficients(self, queries: ProjectedQueries) -> Tensor:
        """What features are multiplied by: g V y, g ‖y_b‖, −h and 1; float32 [b, columns]."""
        scaled = queries.gain[:, None] * queries.along[:, : self.width]
        return torch.cat([scaled, self._further(queries)], 1).float()

    def thresholds(self, queries: ProjectedQueries, cut: Tensor) -> Tensor:
        """Products below these belong to logits below `cut` [b]; float32, rounded down."""
        return rounded_down(cut + queries.half * self.mean_norm - self._allowance(queries))

    def bounds(self, coefficients: Tensor, out: Tensor) -> Tensor:
        """U_i + h μ of all points, up to rounding, written to float32 [n, b]."""
        start = 0
        for part in self.parts:
            factor = coefficients[:, start : start + part.shape[1]].T
            rows = len(part) if part.dtype == torch.float32 else WIDENED_ROWS
            for features, bounds in zip(part.split(rows), out.split(rows), strict=True):
                torch.addmm(bounds, features.float(), factor, beta=min(1, start), out=bounds)
            start += part.shape[1]
        return out

    def pair_bounds(self, coefficients: Tensor, points: Tensor, queries: Tensor) -> Tensor:
        """U_i + h μ of pairs (point, query) [p] each, float32 [p]."""
        bounds = [coefficients.new_empty(0)]
        size = max(64, PAIR_FEATURES // self.columns)
        for some, of in zip(points.split(size), queries.split(size), strict=True):
            features = torch.cat([part.index_select(0, some).float() for part in self.parts], 1)
            bounds.append(features.mul_(coefficients.index_select(0, of)).sum(1))
        return torch.cat(bounds)

    def _allowance(self, queries: ProjectedQueries) -> Tensor:
        """How far products may be below U + h μ, and U itself below the logit; [b]."""
        length = queries.lengths((0, self.width))[:, 0]
        error = queries.skew + queries.coordinate_error * self.width**0.5
        terms = (
            queries.gain * length * self.max_length
            + self._further(queries).abs() @ self.max_features
        )
        cross = error * self.max_length + length * self.max_rounding
        rounding = gamma(self.columns + 6, FLOAT32_UNIT) * terms
        allowance = rounding + queries.gain * cross + queries.logit_error
        return torch.where(terms < OVERFLOW, allowance, torch.inf)

    def _further(self, queries: ProjectedQueries) -> Tensor:
        """The coefficients beyond those of coordinates, float64 [b, bands + 2]."""
        bands = [queries.lengths(self.edges), queries.beyond[:, None]]
        scaled = queries.gain[:, None] * torch.cat(bands, 1)
        ones = torch.ones_like(queries.half)[:, None]
        return torch.cat([scaled, -queries.half[:, None], ones], 1)


def make_level(features: PointFeatures, width: int, sample: Tensor) -> BoundLevel:
    """A level of the first `width` coordinates; `sample` are positions of a few points."""
    coordinates, full = features.coordinates, features.coordinates.shape[1]
    lengths = _lengths(coordinates)
    rounding = _storage_rounding(coordinates, lengths) + features.coordinate_error
    edges = inner_edges(width, full)
    # Bands among the stored coordinates, then those of the remainders.
    inner = [_lengths(coordinates[:, low:high]) + rounding for low, high in pairwise(edges)]
    bands = torch.stack(inner, 1) if inner else features.remainders[:, :0]
    further = [bands, features.remainders, features.norms[:, None], features.log_weights[:, None]]
    further = torch.cat([piece.float() for piece in further], 1)
    first = coordinates[:, :width]
    parts = (first, further) if width == full else (torch.cat([first.float(), further], 1),)
    return BoundLevel(
        width,
        edges + features.edges[1:],
        parts,
        sample=torch.cat([part[sample].float() for part in parts], 1),
        max_length=float(_lengths(first).max()),
        max_rounding=float(rounding.max()),
        max_features=further.abs().amax(0).double(),
        mean_norm=features.mean_norm,
    )


def inner_edges(width: int, full: int) -> tuple[int, ...]:
    """Edges width, 1.5 width, 2 width, 3 width, … of bands up to all stored coordinates."""
    edges, step = [width], width
    while edges[-1] < full:
        edges.append(min(full, edges[-1] + step // 2 or full))
        step = step if len(edges) % 2 == 0 else 2 * step
    return tuple(edges)


def _lengths(coordinates: Tensor) -> Tensor:
    """At least the lengths of rows, float32 [n]."""
    squares = torch.zeros(len(coordinates), device=coordinates.device)
    for columns in coordinates.split(64, 1):  # a narrow float32 copy at a time
        squares += columns.float().square().sum(1)
    return squares.sqrt() * (1 + 1e-4) + VANISHED_LENGTH


def _storage_rounding(coordinates: Tensor, lengths: Tensor) -> Tensor:
    """How far stored coordinates may be from what was rounded to store them; [n]."""
    if coordinates.dtype == torch.float16:
        return lengths * FLOAT16_UNIT + FLOAT16_HALF_STEP * coordinates.shape[1] ** 0.5
    return lengths * FLOAT32_UNIT
