"""All times of a forward-path pair from two rows of inner products.

For a pair (data x_o, noise ε) and r = α/σ, the logits against the pair's own atom are

    l_j − l_o = log w_j / w_o + r ⟨ε, x_j − x_o⟩ − r² d_j,        d_j = ½ ‖x_j − x_o‖²,

so ⟨ε, x_j⟩ and ⟨x_o, x_j⟩ give the posterior at every t, and −ε costs nothing more. So does

    tr Cov(data | x_t) = E Σ_j γ_j d_j,

because the own atom is itself a draw from the posterior: half the squared distance of two draws.
Neighbours so close that float32 products cannot tell them apart are measured again in float64.
Atoms are read block by block, once for all pairs; what each block adds merges (course.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from floracle.core.paths import Path
from floracle.core.source import NO_LABEL

from .course import FOLLOWED, Course, Rows, course
from .members import Members, Slab
from .sharded import together

BLOCK = 2**22
"""Products of pairs and atoms that are held at a time."""
FEWEST, MOST = 256, 4096
"""Atoms of a block at least and at most; float32 sums are taken within one."""
CLOSE = 0.005
"""Atoms whose d_j is under this share of their squared norm are measured again in float64: from
there on float32 would leave more than a thousandth of a nat in a logit that matters."""


@dataclass(frozen=True)
class Pairs:
    """Curves of p pairs at T times; float64 [p, T] unless stated."""

    times: Tensor
    """[T]."""
    amplification: Tensor
    """A = α' − α σ'/σ, [T]: the gap E‖u* − (data − noise)‖² is A² times the variance."""
    variance: Tensor
    """Σ γ_j d_j: an unbiased estimate of tr Cov(data | x_t), never negative."""
    lean: Tensor
    """Σ γ_j ½ (‖x_j‖² − ‖x_o‖²) about the class mean: zero on average, so a control variate."""
    top: Tensor
    """The largest weight."""
    own: Tensor
    """The weight of the pair's own atom."""
    entropy: Tensor
    """−Σ γ log γ in nats."""
    concentration: Tensor
    """Σ γ²."""
    rivals: Tensor
    """The nearest other atom of each pair: its row number, int64 [p]; −1 where there is none."""
    class_entropy: Tensor | None = None
    """The entropy in nats of which class it is; for the whole set of labelled data."""
    within: Tensor | None = None
    """Where atoms are Gaussians: the part of tr Cov(data | x_t) that lies inside them, which tells
    nothing about which atom it is; `variance` is the rest."""

    def joined(self, other: Pairs) -> Pairs:
        """The curves of both sets of pairs."""
        shared = {"times", "amplification"}
        names = [name for name in self.__dataclass_fields__ if name not in shared]
        names = [name for name in names if getattr(self, name) is not None]
        both = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in names}
        return Pairs(times=self.times, amplification=self.amplification, **both)


