"""What survives a screen, evaluated in full: float32 with a bound first, then float64.

Against a leader L the logit of atom i is, with a = x − α x_L and d = x_i − x_L,

    l_i − l_L = g (⟨a, d⟩ − α ‖d‖² / 2) + log w_i / w_L,

and the mean is x_L + Σ γ_i d_i: nothing cancels, and a leader alone is the mean to the last bit.
If every logit is right to within e, weights are right to within a factor e^{±2e}, so

    ‖x̂_S − computed‖ ≤ (e^{2e} − 1) Σ γ_i ‖d_i‖,

and atoms left out, whose logits are below `cut`, move it by at most their mass times their
distance. Sums of products are taken in √D pieces of √D, which keeps their rounding at 2 √D units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.oracle.class_points import ClassPoints
from floracle.oracle.posterior import PosteriorSums
from floracle.oracle.scan import Queries

from .levels import DOUBLE, SINGLE, TOGETHER, View, gamma
from .screen import MARGIN, Screen

FETCHED = 2**22
"""Numbers of points that do not lie in memory and are read together."""
COORDINATES = 2**20
"""Numbers of points that are evaluated together in float64."""
LOWEST = -1e4
"""Logits relative to the peak are bounded here where they multiply weights of zero."""


@dataclass(frozen=True)
class UndecidedPairs:
    """Pairs of an atom and a query that may matter to each other; [p]."""

    atoms: Tensor
    """Positions of atoms, int64."""
    asked: Tensor
    """Which query, int64."""

    def of(self, chosen: Tensor) -> UndecidedPairs:
        """Some of the pairs."""
        return UndecidedPairs(self.atoms[chosen], self.asked[chosen])

    def counts(self, queries: int) -> Tensor:
        """How many each query has, int64 [b]."""
        return torch.bincount(self.asked, minlength=queries)


@dataclass(frozen=True)
class ExactSurvivors:
    """The posterior over survivors, and how far the velocity may be off; float64, [b]."""

    sums: PosteriorSums
    mean: Tensor
    """[b, D]."""
    missing: Tensor
    """At least the posterior mass of all atoms left out."""
    error: Tensor
    """At least ‖u − u_S‖ / ‖u‖, rounding included."""
    rounding: Tensor
    """The part of it that looking at more atoms would not mend."""


def single(screen: Screen, view: View, pairs: UndecidedPairs) -> tuple[Tensor, Tensor]:
    """Logits of pairs [p] from float32 products over all coordinates, and their error [b]."""
    members = screen.members
    apart = members.offset - screen.centre
    lacking, y = view.centred @ apart, view.centred.float()
    at_hand = members.points is not None
    found, size = [view.gain.new_empty(0)], (TOGETHER if at_hand else FETCHED) // members.dims
    size = max(16, size)
    for atoms, of in zip(pairs.atoms.split(size), pairs.asked.split(size), strict=True):
        found.append(working(members, atoms).mul_(y[of]).sum(1).double())
    q, atoms = pairs.asked, pairs.atoms
    logits = view.gain[q] * (torch.cat(found) + lacking[q]) + members.log_weights[atoms]
    products = view.length * members.largest * gamma(members.dims + 4, SINGLE)
    shift = view.length * float(apart.norm())
    error = view.gain * (products + gamma(members.dims + 8, DOUBLE) * shift) + view.slip
    return logits - view.half[q] * screen.norms[atoms], error


def working(members: ClassPoints, atoms: Tensor) -> Tensor:
    """Working points float32 [p, D]."""
    if members.points is not None:
        return members.points.index_select(0, atoms)
    some, place = members.rows[atoms].cpu().unique(return_inverse=True)
    points = members.source.take(some).flatten(1).to(members.centre.device)
    return (points - members.offset.float()).index_select(0, place.to(points.device))


def best_of(pairs: UndecidedPairs, values: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """The largest value of each query [b], and the atom it belongs to, int64 [b]."""
    best = values.new_full((queries,), -torch.inf)
    best = best.scatter_reduce(0, pairs.asked, values, "amax")
    is_best = values >= best[pairs.asked]
    leaders = pairs.atoms.new_zeros(queries)
    leaders[pairs.asked[is_best]] = pairs.atoms[is_best]
    return best, leaders


def exact(
    screen: Screen,
    asked: Queries,
    view: View,
    pairs: UndecidedPairs,
    leaders: Tensor,
    cut: Tensor,
    keep: int,
) -> ExactSurvivors:
    """The posterior over pairs, when the logits of all other atoms are below `cut` [b]."""
    about = _About.of_leaders(screen, asked, leaders)
    against = about.relative(pairs)
    best, first = best_of(pairs, against.logits, len(leaders))
    if (best > 0).any():  # another one leads; seen from there less is lost
        about = _About.of_leaders(screen, asked, torch.where(best > 0, first, leaders))
        against = about.relative(pairs)
        best, _ = best_of(pairs, against.logits, len(leaders))
    weighed = against.weighed(pairs, best)
    mean = about.mean(pairs, weighed)
    logits, wrong = _leader_logits(screen, view, about)
    left = len(screen.members) - pairs.counts(len(leaders))
    short = cut - (logits - wrong + best - weighed.error)
    ratio = MARGIN * left * short.exp() / weighed.mass
    missing = torch.where(left > 0, ratio / (1 + ratio), 0.0).nan_to_num(nan=1.0)
    lost, rounded = _velocity_errors(screen, asked, view, weighed, missing)
    size = torch.linalg.vector_norm(asked.velocity(mean), dim=1)
    if not screen.shares_centre:
        logits = _logits_about_mean(about)
    return ExactSurvivors(
        _sums(about, pairs, weighed, mean, logits + best, keep),
        mean,
        missing,
        _relative(lost + rounded, size),
        _relative(rounded, size),
    )


def _relative(error: Tensor, size: Tensor) -> Tensor:
    """An error of u relative to ‖u‖, of which only an estimate that much off is known."""
    return torch.where(error < size, error / (size - error), torch.inf).nan_to_num(nan=torch.inf)


@dataclass(frozen=True)
class _Weighed:
    """Weights of pairs [p] and what they sum to [b]."""

    logits: Tensor
    """Relative to the peak, [p]."""
    weights: Tensor
    """Their exponentials, [p]."""
    mass: Tensor
    spread: Tensor
    """Σ γ ‖d‖."""
    error: Tensor
    """How far logits may be off."""


@dataclass(frozen=True)
class _Against:
    """Pairs against the leaders of their queries; [p]."""

    logits: Tensor
    apart: Tensor
    """‖d‖."""
    error: Tensor
    """How far the logits may be off."""

    def weighed(self, pairs: UndecidedPairs, best: Tensor) -> _Weighed:
        """Their weights; `best` is the largest logit of each query."""
        q, nothing = pairs.asked, torch.zeros_like(best)
        logits = self.logits - best[q]
        weights = logits.exp()
        mass = nothing.index_add(0, q, weights)
        spread = nothing.index_add(0, q, weights * self.apart) / mass
        error = nothing.scatter_reduce(0, q, self.error, "amax")
        return _Weighed(logits, weights, mass, spread, error + 4 * DOUBLE)


@dataclass(frozen=True)
class _About:
    """Queries seen from their leaders."""

    members: ClassPoints
    asked: Queries
    leaders: Tensor
    """Positions, int64 [b]."""
    points: Tensor
    """The leaders themselves, float64 [b, D]."""
    away: Tensor
    """x − α x_L, float64 [b, D]."""
    reach: float
    """At least the largest norm of an atom."""

    @classmethod
    def of_leaders(cls, screen: Screen, asked: Queries, leaders: Tensor) -> _About:
        """Queries seen from atoms at positions [b]."""
        points = screen.members.originals(leaders)
        away = asked.x - asked.alpha[:, None] * points
        return cls(screen.members, asked, leaders, points, away, screen.reach)

    def relative(self, pairs: UndecidedPairs) -> _Against:
        """Logits of pairs against their leaders."""
        along, squared = self.away.new_zeros(2, len(pairs.atoms))
        for places in self._others(pairs):
            apart = self._apart(pairs.of(places))
            along[places] = in_pieces(self.away[pairs.asked[places]].mul_(apart))
            squared[places] = in_pieces(apart.mul_(apart))
        q, lead, apart = pairs.asked, self.leaders[pairs.asked], squared.sqrt()
        gain, alpha = self.asked.gain[q], self.asked.alpha[q]
        logits = gain * (along - alpha * squared / 2)
        shares = [self.members.log_weights[atoms] for atoms in (pairs.atoms, lead)]
        weights = 4 * DOUBLE * (shares[0].abs() + shares[1].abs() + logits.abs())
        length = torch.linalg.vector_norm(self.away, dim=1)
        moved = 2 * DOUBLE * (length + self.asked.alpha * self.reach)
        products = self._gamma * (length[q] * apart + alpha * squared) + moved[q] * apart
        error = torch.where(pairs.atoms == lead, 0.0, gain * products + weights)
        return _Against(logits + (shares[0] - shares[1]), apart, error)

    def mean(self, pairs: UndecidedPairs, weighed: _Weighed) -> Tensor:
        """x_L + Σ γ d, float64 [b, D]."""
        gamma, others = weighed.weights / weighed.mass[pairs.asked], self._others(pairs)
        if not len(others[0]):
            return self.points
        moved = torch.zeros_like(self.points)
        for places in others:
            some = pairs.of(places)
            moved.index_add_(0, some.asked, self._apart(some).mul_(gamma[places][:, None]))
        return moved.add_(self.points)

    def _apart(self, pairs: UndecidedPairs) -> Tensor:
        return self.members.originals(pairs.atoms).sub_(self.points[pairs.asked])

    def _others(self, pairs: UndecidedPairs) -> tuple[Tensor, ...]:
        """Places of pairs that are not leaders, a few at a time."""
        places = (pairs.atoms != self.leaders[pairs.asked]).nonzero()[:, 0]
        return places.split(max(16, COORDINATES // self.members.dims))

    @property
    def _gamma(self) -> float:
        side = math.isqrt(self.members.dims)
        return gamma(side + self.members.dims // side + 10, DOUBLE)


def in_pieces(values: Tensor) -> Tensor:
    """Sums of rows [p, D], float64, in about √D pieces of √D."""
    side = math.isqrt(values.shape[1])
    whole = values.shape[1] // side * side
    return values[:, :whole].unflatten(1, (-1, side)).sum(2).sum(1) + values[:, whole:].sum(1)


def _leader_logits(screen: Screen, view: View, about: _About) -> tuple[Tensor, Tensor]:
    """The logits of the leaders about the centre of the coarse view, and their error; [b]."""
    along = torch.linalg.vecdot(view.centred, about.points - screen.centre)
    logits = view.gain * along - view.half * screen.norms[about.leaders]
    logits = logits + screen.members.log_weights[about.leaders]
    products = gamma(len(screen.centre) + 8, DOUBLE) * view.length * screen.radius
    return logits, view.gain * products + 2 * view.slip + 8 * DOUBLE * logits.abs()


def _logits_about_mean(about: _About) -> Tensor:
    """The logits of the leaders as the dense scan has them, about the mean of the class; [b]."""
    members, asked = about.members, about.asked
    along = torch.linalg.vecdot(asked.centred, about.points - members.centre)
    logits = asked.gain * (along - asked.alpha / 2 * members.norms[about.leaders])
    return logits + members.log_weights[about.leaders]


def _velocity_errors(
    screen: Screen, asked: Queries, view: View, weighed: _Weighed, missing: Tensor
) -> tuple[Tensor, Tensor]:
    """At most what the velocity lacks for atoms left out, and for rounding; [b]."""
    amplification, length = asked.amplification.abs(), view.length + asked.alpha * screen.reach
    wrong = torch.expm1(2 * weighed.error) + gamma(len(weighed.weights) + 8, DOUBLE)
    moved = wrong * weighed.spread + 8 * DOUBLE * screen.reach
    turned = (asked.d_sigma / asked.sigma).abs() * (length + asked.alpha * screen.reach)
    last = asked.d_alpha.abs() * screen.reach + turned
    lost = amplification * missing * (2 * screen.radius)
    return lost, amplification * moved + 8 * DOUBLE * last


def _sums(
    about: _About, pairs: UndecidedPairs, weighed: _Weighed, mean: Tensor, peak: Tensor, keep: int
) -> PosteriorSums:
    members, q, w = about.members, pairs.asked, weighed.weights
    nothing = torch.zeros_like(peak)

    def total(values: Tensor) -> Tensor:
        return nothing.index_add(0, q, values)

    top, logits = leading(pairs, weighed.logits, len(peak), min(keep, len(members)))
    points = mean if members.exact else mean - members.offset
    return PosteriorSums(
        peak,
        weighed.mass,
        points * weighed.mass[:, None],
        total(w * weighed.logits.clamp(min=LOWEST)),
        total(w.square()),
        total(w * members.norms[pairs.atoms]),
        peak[:, None] + logits,
        top,
    )


def leading(
    pairs: UndecidedPairs, logits: Tensor, queries: int, keep: int
) -> tuple[Tensor, Tensor]:
    """The first atoms of each query and their logits, [b, keep]; others of no weight fill up."""
    order = logits.argsort(descending=True, stable=True)
    order = order[pairs.asked[order].argsort(stable=True)]
    asked, counts = pairs.asked[order], pairs.counts(queries)
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[asked]
    first = rank < keep
    asked, rank, order = asked[first], rank[first], order[first]
    values = logits.new_full((queries, keep), -torch.inf)
    values[asked, rank] = logits[order]
    top = pairs.atoms.new_full((queries, keep), -1)
    top[asked, rank] = pairs.atoms[order]
    return _filled(top), values


def _filled(top: Tensor) -> Tensor:
    """Positions with −1 replaced by the smallest positions that are not yet among them."""
    free = torch.arange(2 * top.shape[1], device=top.device)
    taken = (top[:, :, None] == free).any(1)
    spare = taken.long().argsort(dim=1, stable=True)
    empty = top < 0
    nth = (empty.cumsum(1) - 1).clamp(min=0)
    return torch.where(empty, spare.gather(1, nth), top)
