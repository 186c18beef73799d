"""What float32 cannot hold, computed again in float64: the 1e-5 of the contract.

A logit from float32 products carries a typical error, in nats, of about

    e = g 2⁻²³ (¼ ‖y‖ max‖x_i‖ + 2 |⟨y, x̂⟩|),        g = α/σ²      (benchmarks/numerics.py)

which moves the velocity by A e √(γ_max · tr Cov): nothing where no other point comes near the
leader. The rounding of the mean moves it by A (2⁻²³ ‖x̂‖ + ρ ‖x‖), where ‖x‖ is the size of the
points averaged, which may cancel in x̂, and ρ = min(6 · 2⁻²³, 1 − γ_max): each addition rounds the
leader's part, however little it adds, but by no more than that.

`refine` predicts this error for every query, and refines the queries where it is too large by one
of three means, the cheapest that suffices:

1. *The leaders are rescored* where all points that can matter are among the k leaders that
   the scan has kept. Against the first leader L nothing cancels:
       l_i − l_L = g ⟨x − α (x_i + x_L)/2, x_i − x_L⟩ + log w_i / w_L.
2. *Kept logits are put right* within the sums where more points matter than are kept. The others
   err as before, but none of them weighs more than the last leader; the prediction says whether
   that is enough.
3. *The class is scanned again in float64* where it is not, wherever a point came near the maximum;
   and where even that is not enough, all of it with points seen from the leader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .class_points import ClassPoints, PositionRange
from .posterior import PosteriorSums
from .scan import BlockMaxima, Queries, scan

if TYPE_CHECKING:
    from .pruning.survivors import CertifiedPosterior

MAX_PREDICTED_ERROR = 8e-6
"""Predicted velocity error, relative to ‖u*‖, above which a query is refined; the contract is
1e-5."""
MAX_CROWDED_ERROR = 1.5e-6
"""The same where leaders lie close together: their logits err alike, so that the error does not
average out as √γ_max assumes."""
CROWD_SIZE = 4
"""Leaders whose distances show whether they lie close together."""
CROWD_DISTANCE = 0.01
"""Squared distance, as a share of tr Cov, below which two leaders lie close together."""
HEAVY_LOGIT_ERRORS = 4.0
"""Units of e that the logit of one heavy point is taken to be off (measured: up to 3.7).
Put right, those of many light points are off by one at most (measured: .1)."""
WORST_LOGIT_ERRORS = 8.0
"""The same for the worst of all points, where points are left out for good."""
LEFT_OUT_ERROR = 1e-7
"""Relative velocity error that points below the cut may cost together."""
AVERAGE_ROUNDINGS = 6.0
"""ρ in roundings of the points averaged (measured: up to 3.4)."""
LONG_PRODUCT_DIMS = 8192
"""Dimensions beyond which the rounding of an inner product grows with the root of their number."""
MAX_LOGIT_ERROR = 50.0
"""Nats at which e^e is bounded: beyond, nothing is left of a weight anyway."""
RESCORED_COORDINATES, GPU_RESCORED_COORDINATES = 2**21, 2**25
"""Coordinates of leaders in memory at once; more on a GPU, which waits for kernel launches."""
FLOAT64_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Refined:
    """Posterior sums and means that keep the contract; float64."""

    sums: PosteriorSums
    mean: Tensor
    """x̂ [b, D]."""
    rescored: Tensor
    """How many points of each query were evaluated in float64, int64 [b]: 0 where none needed it,
    the size of the class where it was scanned again."""
    pruned: CertifiedPosterior | None = None
    """The certificate, where points were left out."""


def refine(
    members: ClassPoints, queries: Queries, sums: PosteriorSums, maxima: BlockMaxima | None = None
) -> Refined:
    """Refine the sums of a scan where their error is predicted to break the contract.

    `maxima` says where in the class points came near the maximum; without, all of it is read again
    for queries that are scanned again.
    """
    mean = sums.points / sums.mass[:, None] + members.offset
    count, leader_count = len(members.rows), sums.top.shape[1]
    unit = torch.finfo(members.precision).eps

    # What is predicted to be wrong.
    effects = rounding_effects(members, queries, sums, mean)
    cut = _matters_within(members, effects, unit)  # nats below the leader, [b]
    rivals = (sums.top_logits >= (sums.top_logits[:, 0] - cut)[:, None]).sum(1)
    predicted = effects.velocity_error(unit)
    doubtful = predicted > MAX_PREDICTED_ERROR
    unsure = ((predicted > MAX_CROWDED_ERROR) & ~doubtful & (rivals > 1)).nonzero()[:, 0]
    for indices in unsure.split(_queries_at_once(members, CROWD_SIZE)):
        spread = effects.spread(unit)[indices]
        doubtful[indices] = _leaders_crowd(members, sums.top[indices], spread)
    if members.exact:
        doubtful &= rivals > 1  # alone, the leader is the mean to the last bit

    # Which queries are refined by which means.
    all_kept = (rivals < leader_count) | (leader_count == count)
    rescored = (doubtful & all_kept).nonzero()[:, 0]
    corrected = (doubtful & ~all_kept).nonzero()[:, 0]

    # Results, each for queries of its own: (queries, sums, means, points evaluated).
    results: list[tuple[Tensor, PosteriorSums, Tensor, Tensor | int]] = []
    if len(rescored):
        top_k = int(rivals[rescored].max())
        leaders = rescore_leaders(members, queries.of(rescored), sums.of(rescored), top_k)
        results.append((rescored, *leaders, rivals[rescored]))
    if len(corrected):
        some = queries.of(corrected), sums.of(corrected)
        new, new_mean, enough = correct_kept_logits(members, *some)
        results.append((corrected[enough], new.of(enough), new_mean[enough], leader_count))
        rescanned = corrected[~enough]
        if len(rescanned):
            floors = (sums.max_logit - cut)[rescanned]
            within = None if maxima is None else maxima.ranges_above(floors, rescanned)
            rescan = scan_again(members, queries.of(rescanned), leader_count, within)
            results.append((rescanned, *rescan, count))
    return _written(sums, mean, results)


def _written(
    sums: PosteriorSums,
    mean: Tensor,
    results: Sequence[tuple[Tensor, PosteriorSums, Tensor, Tensor | int]],
) -> Refined:
    """The sums and means with the results of some queries in place of theirs."""
    evaluated = torch.zeros(len(mean), dtype=torch.int64, device=mean.device)
    columns = vars(sums)
    if results:
        columns = {name: values.clone() for name, values in columns.items()}
    for indices, new, new_mean, points in results:
        for name, values in vars(new).items():
            columns[name][indices] = values
        mean[indices], evaluated[indices] = new_mean, points
    return Refined(PosteriorSums(**columns), mean, evaluated)


# The prediction --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundingEffects:
    """What rounding does to logits and means, by the rounding `unit` of a product; float64 [b]."""

    logit_error_per_unit: Tensor
    """e / unit, nats."""
    max_weight: Tensor
    """γ_max."""
    norms: Tensor
    """Σ γ ‖x_i − m‖²."""
    trace: Tensor
    """tr Cov(data | x), short of the rounding of the norms."""
    mean_norm: Tensor
    """‖x̂ − offset‖."""
    speed: Tensor
    """‖u*‖."""
    amplification: Tensor
    """A."""

    def logit_error(self, unit: float) -> Tensor:
        """The typical error e of a logit from products so rounded, nats [b]."""
        return self.logit_error_per_unit * unit

    def spread(self, unit: float) -> Tensor:
        """The posterior's tr Cov(data | x), at least its rounding, [b]."""
        return self.trace + unit * self.norms

    def velocity_error(
        self, unit: float, heaviest: Tensor | None = None, shared_error: Tensor | float = 0.0
    ) -> Tensor:
        """The predicted error of the velocity, relative to ‖u*‖; [b].

        `heaviest` is the largest weight of a point whose logit is so rounded; by default it is
        that of the leader, which may be an unlucky one. `shared_error` is what a part of the
        points may err by together, in units of √tr Cov.
        """
        weight = HEAVY_LOGIT_ERRORS**2 * self.max_weight if heaviest is None else heaviest
        error, spread = self.logit_error(unit).clamp(max=MAX_LOGIT_ERROR), self.spread(unit)
        logits = error.expm1() * (weight * spread).sqrt()  # (e^e − 1) √(γ_max tr Cov)
        logits += shared_error * spread.sqrt()
        # 2⁻²³ ‖x̂‖ + ρ ‖x‖, where ‖x‖² = tr Cov + ‖x̂‖²
        rho = (1 - self.max_weight).clamp(min=0, max=AVERAGE_ROUNDINGS * unit)
        averaging = unit * self.mean_norm + rho * (spread + self.mean_norm.square()).sqrt()
        return self.amplification * (logits + averaging) / self.speed


