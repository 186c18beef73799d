"""What survives a screen, evaluated over all coordinates: float32 with a bound, then float64.

Against a leader L the logit of point i is, with a = x − α x_L and d = x_i − x_L,

    l_i − l_L = g (⟨a, d⟩ − α ‖d‖² / 2) + log w_i / w_L,

and the mean is x_L + Σ γ_i d_i: nothing cancels, and a leader alone is the mean to the last bit.
If every logit is right to within e, weights are right to within a factor e^{±2e}, so

    ‖x̂_S − computed‖ ≤ (e^{2e} − 1) Σ γ_i ‖d_i‖,

and points left out, whose logits are below `cut`, move it by at most their mass times their
distance. Sums of products are taken in √D pieces of √D, which keeps their rounding at 2 √D units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.oracle.class_points import ClassPoints
from floracle.oracle.posterior import PosteriorSums
from floracle.oracle.queries import Queries

from .levels import FLOAT32_UNIT, FLOAT64_UNIT, PAIR_FEATURES, ProjectedQueries, gamma
from .screen import MARGIN, Screen

READ_COORDINATES = 2**22
"""Coordinates of points outside memory that are read together."""
FLOAT64_COORDINATES = 2**20
"""Coordinates of points that are evaluated together in float64."""
MIN_LOGIT = -1e4
"""Logits relative to the largest are bounded here where they multiply weights of zero."""


@dataclass(frozen=True)
class UndecidedPairs:
    """Pairs of a point and a query that may matter to each other; int64 [p]."""

    points: Tensor
    """Positions in the class."""
    queries: Tensor
    """Which query."""

    def of(self, indices: Tensor) -> UndecidedPairs:
        """Some of the pairs."""
        return UndecidedPairs(self.points[indices], self.queries[indices])

    def counts(self, queries: int) -> Tensor:
        """How many each query has, int64 [b]."""
        return torch.bincount(self.queries, minlength=queries)

    def best(self, values: Tensor, queries: int) -> tuple[Tensor, Tensor]:
        """The largest value of each query [b], and the position it belongs to, int64 [b]."""
        best = values.new_full((queries,), -torch.inf)
        best = best.scatter_reduce(0, self.queries, values, "amax")
        is_best = values >= best[self.queries]
        leaders = self.points.new_zeros(queries)
        leaders[self.queries[is_best]] = self.points[is_best]
        return best, leaders


@dataclass(frozen=True)
class CertifiedPosterior:
    """The posterior over survivors, and how far the velocity may be off; float64, [p]."""

    indices: Tensor
    """Which queries these are, int64."""
    sums: PosteriorSums
    mean: Tensor
    """[p, D]."""
    missing: Tensor
    """A proven upper bound on the posterior weight of all points left out."""
    error: Tensor
    """A proven upper bound on ‖u − u_S‖ / ‖u‖, the rounding of this evaluation included."""
    rounding_error: Tensor
    """The part of it that evaluating more points would not mend."""
    touched: Tensor
    """How many points were evaluated over all coordinates, int64."""

    def of(self, rows: Tensor) -> CertifiedPosterior:
        """The posterior of some of the queries."""
        columns = {name: value for name, value in vars(self).items() if name != "sums"}
        chosen = {name: value[rows] for name, value in columns.items()}
        return CertifiedPosterior(sums=self.sums.of(rows), **chosen)

    @staticmethod
    def cat(parts: Sequence[CertifiedPosterior]) -> CertifiedPosterior:
        """The posterior of several sets of queries."""
        names = [name for name in vars(parts[0]) if name != "sums"]
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return CertifiedPosterior(sums=PosteriorSums.cat([p.sums for p in parts]), **columns)


def float32_logits(
    screen: Screen, queries: ProjectedQueries, pairs: UndecidedPairs
) -> tuple[Tensor, Tensor]:
    """Logits of pairs [p] from float32 products over all coordinates, and their error [b]."""
    members, shift = screen.members, screen.members.offset - screen.centre
    shift_products, y = queries.centred @ shift, queries.centred.float()
    coordinates = READ_COORDINATES if members.points is None else PAIR_FEATURES
    size = max(16, coordinates // members.dims)
    products = [queries.gain.new_empty(0)]
    for points, of in zip(pairs.points.split(size), pairs.queries.split(size), strict=True):
        products.append(working_points(members, points).mul_(y[of]).sum(1).double())
    q, points = pairs.queries, pairs.points
    # log w + g ⟨y, z⟩ − h ‖z‖²
    logits = queries.gain[q] * (torch.cat(products) + shift_products[q])
    logits = logits + members.log_weights[points] - queries.half[q] * screen.norms[points]
    rounding = queries.length * members.largest * gamma(members.dims + 4, FLOAT32_UNIT)
    shift_length = queries.length * float(shift.norm())
    rounding = rounding + gamma(members.dims + 8, FLOAT64_UNIT) * shift_length
    return logits, queries.gain * rounding + queries.logit_error


def working_points(members: ClassPoints, positions: Tensor) -> Tensor:
    """Working points float32 [p, D]; each is read once where they are not in memory."""
    if members.points is not None:
        return members.points.index_select(0, positions)
    rows, index = members.rows[positions].cpu().unique(return_inverse=True)
    points = members.source.take(rows).flatten(1).to(members.centre.device)
    return (points - members.offset.float()).index_select(0, index.to(points.device))


def evaluate_survivors(
    screen: Screen,
    queries: Queries,
    projected: ProjectedQueries,
    pairs: UndecidedPairs,
    leaders: Tensor,
    cut: Tensor,
    touched: Tensor,
    top_k: int,
) -> CertifiedPosterior:
    """The posterior over pairs, when the logits of all other points are below `cut` [b]."""
    count, q = len(leaders), pairs.queries
    # 1. Logits against the leaders, from the points that turn out to lead.
    seen = _LeaderView.of(screen, queries, leaders)
    logits = seen.logits(pairs)
    best, first = pairs.best(logits.values, count)
    if (best > 0).any():
        seen = _LeaderView.of(screen, queries, torch.where(best > 0, first, leaders))
        logits = seen.logits(pairs)
        best, _ = pairs.best(logits.values, count)
    # 2. Weights, and the mean.
    zeros, relative = torch.zeros_like(best), logits.values - best[q]
    weights = relative.exp()  # e^{l − max} [p]
    mass = zeros.index_add(0, q, weights)
    mean = seen.mean(pairs, weights / mass[q])
    logit_error = zeros.scatter_reduce(0, q, logits.error, "amax") + 4 * FLOAT64_UNIT
    # 3. The weight of what was left out: at most e^cut each, against the mass of what was not.
    leader_logits, leader_error = _leader_logits(screen, projected, seen)
    left_out = len(screen.members) - pairs.counts(count)
    cut_below_mass = cut - (leader_logits - leader_error + best - logit_error)
    ratio = MARGIN * left_out * cut_below_mass.exp() / mass
    missing = torch.where(left_out > 0, ratio / (1 + ratio), 0.0).nan_to_num(nan=1.0)
    # 4. The certificate: what that and rounding move the velocity by.
    distance = zeros.index_add(0, q, weights * logits.distance) / mass  # Σ γ ‖d‖
    wrong = torch.expm1(2 * logit_error) + gamma(len(weights) + 8, FLOAT64_UNIT)
    lost = queries.amplification.abs() * missing * (2 * screen.radius)
    rounded = _rounding_error(screen, queries, projected, wrong * distance)
    speed = torch.linalg.vector_norm(queries.velocity(mean), dim=1)
    # 5. The sums that a scan would have given.
    members = screen.members
    if not screen.shares_centre:  # the scan has logits about the mean of the class
        along = torch.linalg.vecdot(queries.centred, seen.points - members.centre)
        half_norms = queries.alpha / 2 * members.norms[seen.leaders]
        leader_logits = queries.gain * (along - half_norms) + members.log_weights[seen.leaders]
    max_logit = leader_logits + best
    top, top_logits = _leading_points(pairs, relative, count, min(top_k, len(members)))
    sums = PosteriorSums(
        max_logit,
        mass,
        points=(mean if members.exact else mean - members.offset) * mass[:, None],
        logits=zeros.index_add(0, q, weights * relative.clamp(min=MIN_LOGIT)),
        squares=zeros.index_add(0, q, weights.square()),
        norms=zeros.index_add(0, q, weights * members.norms[pairs.points]),
        top_logits=max_logit[:, None] + top_logits,
        top=top,
    )
    return CertifiedPosterior(
        torch.arange(count, device=best.device),
        sums,
        mean,
        missing,
        error=_relative(lost + rounded, speed),
        rounding_error=_relative(rounded, speed),
        touched=touched,
    )


def _relative(error: Tensor, speed: Tensor) -> Tensor:
    """An error of u relative to ‖u‖, of which only an estimate that much off is known."""
    relative = torch.where(error < speed, error / (speed - error), torch.inf)
    return relative.nan_to_num(nan=torch.inf)


def _rounding_error(
    screen: Screen, queries: Queries, projected: ProjectedQueries, moved: Tensor
) -> Tensor:
    """At most what rounding moves the velocity by, when logits move the mean by `moved`; [b]."""
    c, longest = queries.coefficients, screen.max_norm
    moved = moved + 8 * FLOAT64_UNIT * longest  # and what float64 loses of the mean
    # … and of the terms α' x̂ and B (x − α x̂) of u
    length = projected.length + queries.alpha * longest
    terms = c.d_alpha.abs() * longest + c.contraction.abs() * (length + queries.alpha * longest)
    return queries.amplification.abs() * moved + 8 * FLOAT64_UNIT * terms


class _PairLogits(NamedTuple):
    """Logits of pairs against the leaders of their queries; [p]."""

    values: Tensor
    """l_i − l_L."""
    distance: Tensor
    """‖d‖."""
    error: Tensor
    """How far the logits may be off."""


@dataclass(frozen=True)
class _LeaderView:
    """Queries seen from their leaders."""

    members: ClassPoints
    queries: Queries
    leaders: Tensor
    """Positions, int64 [b]."""
    points: Tensor
    """x_L, float64 [b, D]."""
    from_leader: Tensor
    """a = x − α x_L, float64 [b, D]."""
    max_norm: float
    """At least the largest ‖x_i‖."""

    @classmethod
    def of(cls, screen: Screen, queries: Queries, leaders: Tensor) -> _LeaderView:
        """Queries seen from points at positions [b]."""
        points = screen.members.originals(leaders)
        from_leader = queries.x - queries.alpha[:, None] * points
        return cls(screen.members, queries, leaders, points, from_leader, screen.max_norm)

    def logits(self, pairs: UndecidedPairs) -> _PairLogits:
        """l_i − l_L of pairs."""
        along, squared = self.from_leader.new_zeros(2, len(pairs.points))  # ⟨a, d⟩, ‖d‖²
        for indices in self._others(pairs):
            d = self._differences(pairs.of(indices))
            along[indices] = sum_in_pieces(self.from_leader[pairs.queries[indices]].mul_(d))
            squared[indices] = sum_in_pieces(d.mul_(d))
        q, leader, distance = pairs.queries, self.leaders[pairs.queries], squared.sqrt()
        gain, alpha = self.queries.gain[q], self.queries.alpha[q]
        logits = gain * (along - alpha * squared / 2)
        log_weights, of_leader = (self.members.log_weights[at] for at in (pairs.points, leader))
        # What float64 may have lost of weights, of a, and of the two sums.
        weights = 4 * FLOAT64_UNIT * (log_weights.abs() + of_leader.abs() + logits.abs())
        length = torch.linalg.vector_norm(self.from_leader, dim=1)
        moved = 2 * FLOAT64_UNIT * (length + self.queries.alpha * self.max_norm)
        side = math.isqrt(self.members.dims)
        summed = gamma(side + self.members.dims // side + 10, FLOAT64_UNIT)
        products = summed * (length[q] * distance + alpha * squared) + moved[q] * distance
        error = torch.where(pairs.points == leader, 0.0, gain * products + weights)
        return _PairLogits(logits + (log_weights - of_leader), distance, error)

    def mean(self, pairs: UndecidedPairs, weights: Tensor) -> Tensor:
        """x_L + Σ γ d, float64 [b, D], from γ [p]."""
        others = self._others(pairs)
        if not len(others[0]):
            return self.points
        moved = torch.zeros_like(self.points)
        for indices in others:
            some = pairs.of(indices)
            d = self._differences(some)
            moved.index_add_(0, some.queries, d.mul_(weights[indices][:, None]))
        return moved.add_(self.points)

    def _differences(self, pairs: UndecidedPairs) -> Tensor:
        """Differences d = x_i − x_leader, [p, D]."""
        return self.members.originals(pairs.points).sub_(self.points[pairs.queries])

    def _others(self, pairs: UndecidedPairs) -> tuple[Tensor, ...]:
        """Indices of pairs that are not leaders, a few at a time."""
        indices = (pairs.points != self.leaders[pairs.queries]).nonzero()[:, 0]
        return indices.split(max(16, FLOAT64_COORDINATES // self.members.dims))


def sum_in_pieces(values: Tensor) -> Tensor:
    """Sums of rows [p, D], float64, in about √D pieces of √D."""
    side = math.isqrt(values.shape[1])
    whole = values.shape[1] // side * side
    return values[:, :whole].unflatten(1, (-1, side)).sum(2).sum(1) + values[:, whole:].sum(1)


def _leader_logits(
    screen: Screen, queries: ProjectedQueries, seen: _LeaderView
) -> tuple[Tensor, Tensor]:
    """The logits of the leaders about the centre of the coarse view, and their error; [b]."""
    along = torch.linalg.vecdot(queries.centred, seen.points - screen.centre)
    logits = queries.gain * along - queries.half * screen.norms[seen.leaders]
    logits = logits + screen.members.log_weights[seen.leaders]
    products = gamma(len(screen.centre) + 8, FLOAT64_UNIT) * queries.length * screen.radius
    error = queries.gain * products + 2 * queries.logit_error + 8 * FLOAT64_UNIT * logits.abs()
    return logits, error


def _leading_points(
    pairs: UndecidedPairs, logits: Tensor, queries: int, top_k: int
) -> tuple[Tensor, Tensor]:
    """The leaders of each query and their logits, [b, top_k]; others of no weight fill up."""
    order = logits.argsort(descending=True, stable=True)
    order = order[pairs.queries[order].argsort(stable=True)]  # by query, then by logit
    query, counts = pairs.queries[order], pairs.counts(queries)
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[query]
    reported = rank < top_k
    query, rank, order = query[reported], rank[reported], order[reported]
    values = logits.new_full((queries, top_k), -torch.inf)
    values[query, rank] = logits[order]
    top = pairs.points.new_full((queries, top_k), -1)
    top[query, rank] = pairs.points[order]
    # Where a query has fewer, the smallest positions that are not yet among them.
    candidates = torch.arange(2 * top_k, device=top.device)
    used = (top[:, :, None] == candidates).any(1)
    spare = used.long().argsort(dim=1, stable=True)
    empty = top < 0
    nth = (empty.cumsum(1) - 1).clamp(min=0)
    return torch.where(empty, spare.gather(1, nth), top), values
