"""What float32 cannot hold, done again in float64.

A logit from float32 products carries an error of about

    e = (α/σ²) 2⁻²³ (¼ ‖y‖ max‖x_i‖ + 2 |⟨y, x_L⟩|)

(measured: benchmarks/numerics.py). Its effect on the velocity is at most about
A e √(γ_max · tr Cov), which vanishes where no other atom comes near the leader. Rounding of the
average adds A (2⁻²³ ‖x̂‖ + ρ ‖x‖), where ‖x‖ is the size of the points averaged, which may cancel
in x̂, and ρ = min(6 · 2⁻²³, 1 − γ_max): each addition rounds the leader's part, however little it
adds, but by no more than that. Where the two together exceed `TRIGGER` relative to ‖u*‖
the leading atoms are rescored against the leader L,

    l_i − l_L = (α/σ²) ⟨x − α (x_i + x_L)/2, x_i − x_L⟩ + log w_i / w_L,

which loses nothing to cancellation. Where more atoms compete than are kept, the logits of those
kept are put right within the sums: the others err as before, but none of them weighs much. Where
that leaves doubt, those queries are scanned for again in float64, wherever in the class an atom
competed; and where even that does, once more through all of it, with points seen from the leader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .class_points import ClassPoints, Stretch
from .posterior import PosteriorSums
from .scan import Passed, Queries, scan

if TYPE_CHECKING:
    from .pruning.search import PruningResult

TRIGGER = 8e-6
"""Predicted relative velocity error above which float64 takes over; the contract is 1e-5."""
WORST = 4.0
"""How many typical errors the logit of one heavy atom is taken to be off; put right, those of many
light ones are off by one at most (measured: up to 3.7, and .1)."""
CROWDED = 1.5e-6
"""The same where leaders crowd together: they err alike, which √γ_max does not allow for."""
LONG = 8192
"""Dimensions beyond which the rounding of an inner product grows with the root of their number."""
LEFT_OUT = 1e-7
"""Relative velocity error that leaving out all but the rescored atoms may cost."""
SAFETY = 8.0
"""How much larger than the typical error of a logit the worst one is taken to be."""
AVERAGING = 6.0
"""Rounding of a float32 average, in roundings of the points averaged (measured: up to 3.4)."""
LOOKED_AT = 4
"""Leaders between which distances are taken to see whether they crowd together."""
AT_ONCE, LAUNCHED = 2**21, 2**25
"""Coordinates of leaders that are rescored together, and on a GPU, which waits for launches."""


@dataclass(frozen=True)
class Refined:
    """The sums with doubtful queries mended, and their means; float64."""

    sums: PosteriorSums
    mean: Tensor
    """[b, D]."""
    rescored: Tensor
    """How many atoms were rescored for each query, int64 [b]; the class size for a full rescan."""
    pruned: PruningResult | None = None
    """The proof, where atoms were left out."""


def refine(
    members: ClassPoints, asked: Queries, sums: PosteriorSums, passed: Passed | None = None
) -> Refined:
    """Mend the queries that float32 leaves in doubt; `passed` is where the scan has been."""
    mean = sums.points / sums.mass[:, None] + members.offset
    size = asked.velocity(mean).norm(dim=1).clamp(min=1e-30)
    rounding = torch.finfo(members.precision).eps
    error = typical_error(members, asked, mean, rounding)
    cut = hopeless(members, asked, size, error)
    rivals = (sums.top_logits >= (sums.top_logits[:, 0] - cut)[:, None]).sum(1)
    predicted = predicted_error(members, asked, sums, mean, rounding)
    doubtful = predicted > TRIGGER
    unsure = ((predicted > CROWDED) & ~doubtful & (rivals > 1)).nonzero()[:, 0]
    for places in unsure.split(_at_once(members, LOOKED_AT)):
        some = _of(sums, places)
        doubtful[places] = crowded(members, some, spread(members, some, mean[places], rounding))
    if members.exact:
        doubtful &= rivals > 1  # alone, the leader is the mean to the last bit
    complete = (rivals < sums.top.shape[1]) | (sums.top.shape[1] == len(members))
    rescored = torch.zeros_like(rivals)
    few, many = (chosen.nonzero()[:, 0] for chosen in (doubtful & complete, doubtful & ~complete))
    if len(few):
        kept = int(rivals[few].max())
        new, mean[few] = _rescore_leaders(members, asked.of(few), _of(sums, few), kept)
        sums, rescored[few] = _put(sums, few, new), rivals[few]
    if len(many):
        new, mean[many], settled = _mended(members, asked.of(many), _of(sums, many))
        sums, rescored[many] = _put(sums, many, new), sums.top.shape[1]
        many = many[~settled]
    if len(many):
        within = None if passed is None else passed.where((sums.peak - cut)[many], many)
        new, mean[many] = _rescan(members, asked.of(many), _of(sums, many), within)
        sums, rescored[many] = _put(sums, many, new), len(members)
    return Refined(sums, mean, rescored)


def hopeless(members: ClassPoints, asked: Queries, size: Tensor, error: Tensor) -> Tensor:
    """How far below the peak logits cannot matter to a query, rounding included; nats, [b]."""
    widest = 2 * members.norms.max().sqrt()
    worth = (asked.amplification * widest / size).clamp(min=1)
    return (len(members) * worth / LEFT_OUT).log() + 2 * SAFETY * error


def predicted_error(
    members: ClassPoints,
    asked: Queries,
    sums: PosteriorSums,
    mean: Tensor,
    rounding: float,
    *,
    heaviest: Tensor | None = None,
    shared: Tensor | float = 0.0,
) -> Tensor:
    """The velocity error, relative to its norm, that products so rounded may have left; [b].

    `heaviest` is the largest weight of an atom whose logit is so rounded; by default it is that of
    the leader, which may be an unlucky one. `shared` is how much of the spread a part of the atoms
    may be off together.
    """
    size = asked.velocity(mean).norm(dim=1).clamp(min=1e-30)
    error = typical_error(members, asked, mean, rounding)
    top = (sums.top_logits[:, 0] - sums.peak).exp() / sums.mass
    around = spread(members, sums, mean, rounding)
    working = (mean - members.offset).norm(dim=1)
    averaged = (around + working.square()).sqrt()
    concerned = WORST**2 * top if heaviest is None else heaviest
    from_logits = torch.expm1(error.clamp(max=50)) * (concerned * around).sqrt()
    from_logits += shared * around.sqrt()
    summing = (1 - top).clamp(min=0, max=AVERAGING * rounding)
    from_mean = rounding * working + summing * averaged
    return asked.amplification * (from_logits + from_mean) / size


def spread(members: ClassPoints, sums: PosteriorSums, mean: Tensor, rounding: float) -> Tensor:
    """The posterior's tr Cov, rounding included; [b]."""
    norms = sums.norms / sums.mass
    centred = (mean - members.centre).square().sum(1)
    return (norms - centred).clamp(min=0) + rounding * norms


