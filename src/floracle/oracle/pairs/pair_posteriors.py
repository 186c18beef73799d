"""Streaming sums of posterior weights over all times: what a block of points adds to curves.

Against a pair's own point x_o logits are l_j = log w_j/w_o + r p_j − r² d_j, where p_j = ⟨ε, x_j −
x_o⟩ and d_j = ½‖x_j − x_o‖². Divided by r, r p_j − r² d_j falls with r: once it is far below zero
it never comes back. So a point that has lost all weight against the own one has lost it at all
later times, and only the others are followed on, until the own point is alone (the certificate:
all that is left behind weighs at most n e^−43 of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from floracle.oracle.posterior import NEGLIGIBLE_LOGIT, exp_or_zero

WEIGHTS_AT_ONCE, GPU_WEIGHTS_AT_ONCE = 2**18, 2**24
"""Weights computed together: they stay in cache; more on a GPU, which waits for launches."""
PACKED_SHARE = 3
"""Points are packed anew when no more than one in so many still has weight."""
LOST_DISTANCE = 1e20
"""A d_j at which no point has weight."""
MAX_CLASSES_BY_PRODUCT = 64
"""Up to so many classes, their weights are summed by a matrix product."""
NO_LOGIT = -1e30
"""The largest logit of no points at all."""
MAX_CLASS_LOGIT = 700.0
"""Class masses are relative to the own point; e to this power is still a float64."""

SUMS = ("mass", "variance", "control", "logits", "squares")


@dataclass(frozen=True)
class PairPosteriors:
    """Sums over some points of e^{l − max} times what is named; float64 [p, T].

    Logits l are relative to the own point of each pair. Sums of disjoint sets of points merge.
    """

    max_logit: Tensor
    mass: Tensor
    """Of 1."""
    variance: Tensor
    """Of d_j = ½‖x_j − x_o‖²."""
    control: Tensor
    """Of ½ (‖x_j‖² − ‖x_o‖²)."""
    logits: Tensor
    """Of l − max."""
    squares: Tensor
    """Of e^{l − max} itself."""
    nearest: Tensor
    """The smallest d_j of another point, [p]; infinite where there is none."""
    rival: Tensor
    """The position of that point, int64 [p]; −1 where there is none."""
    classes: Tensor | None = None
    """Of e^l by class, [p, T, C]."""

    @classmethod
    def empty(cls, pairs: int, times: int, classes: int, device: torch.device) -> PairPosteriors:
        """The sums over no points at all."""
        zeros = torch.zeros(pairs, times, dtype=torch.float64, device=device)
        return cls(
            zeros + NO_LOGIT,
            **dict.fromkeys(SUMS, zeros),
            nearest=zeros.new_full((pairs,), torch.inf),
            rival=torch.full((pairs,), -1, device=device),
            classes=zeros.new_zeros(pairs, times, classes) if classes else None,
        )

    def merge(self, other: PairPosteriors) -> PairPosteriors:
        """The sums over both sets of points."""
        highest = torch.maximum(self.max_logit, other.max_logit)
        ours, theirs = self._relative_to(highest), other._relative_to(highest)
        closer = other.nearest < self.nearest
        classes = other.classes if self.classes is None else self.classes
        if self.classes is not None and other.classes is not None:
            classes = self.classes + other.classes
        return PairPosteriors(
            highest,
            **{name: ours[name] + theirs[name] for name in SUMS},
            nearest=torch.where(closer, other.nearest, self.nearest),
            rival=torch.where(closer, other.rival, self.rival),
            classes=classes,
        )

    def _relative_to(self, highest: Tensor) -> dict[str, Tensor]:
        """The sums relative to a higher largest logit."""
        below = (self.max_logit - highest).clamp(min=-1e300)  # so that nothing gives 0, not 0 · ∞
        scale = below.exp()
        sums = {name: getattr(self, name) * scale for name in ("mass", "variance", "control")}
        logits = self.logits * scale + sums["mass"] * below
        return {**sums, "logits": logits, "squares": self.squares * scale.square()}


@dataclass(frozen=True)
class ProductRows:
    """What the logits of p pairs over n points are made of; made by `ProductRows.of`."""

    terms: Tensor
    """p_j, d_j, log w_j/w_o unless all weigh the same, and the control last, [k, p, n]: one
    tensor, so that logits at several times, and their sums, are one product each. float32, or
    float64 for points of few dimensions."""
    classes: Tensor | None
    """The class of every point, int64 [n], counted from 0; [p, n] once points are packed."""

    @classmethod
    def of(
        cls,
        noise_products: Tensor,
        half_distances: Tensor,
        controls: Tensor,
        *,
        log_weights: Tensor | None = None,
        classes: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> ProductRows:
        """From p_j, d_j, ½ (‖x_j‖² − ‖x_o‖²) and log w_j/w_o where weights differ, [p, n] each."""
        terms = [noise_products, half_distances, log_weights, controls]
        return cls(torch.stack([term.to(dtype) for term in terms if term is not None]), classes)

    @property
    def points(self) -> int:
        """How many points are followed."""
        return self.terms.shape[2]

    @property
    def log_weights(self) -> Tensor | None:
        """Log w_j/w_o [p, n]; None where all weigh the same."""
        return self.terms[2] if len(self.terms) > 3 else None

    def of_pairs(self, pairs: slice) -> ProductRows:
        """Some of the pairs."""
        return replace(self, terms=self.terms[:, pairs])

    def mirrored(self) -> ProductRows:
        """The pairs, then the same pairs with the opposite noise."""
        twice = torch.cat([self.terms, self.terms], 1)
        twice[0, self.terms.shape[1] :].neg_()
        return replace(self, terms=twice)

    def factors(self, ratio: Tensor) -> Tensor:
        """What terms are multiplied with to give logits at r [T]: r, −r², 1, and 0; [T, k]."""
        ones = torch.ones_like(ratio)
        factors = [ratio, -ratio.square(), ones][: len(self.terms) - 1]
        return torch.stack([*factors, torch.zeros_like(ones)], 1)


def pair_posteriors(
    rows: ProductRows,
    nearest: Tensor,
    rival: Tensor,
    ratio: Tensor,
    *,
    mirrored: bool,
    classes: int,
) -> PairPosteriors:
    """The sums of pairs over a block of points at increasing r = α/σ [T]; 2p pairs if mirrored.

    `nearest` is the smallest d_j [p] of another point and `rival` its position, `classes` their
    number in the whole set (0: not told apart).
    """
    pairs, signs = rows.terms.shape[1], 1 + mirrored
    size = max(1, _weights_at_once(rows) // (rows.points * signs))
    parts = []
    for start in range(0, pairs, size):
        part = rows.of_pairs(slice(start, min(start + size, pairs)))
        parts.append(_sum_over_times(part.mirrored() if mirrored else part, ratio, classes))

    def joined(name: str) -> Tensor:
        """The pairs of all parts, then all their mirror images."""
        by_sign = [part[name].unflatten(0, (signs, -1)) for part in parts]
        return torch.cat(by_sign, 1).flatten(0, 1)

    return PairPosteriors(
        **{name: joined(name) for name in parts[0]},
        nearest=nearest.repeat(signs),
        rival=rival.repeat(signs),
    )


def _weights_at_once(rows: ProductRows) -> int:
    return GPU_WEIGHTS_AT_ONCE if rows.terms.is_cuda else WEIGHTS_AT_ONCE


def _sum_over_times(rows: ProductRows, ratio: Tensor, classes: int) -> dict[str, Tensor]:
    """The largest logits and sums of a part of the pairs, [p, T] and [p, T, C], by name."""
    ratio, pairs, times = ratio.to(rows.terms.device), rows.terms.shape[1], len(ratio)
    class_masses = ratio.new_zeros(times, pairs, classes) if classes else None
    factors, start, steps = rows.factors(ratio), 0, []
    buffer = rows.terms.new_empty(max(_weights_at_once(rows), rows.terms[0].numel()))
    while start < times and rows.points:
        # 1. As many times together as fit; the more points have lost, the more times.
        count = max(1, _weights_at_once(rows) // rows.terms[0].numel())
        now = slice(start, min(start + count, times))
        # 2. Their logits and weights.
        logits = _logits(rows, factors[now], buffer)  # [T', p, n]
        alive = _still_alive(rows, logits[-1])
        max_logit = logits.amax(2)
        relative = logits.sub_(max_logit[:, :, None])
        weights = exp_or_zero(relative, out=relative)
        # 3. The sums over points, of all terms by one product: [T', p] and [p, T', k].
        terms = torch.bmm(weights.transpose(0, 1), rows.terms.permute(1, 2, 0))
        steps.append((max_logit, weights.sum(2), torch.linalg.vector_norm(weights, dim=2), terms))
        if class_masses is not None:
            class_masses[now] = _sum_by_class(rows, weights, max_logit, classes)
        # 4. Points that have lost are left behind.
        rows = rows if alive is None else _pack(rows, alive)
        start = now.stop
    sums = {"max_logit": ratio.new_full((pairs, times), NO_LOGIT)}
    sums |= {name: ratio.new_zeros(pairs, times) for name in SUMS}
    if steps:
        for name, values in _name_sums(steps, factors[:start]).items():
            sums[name][:, :start] = values
    if class_masses is not None:
        sums["classes"] = class_masses.transpose(0, 1)
    return sums


def _logits(rows: ProductRows, factors: Tensor, buffer: Tensor) -> Tensor:
    """Logits l [T, p, n], written into the same memory every time."""
    terms = rows.terms[:-1]
    shape = (len(factors), *terms.shape[1:])
    out = buffer[: prod(shape)].view(len(factors), -1)
    return torch.mm(factors[:, :-1].to(terms), terms.flatten(1), out=out).view(shape)


def _still_alive(rows: ProductRows, logits: Tensor) -> Tensor | None:
    """Which points may have weight at later times, bool [p, n]; None where too many to pack."""
    if rows.log_weights is not None:  # what a small w_j/w_o holds down may yet rise
        logits = logits - rows.log_weights.clamp(max=0)
    alive = logits > NEGLIGIBLE_LOGIT
    return None if int(alive.count_nonzero()) * PACKED_SHARE > alive.numel() else alive


def _pack(rows: ProductRows, alive: Tensor) -> ProductRows:
    """The points that are alive, side by side; where a pair has fewer, lost ones fill its row."""
    counts = alive.sum(1)
    pairs, width = len(counts), int(counts.max())
    source = alive.flatten().nonzero()[:, 0]
    # Point i of pair q goes to column i − (all of the pairs before) of row q.
    shift = torch.arange(pairs, device=alive.device) * width - (counts.cumsum(0) - counts)
    target = torch.arange(len(source), device=alive.device) + shift.repeat_interleave(counts)

    def packed(table: Tensor) -> Tensor:
        room = table.new_zeros(len(table), pairs * width)
        return room.index_copy_(1, target, table.index_select(1, source)).unflatten(1, (pairs, -1))

    terms = packed(rows.terms.flatten(1))
    filled = torch.arange(width, device=alive.device) < counts[:, None]
    terms[1].masked_fill_(~filled, LOST_DISTANCE)
    if rows.classes is None:
        return ProductRows(terms, None)
    return ProductRows(terms, packed(rows.classes.expand(alive.shape).reshape(1, -1))[0])


def _name_sums(steps: Sequence[tuple[Tensor, ...]], factors: Tensor) -> dict[str, Tensor]:
    """Largest logits and sums by name, float64 [p, T], from steps of times one after another."""
    maxima, masses, roots, terms = zip(*steps, strict=True)
    max_logit, mass, root = (torch.cat(values).double().T for values in (maxima, masses, roots))
    totals = torch.cat(terms, 1).double()  # Σ e^{l − max} times every term, [p, T, k]
    return {
        "max_logit": max_logit,
        "mass": mass,
        "variance": totals[..., 1],
        "control": totals[..., -1],
        "logits": (totals * factors).sum(2) - max_logit * mass,
        "squares": root.square(),
    }


def _sum_by_class(rows: ProductRows, weights: Tensor, max_logit: Tensor, classes: int) -> Tensor:
    """Σ e^l of every class, relative to the own point; float64 [T, p, C]."""
    assert rows.classes is not None
    first = int(rows.classes.min())
    width = int(rows.classes.max()) - first + 1  # points are in the order of rows, often by class
    local, sums = rows.classes - first, weights.new_zeros(*max_logit.shape, width)
    if local.ndim == 1 and width <= MAX_CLASSES_BY_PRODUCT:
        sums = weights @ torch.nn.functional.one_hot(local, width).to(weights.dtype)
    else:
        sums.scatter_add_(2, local.expand(weights.shape), weights)
    total = torch.zeros(*max_logit.shape, classes, dtype=torch.float64, device=weights.device)
    scale = max_logit.double().clamp(max=MAX_CLASS_LOGIT).exp()[..., None]
    total[..., first : first + width] = sums.double() * scale
    return total
