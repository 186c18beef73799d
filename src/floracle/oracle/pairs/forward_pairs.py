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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.paths import ProbabilityPath
from floracle.core.point_set import NO_LABEL
from floracle.oracle.class_points import NARROW, ClassPoints
from floracle.oracle.distributed import together

from .pair_posteriors import FOLLOWED, PairPosteriors, ProductRows, pair_posteriors

BLOCK = 2**22
"""Products of pairs and atoms that are held at a time."""
COURSES = 7
"""Sums over atoms in memory at once: those so far, of a block in its making, of both, by class."""
BYTES_OF_PRODUCT = 72
"""Bytes that a pair and an atom of a block take: products, what follows from them, weights."""
FEWEST, MOST = 256, 4096
"""Atoms of a block at least and at most; float32 sums are taken within one."""
STREAMED = 2**21
"""Values of points that are multiplied at a time as they come: they should stay in cache."""
PIECES = 2**20
"""Values that are made ready at a time: float64 copies of more need not lie in memory."""
CLOSE = 0.005
"""Atoms whose d_j is under this share of their squared norm are measured again in float64: from
there on float32 would leave more than a thousandth of a nat in a logit that matters."""


@dataclass(frozen=True)
class PairCurves:
    """Curves of p pairs at T times; float64 [p, T] unless stated."""

    times: Tensor
    """[T]."""
    amplification: Tensor
    """A = α' − α σ'/σ, [T]: the gap E‖u* − (data − noise)‖² is A² times the variance."""
    variance: Tensor
    """Σ γ_j d_j: an unbiased estimate of tr Cov(data | x_t), never negative."""
    control_variate: Tensor
    """Σ γ_j ½ (‖x_j‖² − ‖x_o‖²) about the class mean: zero on average, so a control variate."""
    max_weight: Tensor
    """The largest weight."""
    self_weight: Tensor
    """The weight of the pair's own atom."""
    entropy: Tensor
    """−Σ γ log γ in nats."""
    participation: Tensor
    """Σ γ²."""
    rivals: Tensor
    """The nearest other atom of each pair: its row number, int64 [p]; −1 where there is none."""
    class_entropy: Tensor | None = None
    """The entropy in nats of which class it is; for the whole set of labelled data."""
    within_variance: Tensor | None = None
    """Where atoms are Gaussians: the part of tr Cov(data | x_t) that lies inside them, which tells
    nothing about which atom it is; `variance` is the rest."""

    def joined(self, other: PairCurves) -> PairCurves:
        """The curves of both sets of pairs."""
        shared = {"times", "amplification"}
        names = [name for name in self.__dataclass_fields__ if name not in shared]
        names = [name for name in names if getattr(self, name) is not None]
        both = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in names}
        return PairCurves(times=self.times, amplification=self.amplification, **both)


def pair_bytes(members: ClassPoints, times: int) -> int:
    """Bytes that a pair takes while it is followed through so many times."""
    kinds, _ = _classes(members)
    return bytes_of_pair(members.dims, times, kinds)


def bytes_of_pair(dims: int, times: int, kinds: int) -> int:
    """The same, where `kinds` classes are told apart."""
    wide = 8 if dims < NARROW else 4
    points = (2 * 4 + 2 * wide) * dims  # own point and noise, and both as factors of products
    sums = COURSES * 2 * 8 * times * (len(FOLLOWED) + kinds)  # of two signs, float64
    return points + sums + FEWEST * BYTES_OF_PRODUCT


def pair_curves(
    members: ClassPoints,
    path: ProbabilityPath,
    rows: Tensor,
    noise: Tensor,
    times: Tensor,
    *,
    mirrored: bool,
    size: int,
) -> PairCurves:
    """The curves of pairs (rows [p], noise [p, *shape]) at times [T], `size` of them at a time.

    Mirrored pairs are averages of a pair and the same data with the opposite noise. Where several
    processes share the class, all of them take part.
    """
    kinds, classes = _classes(members)
    parts = []
    for start in range(0, len(rows), size):
        these = slice(start, start + size)
        pairs = replace(
            PairPoints.of(members, rows[these], noise[these]), kinds=kinds, classes=classes
        )
        parts.append(
            curves_from_products(pairs, inner_products(pairs), path, times, mirrored=mirrored)
        )
    return reduce(PairCurves.joined, parts)


