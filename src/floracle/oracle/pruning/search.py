"""Pruning with a proof: atoms whose logits cannot reach a cut are never looked at.

A guessed leader bounds the peak from below. Atoms whose bound U_i stays under

    cut = (lower bound of the peak) − log(n · worth / tolerance),     worth = 4 A · radius / ‖u‖,

have together no more mass than moves the velocity by half the tolerance. Those above the cut pass
through deeper and deeper levels, then through float32 products over all coordinates; what is left
is evaluated in float64. Where the bound so found exceeds the tolerance, the cut is lowered once.
Where pruning would take longer than a scan, by a cost model and a sample of atoms, or where the
bound cannot be shown, queries are handed back for the dense scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.oracle.class_points import ClassPoints
from floracle.oracle.posterior import PosteriorSums
from floracle.oracle.scan import Queries

from .bfloat16_bounds import Bfloat16Bounds
from .levels import BoundLevel, View
from .screen import BLOCK, Screen, blocked, in_blocks
from .survivors import ExactSurvivors, UndecidedPairs, best_of, exact, single, working

SMALLEST = 512
"""Atoms below which a scan is as quick."""
LAUNCHES = 2.5e11
"""The same on a GPU, in atoms × dimensions × queries: what it multiplies while the many small
kernels of pruning are launched (measured: benchmarks/gpu.py)."""
BOUNDS = 2**23
"""Bounds (atoms × queries) that are held together, for at least `TOGETHER` queries."""
TOGETHER = 16
ALONE = 12.0
"""How much more a column costs for a single query, which waits for memory."""
WORTHWHILE = 0.8
"""Share of a scan's cost that pruning may be expected to take."""
PARTLY = 0.5
"""The same where some queries are scanned for all the same: more of them will turn out so."""
CHEAP = 3.0
"""Cost of what follows a level, relative to its own, below which no other is considered."""
PROBES = 8
"""Queries that are tried before the whole of a batch is prepared."""
FEW = 256
"""Pairs that skip the remaining levels."""
STREAMED = 2.0
"""How much more a scan costs whose atoms do not lie in memory."""
LOWERED = 2.0
"""By how much more than needed a failing cut is lowered, in nats."""


class Costs(NamedTuple):
    """What things take, in units of one column of one atom in a product for one query."""

    scan: float
    """The dense scan, by dimension."""
    over: float
    """A pass over bounds, by atom and query."""
    pair: float
    column: float
    """A pair that is looked at in float32, and each of its columns."""
    wide: float
    """Each column in float64."""
    whole: float = 0.22
    """The product over all coordinates in bfloat16, where processors are quick at it."""
    fetched: float = 2e6
    """An atom that does not lie in memory."""


USUAL = Costs(1.4, 30.0, 1250.0, 21.0, 100.0)
WIDE_PRODUCTS = Costs(1.6, 30.0, 2500.0, 85.0, 550.0)
"""Products gain more from wide vectors than what waits for memory."""
COSTS = WIDE_PRODUCTS if torch.backends.cpu.get_cpu_capability() == "AVX512" else USUAL
"""Of this machine, by what its processor can do: a timing would make results depend on chance
(measured: benchmarks/pruned.py)."""


@dataclass(frozen=True)
class PruningResult:
    """The posterior at those of b queries where pruning was worthwhile; [p] unless stated."""

    places: Tensor
    """Which queries these are, int64."""
    left: Tensor
    """The others, for the dense scan; int64 [b − p]."""
    sums: PosteriorSums
    mean: Tensor
    """float64 [p, D]."""
    missing: Tensor
    """A proven upper bound on the posterior mass not looked at."""
    error: Tensor
    """A proven upper bound on ‖u − u_S‖ / ‖u‖, the rounding of this evaluation included."""
    touched: Tensor
    """How many atoms were looked at in full, int64."""