def crowded(members: ClassPoints, sums: PosteriorSums, spread: Tensor) -> Tensor:
    """Whether two of the first leaders are much closer than the posterior is wide; [b]."""
    leaders = members.originals(sums.top[:, :LOOKED_AT])
    apart = torch.cdist(leaders, leaders).square()
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return apart.amin((1, 2)) < 0.01 * spread


def typical_error(members: ClassPoints, asked: Queries, mean: Tensor, rounding: float) -> Tensor:
    """The typical error e of a logit from products so rounded, [b]."""
    apart = 0.25 * asked.centred.norm(dim=1) * members.largest
    along = 2 * (asked.centred * (mean - members.offset)).sum(1).abs()
    longer = max(1.0, members.dims / LONG) ** 0.5
    return asked.gain * rounding * longer * (apart + along)


def _rescore_leaders(
    members: ClassPoints, asked: Queries, sums: PosteriorSums, kept: int
) -> tuple[PosteriorSums, Tensor]:
    pieces = [
        _rescored(members, asked.of(places), _of(sums, places), kept)
        for places in _some(members, asked, kept)
    ]
    names, (parts, means) = sums.__dataclass_fields__, zip(*pieces, strict=True)
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return PosteriorSums(**joined), torch.cat(means)


def _some(members: ClassPoints, asked: Queries, leaders: int) -> tuple[Tensor, ...]:
    """Places of queries whose leaders are looked at together."""
    places = torch.arange(len(asked.x), device=asked.x.device)
    return places.split(_at_once(members, leaders))


