"""Targets of known pairs from a few atoms: the rest is bounded, with a stated probability.

Atoms that may matter are evaluated in float64 against the own one. With U_j a bound on the logit
l_j − l_o of each other atom (chance.py) what they can change is

    missing ≤ Σ e^{U_j} / (Σ_S e^{l_i − l_o} + Σ e^{U_j}),
    ‖u* − u_S‖ ≤ A · missing · max_j ‖x_j − x̂_S‖.

Screening all atoms costs one product with their few leading coordinates. Pairs that keep too many
atoms, and those for which the tolerance cannot be shown in the end, go to all points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding

from floracle.core.paths import Path
from floracle.run.errors import Mistake

from .chance import UNIT, Bound, Known, Ledger, Outline, bounds, known_pairs
from .dense import queries, scan
from .members import Members
from .pairs import positions
from .rescoring import predicted_error, resolve

CONTRACT = 1e-5
"""The relative velocity error that the dense oracle keeps to in float32."""
ROUNDING = 1e-11
"""What float64 may leave in a velocity, relative to its norm."""
SHARE, FEWEST = 1 / 8, 64
"""Pairs that keep more than this share of the atoms, and more than so many, go to all points."""
TOGETHER = 2**27
"""Bytes of noise that are followed at a time."""
CACHED = 2**18
"""Bounds, or coordinates of atoms, that are held at a time: they should stay in cache."""
LOWEST = -80.0
"""Bounds further below the cut count as this; their exponentials would not be normal float32."""
UNHEARD = 1e-20
"""Atoms of less weight do not move the mean."""


@dataclass(frozen=True)
class Targets:
    """The oracle's velocity at p known pairs; float64 [p] unless stated."""

    velocity: Tensor
    """u*, [p, *shape]."""
    mean: Tensor
    """The posterior mean x̂, [p, *shape]."""
    missing: Tensor
    """An upper bound on the posterior's mass that was not looked at; 0 where all was."""
    error: Tensor
    """An upper bound on ‖velocity − u*‖ / ‖u*‖."""
    touched: Tensor
    """How many atoms were evaluated, int64."""
    failure: float
    """The probability that any of these bounds does not hold; 0 where none relied on chance."""


