"""All times of a forward-path pair from two rows of inner products.

For a pair (data x_o, noise ε) and r = α/σ, the logits against the pair's own atom are

    l_j − l_o = log w_j / w_o + r ⟨ε, x_j − x_o⟩ − r² d_j,        d_j = ½ ‖x_j − x_o‖²,

so ⟨ε, x_j⟩ and ⟨x_o, x_j⟩ give the posterior at every t, and −ε costs nothing more. So does

    tr Cov(data | x_t) = E Σ_j γ_j d_j,

because the own atom is itself a draw from the posterior: half the squared distance of two draws.
Neighbours so close that float32 products cannot tell them apart are measured again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from floracle.core.paths import Path
from floracle.core.source import NO_LABEL

from .members import Members
from .posterior import weights_of

TOGETHER = 2**29
"""Bytes of pairs followed at a time; more would only wait for memory."""
DENSE_CLASSES = 64
"""Up to so many classes their weights are summed by a dense product."""
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

    Mirrored pairs are averages of a pair and the same data with the opposite noise.
    """
    own = positions(members, rows)
    c = path.coefficients(times)
    ratio = c.alpha / c.sigma
    amplification = c.d_alpha - c.alpha * c.d_sigma / c.sigma
    each = 64 * len(members) + 40 * members.dims
    shares = class_shares(members)
    size = max(1, min(len(rows), min(budget // 2, TOGETHER) // each))
    parts = []
    for start in range(0, len(rows), size):
        these = slice(start, start + size)
        products = _products(members, own[these], noise[these].flatten(1))
        curves = _curves(products, ratio, shares)
        if mirrored:
            opposite = replace(products, pull=-products.pull)
            curves = (curves + _curves(opposite, ratio, shares)) / 2
        parts.append((curves, products.rival.cpu()))
    curves, rival = (torch.cat(column, -1) for column in zip(*parts, strict=True))
    variance, lean, top, weight, entropy, concentration, *rest = curves.transpose(1, 2)
    return Pairs(
        times=times.double(),
        amplification=amplification,
        variance=variance,
        lean=lean,
        top=top,
        own=weight,
        entropy=entropy,
        concentration=concentration,
        rivals=torch.where(rival < 0, rival, members.rows.cpu()[rival.clamp(min=0)]),
        class_entropy=rest[0] if rest else None,
    )


def class_shares(members: Members) -> Tensor | None:
    """1 where an atom belongs to a class, float32 [n, C], sparse where classes are many.

    None but for the whole set of labelled data. A point that several classes share counts as of
    the class of its first copy.
    """
    if members.label != NO_LABEL:
        return None
    labels = members.source.labels[members.rows.cpu()]
    known, index = labels.unique(return_inverse=True)
    if len(known) < 2:
        return None
    places = torch.stack([torch.arange(len(index)), index])
    shares = torch.sparse_coo_tensor(
        places, torch.ones(len(index)), (len(index), len(known)), check_invariants=False
    ).to(members.rows.device)
    return shares.to_dense() if len(known) <= DENSE_CLASSES else shares.t().coalesce()


def positions(members: Members, rows: Tensor) -> Tensor:
    """Where rows stand among the atoms of a class; a merged duplicate stands at its first copy."""
    rows = rows.to(members.rows.device)
    found = torch.searchsorted(members.rows, rows).clamp(max=len(members) - 1)
    if not (members.rows[found] == rows).all():
        stray = rows[members.rows[found] != rows][0].item()
        raise ValueError(f"row {stray} is not an atom of class {members.label}; draw from atoms()")
    return found


@dataclass(frozen=True)
class _Products:
    """What the posterior of p pairs is made of; float32 [p, n] unless stated."""

    pull: Tensor
    """⟨ε, x_j − x_o⟩."""
    half: Tensor
    """d_j = ½ ‖x_j − x_o‖²."""
    log_weights: Tensor
    """log w_j / w_o; [p, n], or [1, 1] zero where all weigh the same."""
    lean: Tensor
    """½ (‖x_j‖² − ‖x_o‖²) about the class mean; 0 for the own atom."""
    own: Tensor
    """Where the own atom stands, int64 [p]."""
    rival: Tensor
    """Where the nearest other atom stands, int64 [p]."""


def _products(members: Members, own: Tensor, noise: Tensor) -> _Products:
    device = members.centre.device
    noise = noise.to(device, torch.float64)
    original = members.originals(own)
    centred = original - members.centre
    shift = (members.offset - members.centre).float()
    both = torch.cat([centred, noise]).float()
    rows = [both @ slab.points.T for slab in members.slabs(4096)]
    along, pull = (torch.cat(rows, 1) + (both @ shift)[:, None]).chunk(2)
    half_norms = members.norms / 2
    half = (half_norms[None] + half_norms[own][:, None] - along.double()).clamp_(min=0)
    pull = pull.double() - (noise * centred).sum(1)[:, None]
    _measure_close(members, own, original, noise, half, pull)
    weights = members.log_weights
    equal = bool((weights == weights[0]).all())
    return _Products(
        pull.float(),
        half.float(),
        torch.zeros(1, 1) if equal else (weights[None] - weights[own][:, None]).float(),
        (half_norms[None] - half_norms[own][:, None]).float(),
        own,
        _nearest_other(half, own),
    )


def _measure_close(
    members: Members, own: Tensor, original: Tensor, noise: Tensor, half: Tensor, pull: Tensor
) -> None:
    """Write exact values into `half` and `pull` where atoms are too close for float32."""
    norms = members.norms
    close = half < CLOSE * torch.maximum(norms[None], norms[own][:, None])
    places = torch.arange(len(own), device=own.device)
    close[places, own] = False
    for some in close.nonzero().split(max(1, 2**22 // members.dims)):
        pair, atom = some.unbind(1)
        apart = members.originals(atom) - original[pair]
        half[pair, atom] = apart.square().sum(1) / 2
        pull[pair, atom] = (apart * noise[pair]).sum(1)
    half[places, own], pull[places, own] = 0, 0


def _nearest_other(half: Tensor, own: Tensor) -> Tensor:
    """The nearest atom [p] that is not the own one; −1 where there is none."""
    if half.shape[1] == 1:
        return torch.full_like(own, -1)
    two = half.topk(2, dim=1, largest=False).indices
    return torch.where(two[:, 0] == own, two[:, 1], two[:, 0])


def _curves(products: _Products, ratio: Tensor, shares: Tensor | None) -> Tensor:
    """Variance, lean, top, own, entropy, concentration: [6, T, p], in cache-sized pieces.

    With the classes' `shares` of atoms the entropy of the class is the seventh.
    """
    pairs, atoms = products.pull.shape
    size = max(1, 2**17 // atoms)
    pieces = [
        _piece(products, slice(start, min(start + size, pairs)), ratio, shares)
        for start in range(0, pairs, size)
    ]
    return torch.cat(pieces, 2).double().cpu()


def _piece(products: _Products, these: slice, ratio: Tensor, shares: Tensor | None) -> Tensor:
    pull, half, lean = products.pull[these], products.half[these], products.lean[these]
    equal = products.log_weights.shape[1] == 1
    own = torch.arange(len(pull), device=pull.device), products.own[these]
    logits, weights, curves = torch.empty_like(pull), torch.empty_like(pull), []
    for r in ratio.tolist():
        torch.mul(pull, r, out=logits).add_(half, alpha=-r * r)
        if not equal:
            logits.add_(products.log_weights[these])
        own_logit, peak = logits[own], logits.amax(1)
        weights_of(logits.sub_(peak[:, None]), out=weights)
        mass = weights.sum(1)
        sums = [torch.linalg.vecdot(weights, of) / mass for of in (half, lean, logits, weights)]
        variance, leaning, mean_logit, squares = sums
        own_weight = (own_logit - peak).exp() / mass
        entropy = (mass.log() - mean_logit).clamp_(min=0)
        of_class = [] if shares is None else [_class_entropy(weights, mass, shares)]
        found = [variance, leaning, 1 / mass, own_weight, entropy, squares / mass]
        curves.append(torch.stack([*found, *of_class]))
    return torch.stack(curves, 1)


def _class_entropy(weights: Tensor, mass: Tensor, shares: Tensor) -> Tensor:
    """The entropy of which class it is, nats [p]."""
    sums = (shares @ weights.T).T if shares.is_sparse else weights @ shares
    return -torch.special.xlogy(sums / mass[:, None], sums / mass[:, None]).sum(1).clamp_(max=0)
