"""What float32 cannot hold, done again in float64.

A logit from float32 products carries an error of about

    e = (α/σ²) 2⁻²³ (¼ ‖y‖ max‖x_i‖ + 2 |⟨y, x_L⟩|)

(measured: benchmarks/numerics.py). Its effect on the velocity is at most about
A e √(γ_max · tr Cov), and the rounding of the averaged mean adds A 2⁻²³ (‖x̂‖ + 4 (1 − γ_max) ‖x‖),
where ‖x‖ is the size of the points averaged, which may cancel in x̂; the first vanishes where no
other atom comes near the leader. Where the two together exceed `TRIGGER` relative to ‖u*‖ the
leading atoms are rescored against the leader L,

    l_i − l_L = (α/σ²) ⟨x − α (x_i + x_L)/2, x_i − x_L⟩ + log w_i / w_L,

which loses nothing to cancellation. Where more atoms compete than are kept, the whole class is
scanned again in float64 for those queries; and where that leaves doubt as well, once more with all
points seen from the leader.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .dense import Queries, scan
from .members import Members
from .posterior import Sums

if TYPE_CHECKING:
    from .pruning import Pruned

TRIGGER = 8e-6
"""Predicted relative velocity error above which float64 takes over; the contract is 1e-5."""
CROWDED = 1.5e-6
"""The same where leaders crowd together: they err alike, which √γ_max does not allow for."""
LONG = 8192
"""Dimensions beyond which the rounding of an inner product grows with the root of their number."""
LEFT_OUT = 1e-7
"""Relative velocity error that leaving out all but the rescored atoms may cost."""
SAFETY = 8.0
"""How much larger than the typical error of a logit the worst one is taken to be."""
AVERAGING = 4.0
"""Rounding of a float32 average, in roundings of the points averaged."""
LOOKED_AT = 4
"""Leaders between which distances are taken to see whether they crowd together."""
AT_ONCE = 2**25
"""Coordinates of leaders that are rescored together."""


@dataclass(frozen=True)
class Resolved:
    """The sums with doubtful queries mended, and their means; float64."""

    sums: Sums
    mean: Tensor
    """[b, D]."""
    rescored: Tensor
    """How many atoms were rescored for each query, int64 [b]; the class size for a full rescan."""
    pruned: Pruned | None = None
    """The proof, where atoms were left out."""


def resolve(members: Members, asked: Queries, sums: Sums) -> Resolved:
    """Mend the queries that float32 leaves in doubt."""
    mean = sums.points / sums.mass[:, None] + members.offset
    size = asked.velocity(mean).norm(dim=1).clamp(min=1e-30)
    rounding = torch.finfo(members.precision).eps
    error = typical_error(members, asked, mean, rounding)
    rivals = competing(members, asked, sums, size, error)
    predicted = predicted_error(members, asked, sums, mean, rounding)
    doubtful = predicted > TRIGGER
    unsure = ((predicted > CROWDED) & ~doubtful & (rivals > 1)).nonzero()[:, 0]
    for places in unsure.split(max(1, AT_ONCE // (LOOKED_AT * members.dims))):
        some = _of(sums, places)
        doubtful[places] = crowded(members, some, spread(members, some, mean[places], rounding))
    if members.exact:
        doubtful &= rivals > 1  # alone, the leader is the mean to the last bit
    complete = (rivals < sums.top.shape[1]) | (sums.top.shape[1] == len(members))
    rescored = torch.zeros_like(rivals)
    for chosen, mended_by in (
        (doubtful & complete, _rescore_leaders),
        (doubtful & ~complete, _rescan),
    ):
        if chosen.any():
            places = chosen.nonzero()[:, 0]
            rescored[places] = rivals[places] if mended_by is _rescore_leaders else len(members)
            kept = int(rivals[places].max())
            new, mean[places] = mended_by(members, asked.of(places), _of(sums, places), kept)
            sums = _put(sums, places, new)
    return Resolved(sums, mean, rescored)


def competing(members: Members, asked: Queries, sums: Sums, size: Tensor, error: Tensor) -> Tensor:
    """How many of the kept leaders can matter to each query, rounding included; int64 [b]."""
    widest = 2 * members.norms.max().sqrt()
    worth = (asked.amplification * widest / size).clamp(min=1)
    cut = (len(members) * worth / LEFT_OUT).log() + 2 * SAFETY * error
    return (sums.top_logits >= (sums.top_logits[:, 0] - cut)[:, None]).sum(1)


def predicted_error(
    members: Members, asked: Queries, sums: Sums, mean: Tensor, rounding: float
) -> Tensor:
    """The velocity error, relative to its norm, that products so rounded may have left; [b]."""
    size = asked.velocity(mean).norm(dim=1).clamp(min=1e-30)
    error = typical_error(members, asked, mean, rounding)
    top = (sums.top_logits[:, 0] - sums.peak).exp() / sums.mass
    around = spread(members, sums, mean, rounding)
    working = (mean - members.offset).norm(dim=1)
    averaged = (around + working.square()).sqrt()
    from_logits = torch.expm1(error.clamp(max=50)) * (top * around).sqrt()
    from_mean = rounding * (working + AVERAGING * (1 - top).clamp(min=0) * averaged)
    return asked.amplification * (from_logits + from_mean) / size


def spread(members: Members, sums: Sums, mean: Tensor, rounding: float) -> Tensor:
    """The posterior's tr Cov, rounding included; [b]."""
    norms = sums.norms / sums.mass
    centred = (mean - members.centre).square().sum(1)
    return (norms - centred).clamp(min=0) + rounding * norms