def curves_from_products(
    pairs: PairPoints,
    blocks: Iterable[InnerProducts],
    path: ProbabilityPath,
    times: Tensor,
    *,
    mirrored: bool,
) -> PairCurves:
    """The curves of pairs at times [T] from their products with all atoms of the class."""
    members, c = pairs.members, path.coefficients(times)
    ratio, order = c.signal_to_noise.sort()
    kinds, signs = pairs.kinds, 1 + mirrored
    seen = (_block(pairs, *block) for block in blocks)
    courses = (pair_posteriors(*block, ratio, mirrored=mirrored, classes=kinds) for block in seen)
    nothing = (len(pairs.own) * signs, len(times), kinds, pairs.own.device)
    first = next(courses, None) or PairPosteriors.empty(*nothing)
    found = together(members, reduce(PairPosteriors.merge, courses, first))
    curves = _curves(found).unflatten(1, (signs, -1)).mean(1)[:, :, order.argsort()].cpu()
    rival = found.rival[: len(pairs.own)].cpu()
    return PairCurves(
        times.double(),
        c.amplification,
        *curves[:6],
        rivals=torch.where(rival < 0, rival, members.rows.cpu()[rival.clamp(min=0)]),
        class_entropy=curves[6] if kinds else None,
    )


class InnerProducts(NamedTuple):
    """Inner products of known pairs with a block of atoms of their class."""

    start: int
    """The position of the first of the atoms."""
    values: Tensor
    """Of own points and noise with the working points, [2p, n]."""