def _at_once(members: ClassPoints, leaders: int) -> int:
    """Of how many queries so many leaders are looked at together."""
    most = LAUNCHED if members.centre.is_cuda else AT_ONCE
    return max(1, most // (leaders * members.dims))


def _mended(
    members: ClassPoints, asked: Queries, sums: PosteriorSums
) -> tuple[PosteriorSums, Tensor, Tensor]:
    """The sums with the logits of all kept leaders put right; the means; whether that settles it.

    Rounding moves the mean by about e √(γ_max · tr Cov) of the atoms it concerns: here of those
    that are not kept, which weigh no more than the last leader. What the leaders erred by on
    average, the others may still err by: that moves both parts against each other.
    """
    top, points = sums.top, torch.empty_like(sums.points)
    logits = torch.empty_like(sums.top_logits)
    for places in _some(members, asked, top.shape[1]):
        leaders, some = members.originals(top[places]), asked.of(places)
        along = ((leaders - members.centre) @ some.centred[:, :, None])[:, :, 0]
        logits[places] = along * some.gain[:, None] + _heights(members, some, top[places])
        moved = _weights(logits[places], sums.peak[places])
        moved -= _weights(sums.top_logits[places], sums.peak[places])
        points[places] = sums.points[places]
        points[places] += (moved[:, None] @ (leaders - members.offset))[:, 0]
    together = (logits - sums.top_logits).mean(1).abs()
    sums, rounding = _moved(members, sums, logits, points), torch.finfo(members.precision).eps
    mean = sums.points / sums.mass[:, None] + members.offset
    weights = _weights(sums.top_logits, sums.peak) / sums.mass[:, None]
    held = weights.sum(1).clamp(max=1)
    left = predicted_error(
        *(members, asked, sums, mean, rounding),
        heaviest=weights[:, -1],
        shared=together * (held * (1 - held)).sqrt(),
    )
    fine = torch.finfo(torch.float64).eps
    left += predicted_error(members, asked, sums, mean, fine)
    close = crowded(members, sums, spread(members, sums, mean, rounding))
    return sums, mean, (left <= TRIGGER) & ~close


def _heights(members: ClassPoints, asked: Queries, positions: Tensor) -> Tensor:
    """What logits have beside inner products: −(α²/2σ²) ‖x_i − m‖² + log w_i; [b, k]."""
    half = (asked.gain * asked.alpha / 2)[:, None]
    return members.log_weights[positions] - half * members.norms[positions]


def _weights(logits: Tensor, peak: Tensor) -> Tensor:
    return (logits - peak[:, None]).exp()


def _moved(
    members: ClassPoints, sums: PosteriorSums, logits: Tensor, points: Tensor
) -> PosteriorSums:
    """The sums with other logits of the kept leaders, and the sums of points that they give."""
    pairs = [(values, _weights(values, sums.peak)) for values in (sums.top_logits, logits)]
    (before, old), (after, new) = pairs
    apart = [values - sums.peak[:, None] for values in (before, after)]
    best = logits.sort(dim=1, descending=True)
    return replace(
        sums,
        mass=sums.mass + (new - old).sum(1),
        points=points,
        logits=sums.logits + (new * apart[1] - old * apart[0]).sum(1),
        squares=sums.squares + (new.square() - old.square()).sum(1),
        norms=sums.norms + ((new - old) * members.norms[sums.top]).sum(1),
        top_logits=best.values,
        top=sums.top.gather(1, best.indices),
    )


def _rescored(
    members: ClassPoints, asked: Queries, sums: PosteriorSums, kept: int
) -> tuple[PosteriorSums, Tensor]:
    top = sums.top[:, :kept]
    points = members.originals(top)
    leader = points[:, :1]
    apart = points - leader
    alpha = asked.alpha[:, None, None]
    middle = asked.x[:, None] - alpha * leader - alpha * apart / 2
    log_weights = members.log_weights[top]
    relative = asked.gain[:, None] * (middle * apart).sum(2) + log_weights - log_weights[:, :1]
    best = relative.max(1)
    weights = (relative - best.values[:, None]).exp()
    mass = weights.sum(1)
    mean = (weights[:, None] @ points)[:, 0] / mass[:, None]
    order = relative.argsort(dim=1, descending=True)
    peak = _leader_logit(members, asked, points, top, best.indices)
    return (
        replace(
            sums,
            peak=peak,
            mass=mass,
            points=(mean - members.offset) * mass[:, None],
            logits=(weights * (relative - best.values[:, None]).clamp(min=-1e4)).sum(1),
            squares=weights.square().sum(1),
            norms=(weights * members.norms[top]).sum(1),
            top_logits=_led(
                sums.top_logits, peak[:, None] + (relative - best.values[:, None]).gather(1, order)
            ),
            top=_led(sums.top, top.gather(1, order)),
        ),
        mean,
    )


def _leader_logit(
    members: ClassPoints, asked: Queries, points: Tensor, top: Tensor, best: Tensor
) -> Tensor:
    places = torch.arange(len(best), device=best.device)
    leader, position = points[places, best] - members.centre, top[places, best]
    along = asked.gain * (asked.centred * leader).sum(1)
    return along + _heights(members, asked, position[:, None])[:, 0]


def _led(kept: Tensor, leaders: Tensor) -> Tensor:
    return torch.cat([leaders, kept[:, leaders.shape[1] :]], 1)


def _rescan(
    members: ClassPoints, asked: Queries, sums: PosteriorSums, within: Sequence[Stretch] | None
) -> tuple[PosteriorSums, Tensor]:
    original = members if members.exact else members.unshifted()
    keep = sums.top.shape[1]
    again = scan(original, asked, dtype=torch.float64, keep=keep, within=within)
    mean = again.points / again.mass[:, None]
    rounding = torch.finfo(torch.float64).eps
    doubtful = predicted_error(original, asked, again, mean, rounding) > TRIGGER
    for places in doubtful.nonzero()[:, :1]:
        new, mean[places] = _scan_about(original, asked.of(places), _of(again, places))
        again = _put(again, places, new)
    return again, mean


def _scan_about(
    members: ClassPoints, asked: Queries, sums: PosteriorSums
) -> tuple[PosteriorSums, Tensor]:
    """One query again, with all points, and so the logits, seen from its leader."""
    near = members.about(int(sums.top[0, 0]))
    seen = replace(asked, centred=asked.x - asked.alpha[:, None] * near.centre)
    new = scan(near, seen, dtype=torch.float64, keep=sums.top.shape[1])
    mean = new.points / new.mass[:, None] + near.offset
    return (
        replace(new, points=mean * new.mass[:, None], norms=sums.norms / sums.mass * new.mass),
        mean,
    )


def _of(sums: PosteriorSums, places: Tensor) -> PosteriorSums:
    return PosteriorSums(*(getattr(sums, name)[places] for name in sums.__dataclass_fields__))


def _put(sums: PosteriorSums, places: Tensor, new: PosteriorSums) -> PosteriorSums:
    fields = {}
    for name in sums.__dataclass_fields__:
        value = getattr(sums, name).clone()
        value[places] = getattr(new, name)
        fields[name] = value
    return PosteriorSums(**fields)
