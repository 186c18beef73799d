"""All times of a forward-path pair from two rows of inner products.

For a pair (data x_o, noise ε) and r = α/σ, the logits against the pair's own point are

    l_j − l_o = log w_j / w_o + r ⟨ε, x_j − x_o⟩ − r² d_j,        d_j = ½ ‖x_j − x_o‖²,

so ⟨ε, x_j⟩ and ⟨x_o, x_j⟩ give the posterior at every t, and −ε costs nothing more. So does

    tr Cov(data | x_t) = E Σ_j γ_j d_j,

because the own point is itself a draw from the posterior: half the squared distance of two draws.
Neighbours so close that float32 products cannot tell them apart are measured again in float64.
Points are read block by block, once for all pairs, and what each block adds merges.
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
from floracle.oracle.class_points import FLOAT64_DIMS, ClassPoints
from floracle.run.exchange import merge_over_group

from .pair_posteriors import SUMS, PairPosteriors, ProductRows, pair_posteriors

PRODUCTS_AT_ONCE = 2**22
"""Products of pairs and points in memory at once."""
SUMS_IN_MEMORY = 7
"""Sums over points in memory at once: those so far, of a block in its making, of both, by
class."""
PRODUCT_BYTES = 72
"""Bytes that a pair and a point of a block take: products, what follows from them, weights."""
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 256, 4096
"""Points of a block; float32 sums are taken within one."""
STREAMED_COORDINATES = 2**21
"""Coordinates of streamed points that are multiplied together: they should stay in cache."""
PREPARED_COORDINATES = 2**20
"""Coordinates of pairs that are made ready together: float64 copies of more need not be held."""
REMEASURED_COORDINATES = 2**22
"""Coordinates of close neighbours in memory at once."""
CLOSE_SHARE = 0.005
"""Points whose d_j is under this share of their squared norm are measured again in float64: from
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
    """The largest posterior weight."""
    self_weight: Tensor
    """The posterior weight of the pair's own point."""
    entropy: Tensor
    """−Σ γ log γ in nats."""
    participation: Tensor
    """Σ γ²."""
    rivals: Tensor
    """The nearest other point of each pair: its row number, int64 [p]; −1 where there is none."""
    class_entropy: Tensor | None = None
    """The entropy of the class in nats; for the whole set of labelled data."""
    within_variance: Tensor | None = None
    """Where training points are Gaussians: the part of tr Cov(data | x_t) inside them, which tells
    nothing about which point it is; `variance` is the rest."""

    def joined(self, other: PairCurves) -> PairCurves:
        """The curves of both sets of pairs."""
        both = {
            name: torch.cat([values, getattr(other, name)])
            for name, values in vars(self).items()
            if values is not None and name not in ("times", "amplification")
        }
        return PairCurves(times=self.times, amplification=self.amplification, **both)


def pair_bytes(members: ClassPoints, times: int) -> int:
    """Bytes that a pair takes at so many times."""
    kinds, _ = _classes(members)
    return bytes_of_pair(members.dims, times, kinds)


def bytes_of_pair(dims: int, times: int, kinds: int) -> int:
    """The same, where `kinds` classes are told apart."""
    product_bytes = 8 if dims < FLOAT64_DIMS else 4
    points = (2 * 4 + 2 * product_bytes) * dims  # own point and noise, and both as factors
    sums = SUMS_IN_MEMORY * 2 * 8 * times * (1 + len(SUMS) + kinds)  # of two signs, float64
    return points + sums + MIN_BLOCK_ROWS * PRODUCT_BYTES


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
    for some_rows, some_noise in zip(rows.split(size), noise.split(size), strict=True):
        pairs = replace(
            PairPoints.of(members, some_rows, some_noise), kinds=kinds, classes=classes
        )
        products = inner_products(pairs)
        parts.append(curves_from_products(pairs, products, path, times, mirrored=mirrored))
    return reduce(PairCurves.joined, parts)


