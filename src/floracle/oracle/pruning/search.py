"""Pruning with a certificate: points whose logits cannot reach a cut are never evaluated.

1. A guessed leader bounds the largest logit from below. Points whose bound U_i stays under

       cut = (lower bound of the largest logit) − log(n · worth / tolerance),
       worth = 4 A · radius / ‖u‖,

   have together no more mass than moves the velocity by half the tolerance.
2. A cost model, with the share of survivors among a sample of points, chooses the level that is
   applied to all points, or hands the query back where a scan would be quicker.
3. Survivors pass the deeper levels, then float32 products over all coordinates.
4. What is left is evaluated in float64, with a bound on the error of the velocity. Where the bound
   exceeds the tolerance, the cut is lowered once; where it still does, the query is handed back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.oracle.class_points import ClassPoints
from floracle.oracle.posterior import PosteriorSums
from floracle.oracle.queries import Queries

from .bfloat16_bounds import Bfloat16Bounds
from .levels import BoundLevel, ProjectedQueries
from .screen import SCREENED_ROWS, Screen, screened_blocks, screened_room
from .survivors import (
    CertifiedPosterior,
    UndecidedPairs,
    evaluate_survivors,
    float32_logits,
    working_points,
)

MIN_POINTS = 512
"""Points of a class below which a scan is as quick."""
GPU_MIN_PRODUCTS = 2.5e11
"""The same on a GPU, in points × dimensions × queries: what it multiplies while the many small
kernels of pruning are launched (measured: benchmarks/gpu.py)."""
BOUNDS_AT_ONCE, MIN_QUERIES_AT_ONCE = 2**23, 16
"""Bounds (points × queries) in memory at once, for so many queries at least."""
SINGLE_QUERY_COST = 12.0
"""How much more a column costs for a single query, which waits for memory."""
WORTHWHILE = 0.8
"""Share of a scan's cost that pruning may be expected to take."""
PARTLY_WORTHWHILE = 0.5
"""The same where some queries are scanned for all the same: more of them will turn out so."""
CHEAP_REST = 3.0
"""Cost of what follows the first level, relative to its own, below which it is taken."""
PROBES = 8
"""Queries that are tried before the whole of a batch is prepared."""
FEW_PAIRS = 256
"""Pairs that skip the remaining levels."""
STREAMED_SCAN_COST = 2.0
"""How much more a scan costs whose points do not lie in memory."""
LOWERED_NATS = 2.0
"""By how much more than needed a failing cut is lowered."""


class Costs(NamedTuple):
    """What things take, in units of one column of one point in a product for one query."""

    scan: float
    """The scan, by dimension."""
    over: float
    """A pass over bounds, by point and query."""
    pair: float
    """A pair that is evaluated in float32, beside its columns."""
    column: float
    """Each column of such a pair."""
    wide: float
    """Each column in float64."""
    whole: float = 0.22
    """The product over all coordinates in bfloat16, by dimension, where processors are quick."""
    fetched: float = 2e6
    """A point that does not lie in memory."""


USUAL = Costs(1.4, 30.0, 1250.0, 21.0, 100.0)
WIDE_VECTORS = Costs(1.6, 30.0, 2500.0, 85.0, 550.0)
"""Products gain more from wide vectors than what waits for memory."""
COSTS = WIDE_VECTORS if torch.backends.cpu.get_cpu_capability() == "AVX512" else USUAL
"""Of this machine, by what its processor can do: a timing would make results depend on chance
(measured: benchmarks/pruned.py)."""


@dataclass(frozen=True)
class _Search:
    """Queries on their way through the levels; [b]."""

    screen: Screen
    queries: Queries
    projected: ProjectedQueries
    floor: Tensor
    """A lower bound of the largest logit."""
    margin: Tensor
    """How far below it points may be left out, nats."""
    touched: Tensor

    @property
    def cut(self) -> Tensor:
        """Logits that may be left out are below this."""
        return self.floor - self.margin

    def of(self, indices: Tensor) -> _Search:
        """Some of the queries, in their order."""
        if len(indices) == len(self.floor):
            return self
        numbers = self.floor[indices], self.margin[indices], self.touched[indices]
        return _Search(self.screen, self.queries.of(indices), self.projected.of(indices), *numbers)


