"""The course of weights through time: what a block of atoms adds to the curves of known pairs.

Against a pair's own atom logits are l_j = log w_j / w_o + r p_j − r² d_j, where p_j is the pull of
the noise and d_j half the squared distance. Divided by r, r p_j − r² d_j falls with r: once it is
far below zero it never comes back. So an atom that has lost all weight against the own one has
lost it at all later times, and only the others are followed on, until the own atom is alone (the
certificate: all that is left behind weighs at most n e^−43 of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from floracle.oracle.posterior import NEGLIGIBLE, exp_or_zero

FOLLOWED = ("peak", "mass", "half", "lean", "logits", "squares")
CACHED = 2**18
"""Weights followed together: they should stay in cache."""
LAUNCHED = 2**24
"""The same on a GPU, which waits for launches."""
CROWDED = 3
"""Atoms are chosen anew when no more than one in so many is alive."""
LOST = 1e20
"""Half a squared distance at which no atom has weight."""
DENSE_CLASSES = 64
"""Up to so many classes their weights are summed by a product."""
NOTHING = -1e30
"""The peak of no atoms at all."""
HIGHEST = 700.0
"""Class masses are kept against the own atom; e to this power is still a float64."""


@dataclass(frozen=True)
class PairPosteriors:
    """Sums over some atoms of e^{l − peak} times what is named; float64 [p, T], peaks too.

    Logits l are relative to the own atom of each pair. Summaries of disjoint sets of atoms merge.
    """

    peak: Tensor
    mass: Tensor
    half: Tensor
    """Of d_j = ½ ‖x_j − x_o‖²."""
    lean: Tensor
    """Of ½ (‖x_j‖² − ‖x_o‖²)."""
    logits: Tensor
    """Of l − peak."""
    squares: Tensor
    """Of e^{l − peak} itself."""
    nearest: Tensor
    """The smallest d_j of another atom, [p]; infinite where there is none."""
    rival: Tensor
    """Where that atom stands, int64 [p]; −1 where there is none."""
    classes: Tensor | None = None
    """Of e^l by class, [p, T, C]."""

    @classmethod
    def empty(cls, pairs: int, times: int, classes: int, device: torch.device) -> PairPosteriors:
        """Over no atoms at all."""
        zeros = torch.zeros(pairs, times, dtype=torch.float64, device=device)
        sums = {name: zeros for name in FOLLOWED[1:]}
        return cls(
            zeros + NOTHING,
            **sums,
            nearest=zeros.new_full((pairs,), torch.inf),
            rival=torch.full((pairs,), -1, device=device),
            classes=zeros.new_zeros(pairs, times, classes) if classes else None,
        )

    def merge(self, other: PairPosteriors) -> PairPosteriors:
        """The sums over both sets of atoms."""
        peak = torch.maximum(self.peak, other.peak)
        ours, theirs = self._raised(peak), other._raised(peak)
        sums = {name: ours[name] + theirs[name] for name in FOLLOWED[1:]}
        closer = other.nearest < self.nearest
        return PairPosteriors(
            peak,
            **sums,
            nearest=torch.where(closer, other.nearest, self.nearest),
            rival=torch.where(closer, other.rival, self.rival),
            classes=_added(self.classes, other.classes),
        )

    def _raised(self, peak: Tensor) -> dict[str, Tensor]:
        """The sums relative to a higher peak."""
        apart = (self.peak - peak).clamp(min=-1e300)  # so that nothing gives 0, not 0 · ∞
        scale = apart.exp()
        sums = {name: getattr(self, name) * scale for name in ("mass", "half", "lean")}
        logits = self.logits * scale + sums["mass"] * apart
        return {**sums, "logits": logits, "squares": self.squares * scale.square()}


@dataclass(frozen=True)
class ProductRows:
    """What the logits of p pairs over n atoms are made of."""

    terms: Tensor
    """[k, p, n], float32, or float64 for points of few dimensions: ⟨ε, x_j − x_o⟩, d_j, unless
    all weigh the same log w_j / w_o, and the lean last."""
    classes: Tensor | None
    """The class of every atom, int64 [n], counted from 0; [p, n] once atoms are left behind."""

    @property
    def atoms(self) -> int:
        """How many atoms are followed."""
        return self.terms.shape[2]

    @property
    def log_weights(self) -> Tensor | None:
        """Of every pair and atom, log w_j / w_o [p, n]; None where all weigh the same."""
        return self.terms[2] if len(self.terms) > 3 else None

    def of(self, pairs: slice) -> ProductRows:
        """Some of the pairs."""
        return replace(self, terms=self.terms[:, pairs])

    def mirrored(self) -> ProductRows:
        """The pairs, then the same pairs with the opposite noise."""
        twice = torch.cat([self.terms, self.terms], 1)
        twice[0, self.terms.shape[1] :].neg_()
        return replace(self, terms=twice)

    def factors(self, ratio: Tensor) -> Tensor:
        """What terms are multiplied with to give logits at α/σ [T]: [T, k], 0 for the lean."""
        one = torch.ones_like(ratio)
        known = [ratio, -ratio.square(), one][: len(self.terms) - 1]
        return torch.stack([*known, torch.zeros_like(one)], 1)


def pair_posteriors(
    rows: ProductRows,
    nearest: Tensor,
    rival: Tensor,
    ratio: Tensor,
    *,
    mirrored: bool,
    classes: int,
) -> PairPosteriors:
    """Follow pairs through increasing α/σ [T]; mirrored, there are 2p of them.

    `nearest` is the smallest d_j [p] of another atom and `rival` where it stands, `classes` their
    number in the whole set (0: not followed).
    """
    pairs = rows.terms.shape[1]
    size = max(1, _together(rows) // (rows.atoms * (1 + mirrored)))
    places = [slice(start, min(start + size, pairs)) for start in range(0, pairs, size)]
    pieces = [rows.of(some) for some in places]
    parts = [_followed(p.mirrored() if mirrored else p, ratio, classes) for p in pieces]
    curves = torch.cat([_apart(curves, mirrored) for curves, _ in parts], 2).flatten(1, 2)
    of_classes = None
    if classes:
        found = [_apart(found[None], mirrored)[0] for _, found in parts if found is not None]
        of_classes = torch.cat(found, 1).flatten(0, 1)
    nearest, rival = (one.repeat(1 + mirrored) for one in (nearest, rival))
    sums = dict(zip(FOLLOWED, curves, strict=True))
    return PairPosteriors(**sums, nearest=nearest, rival=rival, classes=of_classes)


def _together(rows: ProductRows) -> int:
    """How many weights are followed at a time."""
    return LAUNCHED if rows.terms.is_cuda else CACHED


def _followed(rows: ProductRows, ratio: Tensor, classes: int) -> tuple[Tensor, Tensor | None]:
    """The sums [6, p, T] of a piece, and those of classes [p, T, C]."""
    ratio, pairs, times = ratio.to(rows.terms.device), rows.terms.shape[1], len(ratio)
    found = ratio.new_zeros(times, pairs, classes) if classes else None
    factors, start, parts = rows.factors(ratio), 0, []
    room = rows.terms.new_empty(max(_together(rows), rows.terms[0].numel()))
    while start < times and rows.atoms:
        together = max(1, _together(rows) // rows.terms[0].numel())
        these = slice(start, min(start + together, times))
        logits = _logits(rows, factors[these], room)
        alive = _alive(rows, logits[-1])
        peak = logits.amax(2)
        relative = logits.sub_(peak[:, :, None])
        weights = exp_or_zero(relative, out=relative)
        parts.append((peak, *_sums(rows, weights)))
        if found is not None:
            found[these] = _by_class(rows, weights, peak, classes)
        rows = rows if alive is None else _packed(rows, alive)
        start = these.stop
    curves = ratio.new_zeros(len(FOLLOWED), pairs, times)
    curves[0] = NOTHING
    if parts:
        curves[:, :, :start] = _named(parts, factors[:start])
    return curves, None if found is None else found.transpose(0, 1)


def _logits(rows: ProductRows, factors: Tensor, room: Tensor) -> Tensor:
    """[T, p, n], written into the same room every time."""
    terms = rows.terms[:-1]
    shape = (len(factors), *terms.shape[1:])
    found = room[: prod(shape)].view(len(factors), -1)
    return torch.mm(factors[:, :-1].to(terms), terms.flatten(1), out=found).view(shape)


def _alive(rows: ProductRows, logits: Tensor) -> Tensor | None:
    """Which atoms [p, n] may still matter at later times; None where too many to choose."""
    if rows.log_weights is not None:  # what weights hold down may yet rise
        logits = logits - rows.log_weights.clamp(max=0)
    alive = logits > NEGLIGIBLE
    return None if int(alive.count_nonzero()) * CROWDED > alive.numel() else alive


def _packed(rows: ProductRows, alive: Tensor) -> ProductRows:
    """The atoms that are alive, side by side; where a pair has fewer, lost ones fill its row."""
    counts = alive.sum(1)
    pairs, wide = len(counts), int(counts.max())
    chosen = alive.flatten().nonzero()[:, 0]
    begin = torch.arange(pairs, device=alive.device) * wide - (counts.cumsum(0) - counts)
    place = torch.arange(len(chosen), device=alive.device) + begin.repeat_interleave(counts)

    def packed(table: Tensor) -> Tensor:
        room = table.new_zeros(len(table), pairs * wide)
        return room.index_copy_(1, place, table.index_select(1, chosen)).unflatten(1, (pairs, -1))

    terms = packed(rows.terms.flatten(1))
    filled = torch.arange(wide, device=alive.device) < counts[:, None]
    terms[1].masked_fill_(~filled, LOST)
    if rows.classes is None:
        return ProductRows(terms, None)
    return ProductRows(terms, packed(rows.classes.expand(alive.shape).reshape(1, -1))[0])


def _sums(rows: ProductRows, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of weights [T, p, n] their sums and roots of squares [T, p], and of terms [p, T, k]."""
    terms = torch.bmm(weights.transpose(0, 1), rows.terms.permute(1, 2, 0))
    return weights.sum(2), torch.linalg.vector_norm(weights, dim=2), terms