@dataclass(frozen=True)
class _Search:
    """Queries on their way through the levels; [b]."""

    screen: Screen
    asked: Queries
    view: View
    floor: Tensor
    """A lower bound of the largest logit."""
    margin: Tensor
    """How far below it atoms may be left out."""
    touched: Tensor

    @property
    def cut(self) -> Tensor:
        """Logits that may be left out are below this."""
        return self.floor - self.margin

    def of(self, chosen: Tensor) -> _Search:
        """Some of the queries, in their order."""
        if len(chosen) == len(self.floor):
            return self
        rest = (self.floor[chosen], self.margin[chosen], self.touched[chosen])
        return _Search(self.screen, self.asked.of(chosen), self.view.of(chosen), *rest)


def possible(members: ClassPoints, queries: int) -> bool:
    """Whether leaving atoms out could pay at all for so many queries of a class."""
    if len(members) < SMALLEST:
        return False
    on_gpu = members.centre.is_cuda
    return not on_gpu or queries * len(members) * members.dims >= LAUNCHES


def prune(screen: Screen, asked: Queries, *, tolerance: float, keep: int) -> PruningResult:
    """The posterior at queries, with a velocity error proven to be within `tolerance`.

    Queries for which pruning is not worthwhile, or the bound cannot be shown, are `left`. `keep`
    leaders are reported; where fewer were looked at, others of no weight fill up.
    """
    count, places = len(screen.members), torch.arange(len(asked.x), device=asked.x.device)
    found: list[tuple[Tensor, ExactSurvivors, Tensor]] = []
    if count >= SMALLEST and tolerance > 0 and _promising(screen, asked, tolerance):
        for some in places.split(max(TOGETHER, BOUNDS // count)):
            hunt = _begun(screen, asked.of(some), tolerance)
            for here, proven, touched in _settled(hunt, tolerance, keep):
                found.append((some[here], proven, touched))
    return _joined(screen, found, places, keep)


def _promising(screen: Screen, asked: Queries, tolerance: float) -> bool:
    """Whether any of a few queries of a large batch, late ones among them, would be pruned."""
    batch = len(asked.x)
    if batch < 4 * PROBES:
        return True
    some = asked.gain.argsort()[torch.linspace(0, batch - 1, PROBES).long()]
    return bool((planned(_begun(screen, asked.of(some), tolerance)) >= 0).any())


def _settled(
    hunt: _Search, tolerance: float, keep: int
) -> Iterator[tuple[Tensor, ExactSurvivors, Tensor]]:
    """Groups of queries with a proof: their places, what was found, atoms touched."""
    start = planned(hunt)
    for level in start[start >= 0].unique().tolist():
        places = (start == level).nonzero()[:, 0]
        for _ in range(2):
            if not len(places):
                break
            kept, found, touched = _through(hunt.of(places), level, keep)
            places, proven = places[kept], found.error <= tolerance
            yield places[proven], _of(found, proven), touched[proven]
            again = ~proven & (found.rounding < tolerance / 2)
            short = (found.error[again] / tolerance).log().clamp(max=100) + LOWERED
            places = places[again]
            margin = hunt.margin.index_add(0, places, short)
            hunt = replace(hunt, margin=margin)


def _begun(screen: Screen, asked: Queries, tolerance: float) -> _Search:
    """Queries with a lower bound of their peaks, from guessed leaders, and their margins."""
    view = screen.view(asked)
    candidates = screen.candidates(view)
    queries, each = candidates.shape
    numbers = torch.arange(queries, device=candidates.device).repeat_interleave(each)
    pairs = UndecidedPairs(candidates.flatten(), numbers)
    logits, error = single(screen, view, pairs)
    best, leaders = best_of(pairs, logits, queries)
    worth = 4 * asked.amplification.abs() * screen.radius / _speed(screen, asked, leaders)
    margin = (len(screen.members) * worth / tolerance).clamp(min=1).log()
    return _Search(screen, asked, view, best - error, margin, torch.full_like(leaders, each))


def _speed(screen: Screen, asked: Queries, leaders: Tensor) -> Tensor:
    """About ‖u‖ if the leader alone mattered, [b]; an estimate in float32."""
    points = working(screen.members, leaders) + screen.members.offset.float()
    pull = (asked.d_sigma / asked.sigma).float()[:, None] * asked.x.float()
    velocity = pull.addcmul_(asked.amplification.float()[:, None], points)
    return torch.linalg.vector_norm(velocity, dim=1).double().clamp(min=1e-300)


def planned(hunt: _Search) -> Tensor:
    """Which of the screen's starts each query takes, −1 where a scan is cheaper; int64 [b]."""
    levels, members = hunt.screen.levels, hunt.screen.members
    slower = max(1.0, ALONE / len(hunt.floor))
    scan = _scan(members) * slower * WORTHWHILE
    costs = [slower * (level.columns + 8) + COSTS.over for level in levels]
    following = [_pair(level.columns) for level in levels[1:]] + [_looked_at(members)]
    after = _share(hunt, levels[0]) * following[0]
    if (after < CHEAP * costs[0]).all() and costs[0] * (1 + CHEAP) < scan:
        return torch.zeros_like(hunt.touched)
    after, totals, last = torch.zeros_like(hunt.floor), [], len(levels) - 1
    if (whole := hunt.screen.whole) is not None:
        cost = slower * (COSTS.whole * members.dims + 8) + COSTS.over
        totals.append(cost + _share(hunt, whole) * following[-1])
        last += 1
    for k in reversed(range(len(levels))):
        after = after + _share(hunt, levels[k]) * following[k]
        totals.append(after + costs[k])
        if (after > scan).all():  # what survives this level survives those before it
            break
    level, worth = _common(torch.stack(totals), scan, ALONE * (slower == 1))
    return torch.where(worth, last - level, -1)


def _common(costs: Tensor, scan: float, alone: float) -> tuple[int, Tensor]:
    """The level [k, b] at which all that are worth it start, and which queries [b] these are.

    One for all, since each passes over every atom. A scan costs `scan` for each query and as much
    as that of `alone` more, however few they are: the last ones go with the rest, or all do.
    """
    worth = costs.amin(0) < scan
    if not worth.any():
        return 0, worth
    level = int(costs[:, worth].mean(1).argmin())
    worth = costs[level] < scan
    left = scan * (int((~worth).sum()) + alone)
    if float(costs[level, ~worth].sum()) < left:
        return level, torch.ones_like(worth)
    taken = float(costs[level, worth].sum()) + left / WORTHWHILE
    return level, worth & (taken < PARTLY * scan / WORTHWHILE * (len(worth) + alone))


def _scan(members: ClassPoints) -> float:
    """What an atom costs a query in a scan."""
    return COSTS.scan * members.dims * (STREAMED if members.points is None else 1)


def _pair(columns: int) -> float:
    return COSTS.pair + COSTS.column * columns


def _looked_at(members: ClassPoints) -> float:
    """What it costs to look at an atom in full."""
    return _pair(members.dims) + (COSTS.fetched if members.points is None else 0)


def _share(hunt: _Search, level: BoundLevel | Bfloat16Bounds) -> Tensor:
    """The estimated share of atoms that survive a level, [b]; 1 where it cannot be used."""
    coefficients = level.coefficients(hunt.view)
    thresholds = level.thresholds(hunt.view, hunt.cut)
    above = (level.sample @ coefficients.T >= thresholds).double().mean(0)
    usable = coefficients.isfinite().all(1) & thresholds.isfinite()
    return torch.where(usable, above + 0.5 / len(level.sample), torch.inf)


def _through(hunt: _Search, first: int, keep: int) -> tuple[Tensor, ExactSurvivors, Tensor]:
    """Queries through the levels from the `first` on: those not given up, and what was found."""
    pairs = _survivors(hunt, hunt.screen.starts[first])
    kept = torch.ones_like(hunt.touched, dtype=torch.bool)
    for level in hunt.screen.levels[first + 1 :]:
        pairs = _affordable(hunt, pairs, kept, _pair(level.columns))
        if len(pairs.atoms) <= FEW:
            break
        products = level.pairs(level.coefficients(hunt.view), pairs.atoms, pairs.asked)
        pairs = pairs.of(products >= level.thresholds(hunt.view, hunt.cut)[pairs.asked])
    pairs = _affordable(hunt, pairs, kept, _looked_at(hunt.screen.members))
    touched = (hunt.touched + pairs.counts(len(kept))).clamp(max=len(hunt.screen.members))
    logits, error = single(hunt.screen, hunt.view, pairs)
    best, leaders = best_of(pairs, logits, len(kept))
    hunt = replace(hunt, floor=torch.maximum(hunt.floor, best - error))
    pairs = pairs.of(logits + error[pairs.asked] >= hunt.cut[pairs.asked])
    pairs = _affordable(hunt, pairs, kept, COSTS.wide * hunt.screen.members.dims)
    chosen = kept.nonzero()[:, 0]
    number = kept.long().cumsum(0) - 1
    pairs = UndecidedPairs(pairs.atoms, number[pairs.asked])
    some = hunt.of(chosen)
    found = exact(some.screen, some.asked, some.view, pairs, leaders[chosen], some.cut, keep)
    return chosen, found, touched[chosen]


def _survivors(hunt: _Search, level: BoundLevel | Bfloat16Bounds) -> UndecidedPairs:
    """Pairs that a level, applied to all atoms, cannot rule out."""
    count, thresholds = len(hunt.screen.members), level.thresholds(hunt.view, hunt.cut)
    coefficients = level.coefficients(hunt.view)
    bounds = blocked(count, len(thresholds), coefficients)
    level.bounds(coefficients, bounds[:count])
    blocks = in_blocks(bounds)
    hit = (blocks.amax(1) >= thresholds).nonzero()
    if 4 * len(hit) * BLOCK > bounds.numel():
        return UndecidedPairs(*(bounds[:count] >= thresholds).nonzero().T)
    values = blocks[hit[:, 0], :, hit[:, 1]]
    place, within = (values >= thresholds[hit[:, 1], None]).nonzero().T
    return UndecidedPairs(hit[place, 0] * BLOCK + within, hit[place, 1])


def _affordable(hunt: _Search, pairs: UndecidedPairs, kept: Tensor, cost: float) -> UndecidedPairs:
    """Pairs of queries that do not have so many that a scan is cheaper; others are given up."""
    members, counts = hunt.screen.members, pairs.counts(len(kept))
    alone = max(1.0, ALONE / len(kept))
    scan = _scan(members) * alone * len(members)
    many = counts * cost >= scan
    if float(counts[many].sum()) * cost < scan * (int(many.sum()) + ALONE * (alone == 1)):
        many = torch.zeros_like(many)
    kept &= ~many & (counts > 0)
    return pairs if kept.all() else pairs.of(kept[pairs.asked])


def _of(found: ExactSurvivors, chosen: Tensor) -> ExactSurvivors:
    sums = PosteriorSums(*(getattr(found.sums, f.name)[chosen] for f in fields(PosteriorSums)))
    return ExactSurvivors(
        sums, *(getattr(found, f.name)[chosen] for f in fields(ExactSurvivors)[1:])
    )


def _joined(screen: Screen, parts: list, places: Tensor, keep: int) -> PruningResult:
    parts = parts or [_nothing(screen, places, keep)]
    where = torch.cat([part[0] for part in parts])
    order = where.argsort()

    def joined(values: list[Tensor]) -> Tensor:
        return torch.cat(values)[order]

    found = [part[1] for part in parts]
    sums = [joined([getattr(one.sums, f.name) for one in found]) for f in fields(PosteriorSums)]
    left = torch.ones_like(places, dtype=torch.bool)
    left[where] = False
    return PruningResult(
        where[order],
        left.nonzero()[:, 0],
        PosteriorSums(*sums),
        joined([one.mean for one in found]),
        joined([one.missing for one in found]),
        joined([one.error for one in found]),
        joined([part[2] for part in parts]),
    )


def _nothing(screen: Screen, places: Tensor, keep: int) -> tuple[Tensor, ExactSurvivors, Tensor]:
    """Found nowhere."""
    none = screen.norms[:0]
    wide, top = none.new_empty(0, screen.members.dims), none.new_empty(0, keep)
    sums = PosteriorSums(none, none, wide, none, none, none, top, top.long())
    return places[:0], ExactSurvivors(sums, wide, none, none, none), places[:0]