def rounding_effects(
    members: ClassPoints, queries: Queries, sums: PosteriorSums, mean: Tensor
) -> RoundingEffects:
    """What rounding does to sums with this mean [b, D]."""
    from_offset = mean - members.offset
    # e = g unit (¼ ‖y‖ max‖x_i‖ + 2 |⟨y, x̂⟩|), more where products are long. A unit is a power of
    # two, so that it may come last without a bit of difference.
    across = 0.25 * queries.centred.norm(dim=1) * members.largest
    along = 2 * (queries.centred * from_offset).sum(1).abs()
    longer = max(1.0, members.dims / LONG_PRODUCT_DIMS) ** 0.5
    norms = sums.norms / sums.mass
    velocity = queries.coefficients.velocity(queries.x, mean)
    return RoundingEffects(
        logit_error_per_unit=queries.gain * longer * (across + along),
        max_weight=(sums.top_logits[:, 0] - sums.max_logit).exp() / sums.mass,
        norms=norms,
        trace=(norms - (mean - members.centre).square().sum(1)).clamp(min=0),
        mean_norm=from_offset.norm(dim=1),
        speed=velocity.norm(dim=1).clamp(min=1e-30),
        amplification=queries.amplification,
    )


def _matters_within(members: ClassPoints, effects: RoundingEffects, unit: float) -> Tensor:
    """How far below the largest logit a point can matter, its rounding included; nats, [b].

    n points at that depth, each as far as the class is wide, cost `LEFT_OUT_ERROR` together.
    """
    diameter = 2 * members.norms.max().sqrt()
    worth = (effects.amplification * diameter / effects.speed).clamp(min=1)
    depth = (len(members.rows) * worth / LEFT_OUT_ERROR).log()
    return depth + 2 * WORST_LOGIT_ERRORS * effects.logit_error(unit)