@torch.no_grad()
def likely_targets(
    outline: Outline,
    path: Path,
    rows: Tensor,
    noise: Tensor,
    times: Tensor,
    *,
    tolerance: float,
    failure: float,
    ledger: Ledger | None = None,
) -> Targets:
    """Oracle velocities at x_t = α · data + σ · noise, each within `tolerance` of its own norm.

    `rows` int64 [p] are atoms of the class, `noise` [p, *shape], `times` [p] in [0, 1). The bounds
    of the whole call fail with probability `failure` at most; at 0 they are certain, and weaker.
    The noise must be standard normal, drawn without regard to the data and **not selected** since:
    not the best of several, not an encoding of a sample, not what a solver arrived at. That is the
    caller's promise; nothing here can check it. What was relied on goes into the `ledger`.
    """
    _check(outline, rows, noise, times, tolerance, failure)
    own = positions(outline.members, rows)
    tail = failure / (len(outline.members) * len(rows))
    size = max(1, TOGETHER // (8 * outline.members.dims))
    parts = [
        _targets(outline, known_pairs(outline.members, path, *some), path, tolerance, tail)
        for some in zip(*(of.split(size) for of in (own, noise, times)), strict=True)
    ]
    names = ("velocity", "mean", "missing", "error", "touched")
    columns = {name: torch.cat([getattr(part, name) for part in parts]).cpu() for name in names}
    for name in names[:2]:
        columns[name] = columns[name].reshape(noise.shape)
    found = Targets(**columns, failure=sum(part.failure for part in parts))
    if ledger is not None:
        ledger.spend(found.failure)
    return found


def _check(
    outline: Outline,
    rows: Tensor,
    noise: Tensor,
    times: Tensor,
    tolerance: float,
    failure: float,
) -> None:
    if not 0 < tolerance < 1:
        raise Mistake(
            f"tolerance must lie between 0 and 1, got {tolerance:g}; for exact velocities ask the"
            " oracle itself"
        )
    if not 0 <= failure < 1:
        raise Mistake(
            f"failure is the probability that a bound does not hold, in [0, 1), got {failure:g}"
        )
    if not len(rows) == len(noise) == len(times) > 0:
        raise ValueError(f"{len(rows)} rows, {len(noise)} noises and {len(times)} times")
    if noise[0].numel() != outline.members.dims:
        raise ValueError(f"noise has {noise[0].numel()} dimensions, not {outline.members.dims}")
    if not noise.isfinite().all():
        raise ValueError("noise contains NaN or infinity")


def _targets(outline: Outline, known: Known, path: Path, tolerance: float, tail: float) -> Targets:
    count = len(outline.members)
    cut = (_budget(outline, known, tolerance) / (2 * count)).log()
    bound = bounds(outline, known, tail, less=cut)
    near, crowded = _screened(outline, bound, most=max(FEWEST, int(SHARE * count)))
    kept = _read(outline, known, near, cut)
    mass, shift = _evaluated(outline.members, known, kept)
    rest = kept.rest.log() + cut
    missing = (rest - torch.logaddexp(rest, mass)).exp()
    velocity = known.conditional + known.amplification[:, None] * shift
    mean = known.data + shift
    error = _error(outline, known, mean, velocity, missing)
    shown = (error <= tolerance) & ~crowded
    others = (~shown).nonzero()[:, 0]
    if len(others):
        found = _from_all(outline.members, known.of(others), path, tolerance)
        velocity[others], mean[others], error[others] = found
    relied = 0 if outline.whole else int((count - near.counts)[~crowded].sum())
    touched = torch.where(shown, near.counts, count)
    return Targets(velocity, mean, torch.where(shown, missing, 0.0), error, touched, relied * tail)


def _budget(outline: Outline, known: Known, tolerance: float) -> Tensor:
    """The mass that may be missing, [p], if u* is not much shorter than the conditional target."""
    size = known.conditional.norm(dim=1) / 2
    worth = known.amplification.abs() * 2 * outline.widest
    return (tolerance * size / worth.clamp(min=1e-300)).clamp(min=1e-300, max=0.5)


def _error(
    outline: Outline, known: Known, mean: Tensor, velocity: Tensor, missing: Tensor
) -> Tensor:
    """The bound on the velocity's error relative to the true velocity."""
    furthest = (mean - outline.centre).norm(dim=1) + outline.widest
    apart = known.amplification.abs() * missing * furthest
    shortest = velocity.norm(dim=1) - apart
    return torch.where(shortest > 0, apart / shortest, torch.inf) + ROUNDING


@dataclass(frozen=True)
class _Kept:
    """Atoms in doubt by pair; [p] unless stated."""

    pair: Tensor
    """int64 [k], not decreasing."""
    atom: Tensor
    """int64 [k]."""
    rest: Tensor
    """Σ e^{U − cut} of all others, float64."""
    counts: Tensor
    """How many are in doubt, int64."""


def _screened(outline: Outline, bound: Bound, *, most: int) -> tuple[_Kept, Tensor]:
    """Atoms whose bound is above the cut; which pairs were given up since they keep too many."""
    pairs, count = len(bound.leading), len(outline.members)
    device = bound.leading.device
    rest = torch.zeros(pairs, dtype=torch.float64, device=device)
    counts = torch.zeros(pairs, dtype=torch.int64, device=device)
    alive, found = torch.arange(pairs, device=device), []
    size = max(256, CACHED // pairs)
    for start in range(0, count, size):
        upper = outline.upper(bound, slice(start, min(start + size, count)))
        over = upper > 0
        pair, atom = over.nonzero(as_tuple=True)
        found.append((alive[pair], atom + start, upper[pair, atom].double()))
        counts[alive] += over.sum(1)
        weights = upper.masked_fill_(over, LOWEST).clamp_(min=LOWEST).exp_()
        rest[alive] += weights.sum(1, dtype=torch.float64)
        staying = counts[alive] <= most
        if not staying.all():
            alive, bound = alive[staying], bound.of(staying)
        if not len(alive):
            break
    crowded = counts > most
    pair, atom, upper = (torch.cat(column) for column in zip(*found, strict=True))
    fine = ~crowded[pair]
    return _spared(pair[fine], atom[fine], upper[fine], rest * (1 + 1e-4), count), crowded


def _spared(pair: Tensor, atom: Tensor, upper: Tensor, rest: Tensor, budget: float) -> _Kept:
    """Leave out the least of the atoms in doubt as long as all that is left out fits `budget`."""
    order = upper.argsort()
    order = order[pair[order].argsort(stable=True)]
    pair, atom = pair[order], atom[order]
    values = upper[order].clamp(max=math.log(2 * budget)).exp()
    counts = torch.bincount(pair, minlength=len(rest))
    total = values.cumsum(0)
    first = (counts.cumsum(0) - counts)[pair]
    total = total - (total - values)[first] + rest[pair]
    kept = total > budget
    rest = rest.scatter_reduce(0, pair[~kept], total[~kept] * (1 + 1e-6), "amax")
    return _Kept(pair[kept], atom[kept], rest, torch.bincount(pair[kept], minlength=len(rest)))


def _read(outline: Outline, known: Known, kept: _Kept, cut: Tensor) -> _Kept:
    """Look at the points in doubt in float32, and leave out what rounding cannot bring back."""
    members, norms, r = outline.members, outline.norms, known.ratio
    query = r[:, None] * (known.noise + r[:, None] * (known.data - outline.centre))
    level = (query * (known.data - members.offset)).sum(1) - r.square() * norms[known.own] / 2
    rounding = (members.dims + 8) * UNIT * members.largest * query.norm(dim=1)
    level += members.log_weights[known.own] + cut - rounding
    upper = r.square()[kept.pair] * norms[kept.atom] / -2
    upper += members.log_weights[kept.atom] - level[kept.pair]
    start, query = 0, query.float()
    for pair, count in enumerate(kept.counts.tolist()):
        if count > 1:
            these = slice(start, start + count)
            upper[these] += _working(members, kept.atom[these]) @ query[pair]
        start += count
    upper[kept.atom == known.own[kept.pair]] = math.inf
    return _spared(kept.pair, kept.atom, upper, kept.rest, 2.0 * len(members))


def _working(members: Members, atoms: Tensor) -> Tensor:
    """Working points of some atoms, float32."""
    if members.points is not None:
        return embedding(atoms, members.points)  # copies rows three times as fast as an index
    return (members.originals(atoms) - members.offset).float()


def _evaluated(members: Members, known: Known, kept: _Kept) -> tuple[Tensor, Tensor]:
    """Log Σ e^{l_i − l_o} [p] over the kept atoms and x̂ − data [p, D], float64."""
    size = max(1, CACHED // members.dims)
    logits = [
        _logits(members, known, pair, atom)
        for pair, atom in zip(kept.pair.split(size), kept.atom.split(size), strict=True)
    ]
    logits = torch.cat(logits)
    peak = torch.full_like(known.ratio, -torch.inf).scatter_reduce(0, kept.pair, logits, "amax")
    weights = (logits - peak[kept.pair]).exp()
    mass = torch.zeros_like(peak).index_add_(0, kept.pair, weights)
    shift = torch.zeros_like(known.data)
    heard = (weights > UNHEARD) & (kept.atom != known.own[kept.pair])
    for of in heard.nonzero()[:, 0].split(size):
        pair = kept.pair[of]
        apart = members.originals(kept.atom[of]) - known.data[pair]
        shift.index_add_(0, pair, apart.mul_((weights[of] / mass[pair])[:, None]))
    return peak + mass.log(), shift


def _logits(members: Members, known: Known, pair: Tensor, atom: Tensor) -> Tensor:
    """The logits l_i − l_o of some atoms [k] for some pairs [k]."""
    apart, r = members.originals(atom) - known.data[pair], known.ratio[pair]
    pull = torch.linalg.vecdot(apart, known.noise[pair])
    prior = members.log_weights[atom] - members.log_weights[known.own[pair]]
    return prior + r * (pull - r / 2 * torch.linalg.vecdot(apart, apart))


def _from_all(
    members: Members, known: Known, path: Path, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Velocities, means and errors from all atoms."""
    c = path.coefficients(known.t)
    x = c.alpha[:, None] * known.data + c.sigma[:, None] * known.noise
    asked = queries(members, x, known.t, path)
    if tolerance >= CONTRACT:
        mean = resolve(members, asked, scan(members, asked)).mean
        return asked.velocity(mean), mean, torch.full_like(known.t, CONTRACT)
    original = members if members.exact else members.unshifted()
    sums = scan(original, asked, dtype=torch.float64)
    mean = sums.points / sums.mass[:, None]
    rounding = torch.finfo(torch.float64).eps
    error = predicted_error(original, asked, sums, mean, rounding)
    return asked.velocity(mean), mean, ROUNDING + 8 * error
