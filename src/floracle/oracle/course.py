"""The course of weights through time: what a block of atoms adds to the curves of known pairs.

Against a pair's own atom logits are l_j = log w_j / w_o + r p_j − r² d_j, where p_j is the pull of
the noise and d_j half the squared distance. Divided by r, r p_j − r² d_j falls with r: once it is
far below zero it never comes back. So an atom that has lost all weight against the own one has
lost it at all later times, and only the others are followed on, until the own atom is alone (the
certificate: all that is left behind weighs at most n e^−43 of it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .posterior import NEGLIGIBLE, weights_of

FOLLOWED = ("peak", "mass", "half", "lean", "logits", "squares")
CACHED = 2**18
"""Weights followed together: they should stay in cache."""
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
class Course:
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
    def empty(cls, pairs: int, times: int, classes: int, device: torch.device) -> Course:
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

    def merge(self, other: Course) -> Course:
        """The sums over both sets of atoms."""
        peak = torch.maximum(self.peak, other.peak)
        ours, theirs = self._raised(peak), other._raised(peak)
        sums = {name: ours[name] + theirs[name] for name in FOLLOWED[1:]}
        closer = other.nearest < self.nearest
        return Course(
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
class Rows:
    """What the logits of p pairs are made of, over n atoms; [p, n] unless stated.

    float32, or float64 for points of few dimensions.
    """

    pull: Tensor
    """⟨ε, x_j − x_o⟩."""
    half: Tensor
    """d_j."""
    lean: Tensor
    log_weights: Tensor | None
    """log w_j / w_o; None where all weigh the same."""
    classes: Tensor | None
    """The class of every atom, int64 [n], counted from 0; [p, n] once atoms are left behind."""

    @property
    def atoms(self) -> int:
        """How many atoms are followed."""
        return self.pull.shape[1]

    def of(self, pairs: slice) -> Rows:
        """Some of the pairs."""
        tables = ("pull", "half", "lean", "log_weights")
        return replace(self, **{name: _some(getattr(self, name), pairs) for name in tables})

    def mirrored(self) -> Rows:
        """The pairs, then the same pairs with the opposite noise."""
        names = ("half", "lean", "log_weights")
        twice = {name: _twice(getattr(self, name)) for name in names}
        return replace(self, pull=torch.cat([self.pull, -self.pull]), **twice)


def course(
    rows: Rows, ratio: Tensor, *, mirrored: bool, classes: int, rival: tuple[Tensor, Tensor]
) -> Course:
    """Follow pairs through increasing α/σ [T]; mirrored, there are 2p of them.

    `classes` is their number in the whole set (0: not followed), `rival` the smallest d_j [p] of
    another atom and where it stands.
    """
    pairs = len(rows.pull)
    size = max(1, CACHED // (rows.atoms * (1 + mirrored)))
    places = [slice(start, min(start + size, pairs)) for start in range(0, pairs, size)]
    pieces = [rows.of(some) for some in places]
    parts = [_followed(p.mirrored() if mirrored else p, ratio, classes) for p in pieces]
    curves = torch.cat([_apart(curves, mirrored) for curves, _ in parts], 2).flatten(1, 2)
    of_classes = None
    if classes:
        found = [_apart(found[None], mirrored)[0] for _, found in parts if found is not None]
        of_classes = torch.cat(found, 1).flatten(0, 1)
    nearest, where = (torch.cat([one] * (1 + mirrored)) for one in rival)
    sums = dict(zip(FOLLOWED, curves, strict=True))
    return Course(**sums, nearest=nearest, rival=where, classes=of_classes)


def _followed(rows: Rows, ratio: Tensor, classes: int) -> tuple[Tensor, Tensor | None]:
    """The sums [6, p, T] of a piece, and those of classes [p, T, C]."""
    pairs, times = len(rows.pull), len(ratio)
    curves = torch.zeros(len(FOLLOWED), times, pairs, dtype=torch.float64, device=rows.pull.device)
    curves[0] = NOTHING
    found = curves.new_zeros(times, pairs, classes) if classes else None
    start = 0
    while start < times and rows.atoms:
        together = max(1, CACHED // rows.pull.numel())
        these = slice(start, min(start + together, times))
        logits = _logits(rows, ratio[these])
        alive = _alive(rows, logits[-1])
        peak = logits.amax(2)
        relative = logits.sub_(peak[:, :, None])
        weights = weights_of(relative)
        curves[:, these] = _sums(rows, weights, relative, peak)
        if found is not None:
            found[these] = _by_class(rows, weights, peak, classes)
        rows = rows if alive is None else _packed(rows, alive)
        start = these.stop
    return curves.transpose(1, 2), None if found is None else found.transpose(0, 1)


def _logits(rows: Rows, ratio: Tensor) -> Tensor:
    """[T, p, n]."""
    r = ratio.to(rows.pull)[:, None, None]
    logits = (rows.pull * r).addcmul_(rows.half, r * r, value=-1)
    return logits if rows.log_weights is None else logits.add_(rows.log_weights)


def _alive(rows: Rows, logits: Tensor) -> Tensor | None:
    """Which atoms [p, n] may still matter at later times; None where too many to choose."""
    if rows.log_weights is not None:  # what weights hold down may yet rise
        logits = logits - rows.log_weights.clamp(max=0)
    alive = logits > NEGLIGIBLE
    return None if int(alive.sum()) * CROWDED > alive.numel() else alive


def _packed(rows: Rows, alive: Tensor) -> Rows:
    """The atoms that are alive, side by side; where a pair has fewer, lost ones fill its row."""
    counts = alive.sum(1)
    pair, atom = alive.nonzero().unbind(1)
    place = torch.arange(len(pair), device=alive.device) - (counts.cumsum(0) - counts)[pair]

    def chosen(table: Tensor | None, lost: float) -> Tensor | None:
        if table is None:
            return None
        packed = table.new_full((len(counts), int(counts.max())), lost)
        packed[pair, place] = table[pair, atom] if table.ndim == 2 else table[atom]
        return packed

    names = {"pull": 0.0, "half": LOST, "lean": 0.0, "log_weights": 0.0, "classes": 0}
    return replace(rows, **{name: chosen(getattr(rows, name), to) for name, to in names.items()})


def _sums(rows: Rows, weights: Tensor, relative: Tensor, peak: Tensor) -> Tensor:
    """All that is followed, [6, T, p]; `weights` and `relative` are [T, p, n]."""
    of = (rows.half, rows.lean, relative, weights)
    sums = [torch.linalg.vecdot(weights, one) for one in of]
    return torch.stack([peak, weights.sum(2), *sums])


def _by_class(rows: Rows, weights: Tensor, peak: Tensor, classes: int) -> Tensor:
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


def _some(table: Tensor | None, pairs: slice) -> Tensor | None:
    return None if table is None else table[pairs]


def _twice(table: Tensor | None) -> Tensor | None:
    return None if table is None else torch.cat([table, table])