def _leaders_crowd(members: ClassPoints, top: Tensor, spread: Tensor) -> Tensor:
    """Whether two of the first leaders are much closer than the posterior is wide; bool [b]."""
    leaders = members.originals(top[:, :CROWD_SIZE])
    squared = torch.cdist(leaders, leaders).square()
    squared.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return squared.amin((1, 2)) < CROWD_DISTANCE * spread


def _queries_at_once(members: ClassPoints, leaders: int) -> int:
    """How many queries' leaders are evaluated together."""
    gpu = members.centre.is_cuda
    coordinates = GPU_RESCORED_COORDINATES if gpu else RESCORED_COORDINATES
    return max(1, coordinates // (leaders * members.dims))


# 1. The leaders are rescored -------------------------------------------------------------------


def rescore_leaders(
    members: ClassPoints, queries: Queries, sums: PosteriorSums, top_k: int
) -> tuple[PosteriorSums, Tensor]:
    """The sums and means [b, D] over the first `top_k` leaders of each query, in float64."""
    indices = torch.arange(len(queries.x), device=queries.x.device)
    pieces = [
        _rescore_some(members, queries.of(some), sums.of(some), top_k)
        for some in indices.split(_queries_at_once(members, top_k))
    ]
    parts, means = zip(*pieces, strict=True)
    return PosteriorSums.cat(parts), torch.cat(means)


def _rescore_some(
    members: ClassPoints, queries: Queries, sums: PosteriorSums, top_k: int
) -> tuple[PosteriorSums, Tensor]:
    top = sums.top[:, :top_k]
    points = members.originals(top)  # x_i [b, k, D]
    leader = points[:, :1]  # x_L [b, 1, D]
    from_leader = points - leader
    alpha = queries.coefficients.alpha[:, None, None]
    # x − α (x_i + x_L)/2 = x − α x_L − α (x_i − x_L)/2
    from_middle = queries.x[:, None] - alpha * leader - alpha * from_leader / 2
    log_weights = members.log_weights[top]
    logits = queries.gain[:, None] * (from_middle * from_leader).sum(2)  # l_i − l_L [b, k]
    logits = logits + log_weights - log_weights[:, :1]
    best = logits.max(1)
    relative = logits - best.values[:, None]
    weights = relative.exp()
    mass = weights.sum(1)
    mean = (weights[:, None] @ points)[:, 0] / mass[:, None]
    order = logits.argsort(dim=1, descending=True)

    # The largest logit itself, about the centre as the scan has it.
    rows = torch.arange(len(top), device=top.device)
    along = ((points[rows, best.indices] - members.centre) * queries.centred).sum(1)
    position = top[rows, best.indices][:, None]
    max_logit = queries.gain * along + _constant_logits(members, queries, position)[:, 0]
    top_logits = max_logit[:, None] + relative.gather(1, order)
    refined = PosteriorSums(
        max_logit,
        mass,
        points=(mean - members.offset) * mass[:, None],
        logits=(weights * relative.clamp(min=-1e4)).sum(1),  # no 0 · ∞
        squares=weights.square().sum(1),
        norms=(weights * members.norms[top]).sum(1),
        top_logits=torch.cat([top_logits, sums.top_logits[:, top_k:]], 1),
        top=torch.cat([top.gather(1, order), sums.top[:, top_k:]], 1),
    )
    return refined, mean


def _constant_logits(members: ClassPoints, queries: Queries, positions: Tensor) -> Tensor:
    """What logits have beside g ⟨y, x_i − m⟩: log w_i − ½ g α ‖x_i − m‖²; [b, k]."""
    half = (queries.gain * queries.coefficients.alpha / 2)[:, None]
    return members.log_weights[positions] - half * members.norms[positions]


# 2. Kept logits are put right ------------------------------------------------------------------


def correct_kept_logits(
    members: ClassPoints, queries: Queries, sums: PosteriorSums
) -> tuple[PosteriorSums, Tensor, Tensor]:
    """The sums and means [b, D] with the logits of the kept leaders put right.

    And whether the error that is left is predicted to keep the contract, bool [b]. Other points
    err as before, by A e √(γ · tr Cov), where γ is at most the weight of the last leader. What the
    leaders erred by on average, the others may still err by: for leaders of weight p that moves
    the mean of the ones against that of the others, by error · √(p (1 − p) tr Cov).
    """
    points, logits = torch.empty_like(sums.points), torch.empty_like(sums.top_logits)
    every = torch.arange(len(queries.x), device=queries.x.device)
    for indices in every.split(_queries_at_once(members, sums.top.shape[1])):
        some, top = queries.of(indices), sums.top[indices]
        leaders = members.originals(top)  # [b, k, D]
        along = ((leaders - members.centre) @ some.centred[:, :, None])[:, :, 0]
        logits[indices] = along * some.gain[:, None] + _constant_logits(members, some, top)
        gained = _weights(logits[indices], sums.max_logit[indices])
        gained -= _weights(sums.top_logits[indices], sums.max_logit[indices])
        points[indices] = sums.points[indices]
        points[indices] += (gained[:, None] @ (leaders - members.offset))[:, 0]
    shared_error = (logits - sums.top_logits).mean(1).abs()  # nats [b]
    sums = _with_logits(members, sums, logits, points)
    mean = sums.points / sums.mass[:, None] + members.offset

    # What is left: the rounding of the others in float32, and that of everything in float64.
    unit = torch.finfo(members.precision).eps
    effects = rounding_effects(members, queries, sums, mean)
    weights = _weights(sums.top_logits, sums.max_logit) / sums.mass[:, None]  # [b, k]
    leaders_weight = weights.sum(1).clamp(max=1)
    apart = shared_error * (leaders_weight * (1 - leaders_weight)).sqrt()
    predicted = effects.velocity_error(unit, weights[:, -1], apart)
    predicted += effects.velocity_error(FLOAT64_EPS)
    crowded = _leaders_crowd(members, sums.top, effects.spread(unit))
    return sums, mean, (predicted <= MAX_PREDICTED_ERROR) & ~crowded


def _with_logits(
    members: ClassPoints, sums: PosteriorSums, logits: Tensor, points: Tensor
) -> PosteriorSums:
    """The sums with other logits [b, k] of the leaders, and the sums of points they give."""
    before, after = (values - sums.max_logit[:, None] for values in (sums.top_logits, logits))
    old, new = before.exp(), after.exp()
    best = logits.sort(dim=1, descending=True)
    return replace(
        sums,
        mass=sums.mass + (new - old).sum(1),
        points=points,
        logits=sums.logits + (new * after - old * before).sum(1),
        squares=sums.squares + (new.square() - old.square()).sum(1),
        norms=sums.norms + ((new - old) * members.norms[sums.top]).sum(1),
        top_logits=best.values,
        top=sums.top.gather(1, best.indices),
    )


def _weights(logits: Tensor, max_logit: Tensor) -> Tensor:
    return (logits - max_logit[:, None]).exp()


# 3. The class is scanned again -----------------------------------------------------------------


def scan_again(
    members: ClassPoints,
    queries: Queries,
    top_k: int,
    within: Sequence[PositionRange] | None,
) -> tuple[PosteriorSums, Tensor]:
    """The sums and means [b, D] of a float64 scan, and of one about the leader where needed."""
    members = members if members.exact else members.with_original_points()
    sums = scan(members, queries, dtype=torch.float64, top_k=top_k, within=within)
    mean = sums.points / sums.mass[:, None]
    effects = rounding_effects(members, queries, sums, mean)
    doubtful = (effects.velocity_error(FLOAT64_EPS) > MAX_PREDICTED_ERROR).nonzero()
    results = []
    for index in doubtful[:, :1]:  # each query has its own leader, and so its own norms
        query, before = queries.of(index), sums.of(index)
        seen = members.centred_on(int(before.top[0, 0]))
        query = replace(query, centred=query.x - query.alpha[:, None] * seen.centre)
        new = scan(seen, query, dtype=torch.float64, top_k=before.top.shape[1])
        new_mean = new.points / new.mass[:, None] + seen.offset
        # Points and norms again about the origin and the centre of the class.
        points, norms = new_mean * new.mass[:, None], before.norms / before.mass * new.mass
        results.append((index, replace(new, points=points, norms=norms), new_mean, len(members)))
    refined = _written(sums, mean, results)
    return refined.sums, refined.mean