def inner_products(pairs: PairPoints) -> Iterator[InnerProducts]:
    """All that is to be read of a class, a block of atoms at a time.

    Streamed points are multiplied a few at a time, while they are still in cache.
    """
    members, size = pairs.members, min(max(BLOCK // len(pairs.own), FEWEST), MOST)
    step = size if members.points is not None else max(1, min(size, STREAMED // members.dims))
    parts: list[Tensor] = []
    start, done = 0, 0
    for block in members.blocks(step, wide=members.precision == torch.float64):
        if done + len(block.points) > size:
            yield InnerProducts(start, torch.cat(parts, 1))
            parts, done = [], 0
        start = start if parts else block.start
        parts.append(pairs.both @ block.points.T.to(pairs.both))
        done += len(block.points)
    if parts:
        yield InnerProducts(start, torch.cat(parts, 1))


def _curves(found: PairPosteriors) -> Tensor:
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


def _classes(members: ClassPoints) -> tuple[int, Tensor | None]:
    """How many classes there are, and that of every atom, counted from 0, int64 [n].

    None but for the whole set of labelled data. A point that several classes share counts as of
    the class of its first copy.
    """
    if members.label != NO_LABEL:
        return 0, None
    known, index = members.source.labels[members.rows.cpu()].unique(return_inverse=True)
    return (len(known), index.to(members.rows.device)) if len(known) > 1 else (0, None)


def positions(members: ClassPoints, rows: Tensor) -> Tensor:
    """Where rows stand among the atoms of a class; a merged duplicate stands at its first copy."""
    rows = rows.to(members.rows.device)
    found = torch.searchsorted(members.rows, rows).clamp(max=len(members) - 1)
    if not (members.rows[found] == rows).all():
        stray = rows[members.rows[found] != rows][0].item()
        raise ValueError(f"row {stray} is not an atom of class {members.label}; draw from atoms()")
    return found


@dataclass(frozen=True)
class PairPoints:
    """Pairs whose own atom and noise are known, ready for a class."""

    members: ClassPoints
    own: Tensor
    """Where the own atom stands, int64 [p]."""
    original: Tensor
    """The own point, float32 as points are, [p, D]."""
    noise: Tensor
    """As it was given, [p, D]."""
    both: Tensor
    """The centred own points, then the noise, in the type of products: [2p, D]."""
    shift: Tensor
    """What products with working points lack of those with centred ones, [2p]."""
    begin: Tensor
    """⟨ε, x_o − centre⟩, float64 [p]."""
    kinds: int = 0
    """How many classes are told apart; 0 where they are not."""
    classes: Tensor | None = None
    """The class of every atom of the set, int64 [n], counted from 0."""

    @classmethod
    def of(cls, members: ClassPoints, rows: Tensor, noise: Tensor) -> PairPoints:
        """Pairs of rows [p] and noise [p, *shape]; classes are not told apart."""
        own = positions(members, rows)
        noise = noise.flatten(1).to(members.centre.device)
        count, dims = noise.shape
        both = torch.empty(2 * count, dims, dtype=members.precision, device=noise.device)
        original, begin = torch.empty_like(both[:count], dtype=torch.float32), []
        step = max(1, PIECES // dims)
        for start in range(0, count, step):
            stop = min(start + step, count)
            some, of_noise = slice(start, stop), slice(count + start, count + stop)
            points, fresh = members.originals(own[some]), noise[some].double()
            centred = points - members.centre
            original[some], both[some], both[of_noise] = points, centred, fresh
            begin.append(torch.linalg.vecdot(fresh, centred))
        shift = both @ (members.offset - members.centre).to(both)
        return cls(members, own, original, noise, both, shift, torch.cat(begin))


class _Block(NamedTuple):
    """What the logits of known pairs over a block of atoms are made of."""

    rows: ProductRows
    nearest: Tensor
    """The smallest d_j of an atom that is not the own one, [p]; infinite where there is none."""
    rival: Tensor
    """Where that atom stands, int64 [p]; −1 where there is none."""


def _block(pairs: PairPoints, start: int, products: Tensor) -> _Block:
    """From the products [2p, n] of own points and noise with the working points of atoms."""
    members, these = pairs.members, slice(start, start + products.shape[1])
    along, pull = products.double().add_(pairs.shift[:, None]).chunk(2)
    norms, of_own = members.norms[these] / 2, members.norms[pairs.own][:, None] / 2
    half = (norms - along).add_(of_own).clamp_(min=0)
    pull -= pairs.begin[:, None]
    inside = ((pairs.own >= start) & (pairs.own < these.stop)).nonzero()[:, 0]
    own = (inside, pairs.own[inside] - start)
    half[own], pull[own] = 0.0, 0.0
    _measure_close(pairs, these, own, half, pull)
    terms, weights = [pull, half], members.log_weights
    if not (weights == weights[0]).all():
        terms.append(weights[these] - weights[pairs.own][:, None])
    terms.append(norms - of_own)
    rows = ProductRows(
        torch.stack([term.to(members.precision) for term in terms]),
        None if pairs.classes is None else pairs.classes[these],
    )
    half[own] = torch.inf
    near, rival = half.min(1)
    return _Block(rows, near, torch.where(near < torch.inf, rival + start, -1))


def _measure_close(
    pairs: PairPoints, these: slice, own: tuple[Tensor, Tensor], half: Tensor, pull: Tensor
) -> None:
    """Write exact values into `half` and `pull` where atoms are too close for float32.

    The pairs' own atoms need none: theirs are 0.
    """
    members = pairs.members
    close = half < CLOSE * members.norms[these]
    close |= half < CLOSE * members.norms[pairs.own][:, None]
    close[own] = False
    found = close.nonzero()
    for some in found.split(max(1, 2**22 // members.dims)) if len(found) else ():
        pair, atom = some.unbind(1)
        apart = members.originals(atom + these.start) - pairs.original[pair].double()
        half[pair, atom] = apart.square().sum(1) / 2
        pull[pair, atom] = (apart * pairs.noise[pair].double()).sum(1)