def crowded(members: Members, sums: Sums, spread: Tensor) -> Tensor:
    """Whether two of the first leaders are much closer than the posterior is wide; [b]."""
    leaders = members.originals(sums.top[:, :LOOKED_AT])
    apart = torch.cdist(leaders, leaders).square()
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return apart.amin((1, 2)) < 0.01 * spread


def typical_error(members: Members, asked: Queries, mean: Tensor, rounding: float) -> Tensor:
    """The typical error e of a logit from products so rounded, [b]."""
    apart = 0.25 * asked.centred.norm(dim=1) * members.largest
    along = 2 * (asked.centred * (mean - members.offset)).sum(1).abs()
    longer = max(1.0, members.dims / LONG) ** 0.5
    return asked.gain * rounding * longer * (apart + along)


def _rescore_leaders(
    members: Members, asked: Queries, sums: Sums, kept: int
) -> tuple[Sums, Tensor]:
    size = max(1, AT_ONCE // (kept * members.dims))
    pieces = [
        _rescored(members, asked.of(places), _of(sums, places), kept)
        for places in torch.arange(len(asked.x), device=asked.x.device).split(size)
    ]
    names, (parts, means) = sums.__dataclass_fields__, zip(*pieces, strict=True)
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Sums(**joined), torch.cat(means)


def _rescored(members: Members, asked: Queries, sums: Sums, kept: int) -> tuple[Sums, Tensor]:
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
    members: Members, asked: Queries, points: Tensor, top: Tensor, best: Tensor
) -> Tensor:
    places = torch.arange(len(best), device=best.device)
    leader, position = points[places, best] - members.centre, top[places, best]
    half = asked.gain * asked.alpha / 2
    along = asked.gain * (asked.centred * leader).sum(1)
    return along - half * members.norms[position] + members.log_weights[position]


def _led(kept: Tensor, leaders: Tensor) -> Tensor:
    return torch.cat([leaders, kept[:, leaders.shape[1] :]], 1)


def _rescan(members: Members, asked: Queries, sums: Sums, _: int) -> tuple[Sums, Tensor]:
    original = members if members.exact else members.unshifted()
    again = scan(original, asked, dtype=torch.float64, keep=sums.top.shape[1])
    mean = again.points / again.mass[:, None]
    rounding = torch.finfo(torch.float64).eps
    doubtful = predicted_error(original, asked, again, mean, rounding) > TRIGGER
    for places in doubtful.nonzero()[:, :1]:
        new, mean[places] = _scan_about(original, asked.of(places), _of(again, places))
        again = _put(again, places, new)
    return again, mean


def _scan_about(members: Members, asked: Queries, sums: Sums) -> tuple[Sums, Tensor]:
    """One query again, with all points, and so the logits, seen from its leader."""
    near = members.about(int(sums.top[0, 0]))
    seen = replace(asked, centred=asked.x - asked.alpha[:, None] * near.centre)
    new = scan(near, seen, dtype=torch.float64, keep=sums.top.shape[1])
    mean = new.points / new.mass[:, None] + near.offset
    return (
        replace(new, points=mean * new.mass[:, None], norms=sums.norms / sums.mass * new.mass),
        mean,
    )


def _of(sums: Sums, places: Tensor) -> Sums:
    return Sums(*(getattr(sums, name)[places] for name in sums.__dataclass_fields__))


def _put(sums: Sums, places: Tensor, new: Sums) -> Sums:
    fields = {}
    for name in sums.__dataclass_fields__:
        value = getattr(sums, name).clone()
        value[places] = getattr(new, name)
        fields[name] = value
    return Sums(**fields)