def curves_from_products(
    pairs: PairPoints,
    blocks: Iterable[InnerProducts],
    path: ProbabilityPath,
    times: Tensor,
    *,
    mirrored: bool,
) -> PairCurves:
    """The curves of pairs at times [T] from their products with all points of the class."""
    members, c = pairs.members, path.coefficients(times)
    ratio, order = c.signal_to_noise.sort()  # weights are followed from the noise on
    signs, count = 1 + mirrored, len(pairs.own)
    total = None
    for block in blocks:
        rows, nearest, rival = _product_rows(pairs, *block)
        sums = pair_posteriors(rows, nearest, rival, ratio, mirrored=mirrored, classes=pairs.kinds)
        total = sums if total is None else total.merge(sums)
    if total is None:  # a process's share may be empty
        total = PairPosteriors.empty(count * signs, len(times), pairs.kinds, pairs.own.device)
    total = merge_over_group(members.group, total)
    given_order = order.argsort()
    curves = {
        name: values.unflatten(0, (signs, -1)).mean(0)[:, given_order].cpu()
        for name, values in _curves(total).items()
    }
    rival = total.rival[:count].cpu()
    return PairCurves(
        times.double(),
        c.amplification,
        **curves,
        rivals=torch.where(rival < 0, rival, members.rows.cpu()[rival.clamp(min=0)]),
    )


def _curves(sums: PairPosteriors) -> dict[str, Tensor]:
    """The curves of pairs by their names in `PairCurves`, [p, T] each."""
    mass = sums.mass
    curves = {
        "variance": sums.variance / mass,
        "control_variate": sums.control / mass,
        "max_weight": 1 / mass,
        "self_weight": (-sums.max_logit).exp() / mass,  # its own logit is 0
        "entropy": (mass.log() - sums.logits / mass).clamp(min=0),
        "participation": sums.squares / mass.square(),
    }
    if sums.classes is not None:
        shares = sums.classes / sums.classes.sum(2, keepdim=True)  # p(c | x_t) [p, T, C]
        curves["class_entropy"] = torch.special.entr(shares).sum(2)
    return curves


class InnerProducts(NamedTuple):
    """Inner products of pairs with a block of points of their class."""

    start: int
    """The position of the first of the points."""
    values: Tensor
    """Of own points, then noise, with the working points, [2p, n]."""