def _named(parts: Sequence[tuple[Tensor, ...]], factors: Tensor) -> Tensor:
    """All that is followed, float64 [6, p, T], from peaks and sums of times one after another."""
    peaks, masses, roots, terms = zip(*parts, strict=True)
    peak, mass, root = (torch.cat(one).double().T for one in (peaks, masses, roots))
    every = torch.cat(terms, 1).double()
    logits = (every * factors).sum(2) - peak * mass
    return torch.stack([peak, mass, every[..., 1], every[..., -1], logits, root.square()])


def _by_class(rows: ProductRows, weights: Tensor, peak: Tensor, classes: int) -> Tensor:
    """The mass of every class [T, p, C], against the own atom; float64."""
    assert rows.classes is not None
    first = int(rows.classes.min())
    wide = int(rows.classes.max()) - first + 1
    local, sums = rows.classes - first, weights.new_zeros(*peak.shape, wide)
    if local.ndim == 1 and wide <= DENSE_CLASSES:
        sums = weights @ torch.nn.functional.one_hot(local, wide).to(weights.dtype)
    else:
        sums.scatter_add_(2, local.expand(weights.shape), weights)
    found = torch.zeros(*peak.shape, classes, dtype=torch.float64, device=weights.device)
    scale = peak.double().clamp(max=HIGHEST).exp()[..., None]
    found[..., first : first + wide] = sums.double() * scale
    return found


def _apart(found: Tensor, mirrored: bool) -> Tensor:
    """Pairs [k, p, …] as [k, signs, pairs, …]."""
    return found.unflatten(1, (1 + mirrored, -1))


def _added(ours: Tensor | None, theirs: Tensor | None) -> Tensor | None:
    return theirs if ours is None else ours if theirs is None else ours + theirs