def pair_curves(
    members: Members,
    path: Path,
    rows: Tensor,
    noise: Tensor,
    times: Tensor,
    *,
    mirrored: bool,
    budget: int,
) -> Pairs:
    """The curves of pairs (rows [p], noise [p, *shape]) at times [T], within `budget` bytes.

    Mirrored pairs are averages of a pair and the same data with the opposite noise. Where several
    processes share the class, all of them take part.
    """
    c = path.coefficients(times)
    ratio, order = (c.alpha / c.sigma).sort()
    known, of_atoms = _classes(members)
    own = positions(members, rows)
    kept = 8 * len(times) * (len(FOLLOWED) + 2 * known) * 3 + 24 * members.dims
    size = together(members, max(1, min(len(rows), budget // 2 // kept)))
    parts = []
    for start in range(0, len(rows), size):
        these = slice(start, start + size)
        pairs = _Known.of(members, own[these], noise[these].flatten(1), of_atoms)
        nothing = Course.empty(len(pairs.own) * (1 + mirrored), len(times), known, own.device)
        courses = _courses(pairs, ratio, mirrored=mirrored, classes=known)
        parts.append(together(members, reduce(Course.merge, courses, nothing)))
    curves = [_averaged(_curves(part), mirrored)[:, :, order.argsort()] for part in parts]
    rival = torch.cat([part.rival[: len(part.rival) // (1 + mirrored)] for part in parts]).cpu()
    return Pairs(
        times.double(),
        c.d_alpha - c.alpha * c.d_sigma / c.sigma,
        *torch.cat(curves, 1).cpu()[:6],
        rivals=torch.where(rival < 0, rival, members.rows.cpu()[rival.clamp(min=0)]),
        class_entropy=torch.cat(curves, 1)[6].cpu() if known else None,
    )


def _courses(pairs: _Known, ratio: Tensor, *, mirrored: bool, classes: int) -> Iterator[Course]:
    """What every block of atoms adds."""
    size = min(max(BLOCK // len(pairs.own), FEWEST), MOST)
    wide = pairs.members.precision == torch.float64
    for slab in pairs.members.slabs(size, wide=wide):
        rows, rival = _rows_of(pairs, slab)
        yield course(rows, ratio, mirrored=mirrored, classes=classes, rival=rival)


def _curves(found: Course) -> Tensor:
    """Variance, lean, top, own, entropy, concentration, entropy of the class: [7, p, T]."""
    mass = found.mass
    own = (-found.peak).exp() / mass
    entropy = (mass.log() - found.logits / mass).clamp(min=0)
    curves = [found.half / mass, found.lean / mass, 1 / mass, own, entropy]
    curves.append(found.squares / mass.square())
    if found.classes is not None:
        shares = found.classes / found.classes.sum(2, keepdim=True)
        curves.append(torch.special.entr(shares).sum(2))
    return torch.stack(curves)


def _averaged(curves: Tensor, mirrored: bool) -> Tensor:
    return curves.unflatten(1, (1 + mirrored, -1)).mean(1)


def _classes(members: Members) -> tuple[int, Tensor | None]:
    """How many classes there are, and that of every atom, counted from 0, int64 [n].

    None but for the whole set of labelled data. A point that several classes share counts as of
    the class of its first copy.
    """
    if members.label != NO_LABEL:
        return 0, None
    known, index = members.source.labels[members.rows.cpu()].unique(return_inverse=True)
    return (len(known), index.to(members.rows.device)) if len(known) > 1 else (0, None)


def positions(members: Members, rows: Tensor) -> Tensor:
    """Where rows stand among the atoms of a class; a merged duplicate stands at its first copy."""
    rows = rows.to(members.rows.device)
    found = torch.searchsorted(members.rows, rows).clamp(max=len(members) - 1)
    if not (members.rows[found] == rows).all():
        stray = rows[members.rows[found] != rows][0].item()
        raise ValueError(f"row {stray} is not an atom of class {members.label}; draw from atoms()")
    return found


@dataclass(frozen=True)
class _Known:
    """Pairs whose own atom and noise are known, ready for a class."""

    members: Members
    own: Tensor
    """Where the own atom stands, int64 [p]."""
    original: Tensor
    """The own point, float64 [p, D]."""
    noise: Tensor
    """float64 [p, D]."""
    both: Tensor
    """The centred own points, then the noise, in the type of products: [2p, D]."""
    shift: Tensor
    """What products with working points lack of those with centred ones, [2p]."""
    begin: Tensor
    """⟨ε, x_o − centre⟩, float64 [p]."""
    classes: Tensor | None
    """The class of every atom of the set, int64 [n]."""

    @classmethod
    def of(cls, members: Members, own: Tensor, noise: Tensor, classes: Tensor | None) -> _Known:
        noise = noise.to(members.centre.device, torch.float64)
        original = members.originals(own)
        centred = original - members.centre
        both = torch.cat([centred, noise]).to(members.precision)
        shift = both @ (members.offset - members.centre).to(both)
        begin = (noise * centred).sum(1)
        return cls(members, own, original, noise, both, shift, begin, classes)


def _rows_of(pairs: _Known, slab: Slab) -> tuple[Rows, tuple[Tensor, Tensor]]:
    """What the logits over a block are made of; the nearest other atom, and how near."""
    members, these = pairs.members, slice(slab.start, slab.start + len(slab.points))
    products = torch.addmm(pairs.shift[:, None], pairs.both, slab.points.T.to(pairs.both))
    along, pull = products.chunk(2)
    norms, of_own = members.norms[these] / 2, members.norms[pairs.own] / 2
    half = (norms[None] + of_own[:, None] - along.double()).clamp_(min=0)
    pull = pull.double() - pairs.begin[:, None]
    _measure_close(pairs, these, half, pull)
    weights, local = members.log_weights, pairs.own - slab.start
    inside = (local >= 0) & (local < len(slab.points))
    equal = bool((weights == weights[0]).all())
    kind = members.precision
    rows = Rows(
        pull.to(kind),
        half.to(kind),
        (norms[None] - of_own[:, None]).to(kind),
        None if equal else (weights[None, these] - weights[pairs.own][:, None]).to(kind),
        None if pairs.classes is None else pairs.classes[these],
    )
    return rows, _nearest_other(half, torch.where(inside, local, -1), slab.start)


def _measure_close(pairs: _Known, these: slice, half: Tensor, pull: Tensor) -> None:
    """Write exact values into `half` and `pull` where atoms are too close for float32."""
    members = pairs.members
    widest = torch.maximum(members.norms[None, these], members.norms[pairs.own][:, None])
    for some in (half < CLOSE * widest).nonzero().split(max(1, 2**22 // members.dims)):
        pair, atom = some.unbind(1)
        apart = members.originals(atom + these.start) - pairs.original[pair]
        half[pair, atom] = apart.square().sum(1) / 2
        pull[pair, atom] = (apart * pairs.noise[pair]).sum(1)


def _nearest_other(half: Tensor, own: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The smallest d_j [p] of an atom that is not the own one, and where it stands in its class.

    Infinite and −1 where there is none; `own` is −1 where the own atom is elsewhere.
    """
    two = half.topk(min(2, half.shape[1]), dim=1, largest=False)
    last = two.indices.shape[1] - 1
    place = torch.where(two.indices[:, 0] == own, last, 0)[:, None]
    index = two.indices.gather(1, place)[:, 0]
    alone = index == own
    near = torch.where(alone, torch.inf, two.values.gather(1, place)[:, 0])
    return near, torch.where(alone, -1, index + start)