def inner_products(pairs: PairPoints) -> Iterator[InnerProducts]:
    """The products with all points of a class, block by block: all that is read of it.

    Streamed points are multiplied a few at a time, while they are still in cache.
    """
    members = pairs.members
    size = min(max(PRODUCTS_AT_ONCE // len(pairs.own), MIN_BLOCK_ROWS), MAX_BLOCK_ROWS)
    step = size
    if members.points is None:
        step = max(1, min(size, STREAMED_COORDINATES // members.dims))
    parts: list[Tensor] = []
    start, count = 0, 0
    for block in members.blocks(step, wide=members.precision == torch.float64):
        if count + len(block.points) > size:
            yield InnerProducts(start, torch.cat(parts, 1))
            parts, count = [], 0
        start = start if parts else block.start
        parts.append(pairs.factors @ block.points.T.to(pairs.factors))
        count += len(block.points)
    if parts:
        yield InnerProducts(start, torch.cat(parts, 1))


def _classes(members: ClassPoints) -> tuple[int, Tensor | None]:
    """How many classes there are, and that of every point, counted from 0, int64 [n].

    None but for the whole set of labelled data. A point that several classes share counts as of
    the class of its first copy.
    """
    if members.label != NO_LABEL:
        return 0, None
    labels, index = members.source.labels[members.rows.cpu()].unique(return_inverse=True)
    return (len(labels), index.to(members.rows.device)) if len(labels) > 1 else (0, None)


def positions_of_rows(class_rows: Tensor, rows: Tensor, label: int) -> Tensor:
    """The positions of rows [p] in a class of increasing rows [n].

    A merged duplicate is no row of its class; its first copy is.
    """
    positions = torch.searchsorted(class_rows, rows).clamp(max=len(class_rows) - 1)
    stray = class_rows[positions] != rows
    if stray.any():
        row = rows[stray][0].item()
        raise ValueError(f"row {row} is not an atom of class {label}; draw from atoms()")
    return positions


@dataclass(frozen=True)
class PairPoints:
    """The data and noise of p pairs, ready for the products with a class."""

    members: ClassPoints
    own: Tensor
    """The position of the own point, int64 [p]."""
    original: Tensor
    """The own point x_o, float32 as points are, [p, D]."""
    noise: Tensor
    """ε as it was given, [p, D]."""
    factors: Tensor
    """The centred own points, then the noise, in the type of products: [2p, D]."""
    shift: Tensor
    """Products with working points less those with centred ones, [2p]."""
    own_products: Tensor
    """⟨ε, x_o − m⟩, float64 [p]."""
    kinds: int = 0
    """How many classes are told apart; 0 where they are not."""
    classes: Tensor | None = None
    """The class of every point of the set, int64 [n], counted from 0."""

    @classmethod
    def of(cls, members: ClassPoints, rows: Tensor, noise: Tensor) -> PairPoints:
        """Pairs of rows [p] and noise [p, *shape]; classes are not told apart."""
        own = positions_of_rows(members.rows, rows.to(members.rows.device), members.label)
        noise = noise.flatten(1).to(members.centre.device)
        count, dims = noise.shape
        factors = torch.empty(2 * count, dims, dtype=members.precision, device=noise.device)
        original = torch.empty_like(factors[:count], dtype=torch.float32)
        own_products = []
        step = max(1, PREPARED_COORDINATES // dims)
        for start in range(0, count, step):
            stop = min(start + step, count)
            some, of_noise = slice(start, stop), slice(count + start, count + stop)
            points, wide_noise = members.originals(own[some]), noise[some].double()
            centred = points - members.centre
            original[some], factors[some], factors[of_noise] = points, centred, wide_noise
            own_products.append(torch.linalg.vecdot(wide_noise, centred))
        shift = factors @ (members.offset - members.centre).to(factors)
        return cls(members, own, original, noise, factors, shift, torch.cat(own_products))


def _product_rows(
    pairs: PairPoints, start: int, products: Tensor
) -> tuple[ProductRows, Tensor, Tensor]:
    """What logits of pairs over a block of points are made of, from the products [2p, n].

    And the smallest d_j of a point that is not the own one, [p], infinite where there is none, and
    the position of that point, int64 [p], −1 where there is none.
    """
    members, block = pairs.members, slice(start, start + products.shape[1])
    # ⟨x_o − m, x_j − m⟩ and ⟨ε, x_j − m⟩, [p, n] each
    along, noise_products = products.double().add_(pairs.shift[:, None]).chunk(2)
    half_norms, own_half = members.norms[block] / 2, members.norms[pairs.own][:, None] / 2
    # d_j = ½‖x_j − m‖² − ⟨x_o − m, x_j − m⟩ + ½‖x_o − m‖²
    half_distances = (half_norms - along).add_(own_half).clamp_(min=0)
    noise_products -= pairs.own_products[:, None]  # ⟨ε, x_j − x_o⟩
    inside = ((pairs.own >= start) & (pairs.own < block.stop)).nonzero()[:, 0]
    own = (inside, pairs.own[inside] - start)  # exact, whatever rounding says
    half_distances[own], noise_products[own] = 0.0, 0.0
    _remeasure_close(pairs, block, own, half_distances, noise_products)
    log_weights = members.log_weights
    equal = bool((log_weights == log_weights[0]).all())
    rows = ProductRows.of(
        noise_products,
        half_distances,
        half_norms - own_half,
        log_weights=None if equal else log_weights[block] - log_weights[pairs.own][:, None],
        classes=None if pairs.classes is None else pairs.classes[block],
        dtype=members.precision,
    )
    half_distances[own] = torch.inf
    nearest, rival = half_distances.min(1)
    return rows, nearest, torch.where(nearest < torch.inf, rival + start, -1)


def _remeasure_close(
    pairs: PairPoints,
    block: slice,
    own: tuple[Tensor, Tensor],
    half_distances: Tensor,
    noise_products: Tensor,
) -> None:
    """Write float64 values in place where points are too close for float32 products.

    The pairs' own points need none: theirs are 0.
    """
    members = pairs.members
    close = half_distances < CLOSE_SHARE * members.norms[block]
    close |= half_distances < CLOSE_SHARE * members.norms[pairs.own][:, None]
    close[own] = False
    indices = close.nonzero()
    if not len(indices):
        return
    for some in indices.split(max(1, REMEASURED_COORDINATES // members.dims)):
        pair, point = some.unbind(1)
        difference = members.originals(point + block.start) - pairs.original[pair].double()
        half_distances[pair, point] = difference.square().sum(1) / 2
        noise_products[pair, point] = (difference * pairs.noise[pair].double()).sum(1)