def pruning_may_pay(members: ClassPoints, queries: int) -> bool:
    """Whether leaving points out could pay at all for so many queries of a class."""
    if len(members) < MIN_POINTS:
        return False
    products = queries * len(members) * members.dims
    return not members.centre.is_cuda or products >= GPU_MIN_PRODUCTS


def prune(
    screen: Screen, queries: Queries, *, tolerance: float, top_k: int
) -> tuple[CertifiedPosterior, Tensor]:
    """The posterior at queries, with a velocity error proven to be within `tolerance`.

    And which queries are left for a scan, int64, because pruning is not worthwhile for them or the
    bound cannot be shown. `top_k` leaders are reported; where fewer were evaluated, others of no
    weight fill up.
    """
    count = len(screen.members)
    every = torch.arange(len(queries.x), device=queries.x.device)
    parts: list[CertifiedPosterior] = []
    if count >= MIN_POINTS and tolerance > 0 and _is_promising(screen, queries, tolerance):
        for indices in every.split(max(MIN_QUERIES_AT_ONCE, BOUNDS_AT_ONCE // count)):
            search = _begin(screen, queries.of(indices), tolerance)
            certified = _certify(search, tolerance, top_k)
            parts += (replace(part, indices=indices[part.indices]) for part in certified)
    if not parts:
        none = screen.norms[:0]
        wide, top = none.new_empty(0, screen.members.dims), none.new_empty(0, top_k)
        sums = PosteriorSums(none, none, wide, none, none, none, top, top.long())
        return CertifiedPosterior(every[:0], sums, wide, none, none, none, every[:0]), every
    certified = CertifiedPosterior.cat(parts)
    unanswered = torch.ones_like(every, dtype=torch.bool)
    unanswered[certified.indices] = False
    return certified.of(certified.indices.argsort()), unanswered.nonzero()[:, 0]


def _is_promising(screen: Screen, queries: Queries, tolerance: float) -> bool:
    """Whether any of a few queries of a large batch, late ones among them, would be pruned."""
    batch = len(queries.x)
    if batch < 4 * PROBES:
        return True
    probes = queries.gain.argsort()[torch.linspace(0, batch - 1, PROBES).long()]
    return bool((choose_start(_begin(screen, queries.of(probes), tolerance)) >= 0).any())


def _certify(search: _Search, tolerance: float, top_k: int) -> Iterator[CertifiedPosterior]:
    """Groups of queries with a certificate; those that are not among them have none."""
    start = choose_start(search)
    for level in start[start >= 0].unique().tolist():
        indices = (start == level).nonzero()[:, 0]
        for _ in range(2):  # with the cut, and once with a lower one
            if not len(indices):
                break
            certified = _pass_levels(search.of(indices), level, top_k)
            certified = replace(certified, indices=indices[certified.indices])
            proven = certified.error <= tolerance
            yield certified.of(proven)
            again = ~proven & (certified.rounding_error < tolerance / 2)
            excess = (certified.error[again] / tolerance).log().clamp(max=100) + LOWERED_NATS
            indices = certified.indices[again]
            search = replace(search, margin=search.margin.index_add(0, indices, excess))


def _begin(screen: Screen, queries: Queries, tolerance: float) -> _Search:
    """Queries with a lower bound of their largest logits, from guessed leaders, and margins."""
    projected = screen.project(queries)
    candidates = screen.guess_leaders(projected)
    count, each = candidates.shape
    query = torch.arange(count, device=candidates.device).repeat_interleave(each)
    pairs = UndecidedPairs(candidates.flatten(), query)
    logits, error = float32_logits(screen, projected, pairs)
    best, leaders = pairs.best(logits, count)
    worth = 4 * queries.amplification.abs() * screen.radius / _speed(screen, queries, leaders)
    margin = (len(screen.members) * worth / tolerance).clamp(min=1).log()
    touched = torch.full_like(leaders, each)
    return _Search(screen, queries, projected, best - error, margin, touched)


def _speed(screen: Screen, queries: Queries, leaders: Tensor) -> Tensor:
    """About ‖u‖ if the leader alone mattered, [b]; an estimate of A x_L + B x in float32."""
    points = working_points(screen.members, leaders) + screen.members.offset.float()
    velocity = queries.coefficients.contraction.float()[:, None] * queries.x.float()
    velocity = velocity.addcmul_(queries.amplification.float()[:, None], points)
    return torch.linalg.vector_norm(velocity, dim=1).double().clamp(min=1e-300)


# What it would cost ----------------------------------------------------------------------------


def choose_start(search: _Search) -> Tensor:
    """Which of the screen's starts each query takes, −1 where a scan is cheaper; int64 [b]."""
    levels, members = search.screen.levels, search.screen.members
    slower = max(1.0, SINGLE_QUERY_COST / len(search.floor))
    scan = _scan_cost(members) * slower * WORTHWHILE
    costs = [slower * (level.columns + 8) + COSTS.over for level in levels]
    # What a survivor of each level costs next.
    following = [_pair_cost(level.columns) for level in levels[1:]] + [_full_pair_cost(members)]
    after = _survivor_share(search, levels[0]) * following[0]
    if (after < CHEAP_REST * costs[0]).all() and costs[0] * (1 + CHEAP_REST) < scan:
        return torch.zeros_like(search.touched)
    after, totals, last = torch.zeros_like(search.floor), [], len(levels) - 1
    if (bfloat16 := search.screen.bfloat16) is not None:
        cost = slower * (COSTS.whole * members.dims + 8) + COSTS.over
        totals.append(cost + _survivor_share(search, bfloat16) * following[-1])
        last += 1
    # From the deepest level up: a start at level k pays for its pass and for all levels after it.
    for k in reversed(range(len(levels))):
        after = after + _survivor_share(search, levels[k]) * following[k]
        totals.append(after + costs[k])
        if (after > scan).all():  # what survives this level survives those before it
            break
    chosen, worth = _common_start(torch.stack(totals), scan, SINGLE_QUERY_COST * (slower == 1))
    return torch.where(worth, last - chosen, -1)


def _common_start(costs: Tensor, scan: float, fixed: float) -> tuple[int, Tensor]:
    """The start [k, b] of all queries that are worth it, and which queries [b] these are.

    One for all, since each passes over every point. A scan costs `scan` for each query and as much
    as that of `fixed` more, however few they are: the last ones go with the rest, or all do.
    """
    worth = costs.amin(0) < scan
    if not worth.any():
        return 0, worth
    start = int(costs[:, worth].mean(1).argmin())
    worth = costs[start] < scan
    scanned = scan * (int((~worth).sum()) + fixed)
    if float(costs[start, ~worth].sum()) < scanned:
        return start, torch.ones_like(worth)
    total = float(costs[start, worth].sum()) + scanned / WORTHWHILE
    return start, worth & (total < PARTLY_WORTHWHILE * scan / WORTHWHILE * (len(worth) + fixed))


def _scan_cost(members: ClassPoints) -> float:
    """What a point costs a query in a scan."""
    return COSTS.scan * members.dims * (STREAMED_SCAN_COST if members.points is None else 1)


def _pair_cost(columns: int) -> float:
    """What it costs to multiply so many columns of a pair."""
    return COSTS.pair + COSTS.column * columns


def _full_pair_cost(members: ClassPoints) -> float:
    """What it costs to evaluate a point over all coordinates."""
    return _pair_cost(members.dims) + (COSTS.fetched if members.points is None else 0)


def _survivor_share(search: _Search, level: BoundLevel | Bfloat16Bounds) -> Tensor:
    """The estimated share of points that survive a level, [b]; infinite where it is of no use."""
    coefficients = level.coefficients(search.projected)
    thresholds = level.thresholds(search.projected, search.cut)
    above = (level.sample @ coefficients.T >= thresholds).double().mean(0)
    usable = coefficients.isfinite().all(1) & thresholds.isfinite()
    return torch.where(usable, above + 0.5 / len(level.sample), torch.inf)


# Through the levels ----------------------------------------------------------------------------


def _pass_levels(search: _Search, start: int, top_k: int) -> CertifiedPosterior:
    """Queries through the levels from `start` on; those with too many survivors are given up."""
    screen, members = search.screen, search.screen.members
    pairs = _apply_to_all(search, screen.starts[start])
    affordable = torch.ones_like(search.touched, dtype=torch.bool)
    for level in screen.levels[start + 1 :]:
        pairs = _affordable(search, pairs, affordable, _pair_cost(level.columns))
        if len(pairs.points) <= FEW_PAIRS:
            break
        bounds = level.pair_bounds(
            level.coefficients(search.projected), pairs.points, pairs.queries
        )
        thresholds = level.thresholds(search.projected, search.cut)
        pairs = pairs.of(bounds >= thresholds[pairs.queries])
    # Over all coordinates in float32, which may also find a better leader.
    pairs = _affordable(search, pairs, affordable, _full_pair_cost(members))
    touched = (search.touched + pairs.counts(len(affordable))).clamp(max=len(members))
    logits, error = float32_logits(screen, search.projected, pairs)
    best, leaders = pairs.best(logits, len(affordable))
    search = replace(search, floor=torch.maximum(search.floor, best - error))
    pairs = pairs.of(logits + error[pairs.queries] >= search.cut[pairs.queries])
    # In float64.
    pairs = _affordable(search, pairs, affordable, COSTS.wide * members.dims)
    indices = affordable.nonzero()[:, 0]
    number = affordable.long().cumsum(0) - 1  # of a query among those that are left
    pairs = UndecidedPairs(pairs.points, number[pairs.queries])
    remaining = search.of(indices)
    survivors = evaluate_survivors(
        *(screen, remaining.queries, remaining.projected, pairs, leaders[indices], remaining.cut),
        touched=touched[indices],
        top_k=top_k,
    )
    return replace(survivors, indices=indices)


def _apply_to_all(search: _Search, level: BoundLevel | Bfloat16Bounds) -> UndecidedPairs:
    """Pairs that a level, applied to all points, cannot rule out."""
    count = len(search.screen.members)
    thresholds = level.thresholds(search.projected, search.cut)
    coefficients = level.coefficients(search.projected)
    bounds = screened_room(count, len(thresholds), coefficients)
    level.bounds(coefficients, bounds[:count])
    # Few blocks of points have a survivor: their best bound says which.
    blocks = screened_blocks(bounds)
    hit = (blocks.amax(1) >= thresholds).nonzero()
    if 4 * len(hit) * SCREENED_ROWS > bounds.numel():
        return UndecidedPairs(*(bounds[:count] >= thresholds).nonzero().T)
    values = blocks[hit[:, 0], :, hit[:, 1]]
    index, within = (values >= thresholds[hit[:, 1], None]).nonzero().T
    return UndecidedPairs(hit[index, 0] * SCREENED_ROWS + within, hit[index, 1])


def _affordable(
    search: _Search, pairs: UndecidedPairs, affordable: Tensor, cost: float
) -> UndecidedPairs:
    """Pairs of queries that have not so many that a scan is cheaper; others leave `affordable`."""
    members, counts = search.screen.members, pairs.counts(len(affordable))
    slower = max(1.0, SINGLE_QUERY_COST / len(affordable))
    scan = _scan_cost(members) * slower * len(members)
    many = counts * cost >= scan
    fixed = SINGLE_QUERY_COST * (slower == 1)
    if float(counts[many].sum()) * cost < scan * (int(many.sum()) + fixed):
        many = torch.zeros_like(many)
    affordable &= ~many & (counts > 0)
    return pairs if affordable.all() else pairs.of(affordable[pairs.queries])
