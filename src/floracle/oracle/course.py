"""The course of weights through time: what a block of atoms adds to the curves of known pairs.

Against a pair's own atom logits are l_j = log w_j / w_o + r p_j − r² d_j, where p_j is the pull of
the noise and d_j half the squared distance. Divided by r, r p_j − r² d_j falls with r: once it is
far below zero it never comes back. So an atom that has lost all weight against the own one has
lost it at all later times, and only the others are followed on. When nothing but the own atom is
left, all later times are known (the certificate: what is left out weighs at most n e^−43).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .posterior import NEGLIGIBLE, weights_of

FOLLOWED = ("peak", "mass", "half", "lean", "logits", "squares")
CACHED = 2**17
"""Weights followed together: they should stay in cache."""
CROWDED = 16
"""Atoms are looked through for lost ones when no pair spreads its weight on more than one in so
many."""
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
    """What the logits of p pairs are made of, over n atoms; float32 [p, n] unless stated."""

    pull: Tensor
    """⟨ε, x_j − x_o⟩."""
    half: Tensor
    """d_j."""
    lean: Tensor
    log_weights: Tensor | None
    """log w_j / w_o; None where all weigh the same."""
    classes: Tensor | None
    """The class of every atom, int64 [n], counted from 0; [p, n] once atoms are left behind."""
    own: Tensor
    """Whether the own atom is among them, [p]."""
    own_class: Tensor | None
    """Its class, int64 [p]; −1 where it is not among them."""

    @property
    def atoms(self) -> int:
        """How many atoms are followed."""
        return self.pull.shape[1]

    def of(self, pairs: slice) -> Rows:
        """Some of the pairs."""
        tables = ("pull", "half", "lean", "log_weights", "own", "own_class")
        return replace(self, **{name: _some(getattr(self, name), pairs) for name in tables})

    def mirrored(self) -> Rows:
        """The pairs, then the same pairs with the opposite noise."""
        names = ("half", "lean", "log_weights", "own", "own_class")
        twice = {name: _twice(getattr(self, name)) for name in names}
        return replace(self, pull=torch.cat([self.pull, -self.pull]), **twice)

    def only(self, atoms: Tensor) -> Rows:
        """Some atoms [p, k] of every pair."""
        names = ("pull", "half", "lean", "log_weights")
        kept = {name: _gathered(getattr(self, name), atoms) for name in names}
        classes = self.classes
        if classes is not None:
            classes = classes.expand(len(atoms), -1).gather(1, atoms)
        return replace(self, classes=classes, **kept)


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
    crowded = False
    for k, r in enumerate(ratio.tolist()):
        logits = _logits(rows, r)
        few = _survivors(rows, logits) if crowded else None
        if few is not None:
            if not few.shape[1]:
                _close(rows, curves[:, k:], None if found is None else found[k:])
                break
            rows, logits = rows.only(few), logits.gather(1, few)
        peak = logits.amax(1)
        relative = logits.sub_(peak[:, None])
        weights = weights_of(relative)
        mass = weights.sum(1)
        curves[:, k] = _sums(rows, weights, relative, torch.stack([peak, mass]))
        if found is not None:
            found[k] = _by_class(rows, weights, peak, classes)
        crowded = float(mass.amax()) * CROWDED < rows.atoms
    return curves.transpose(1, 2), None if found is None else found.transpose(0, 1)


def _logits(rows: Rows, r: float) -> Tensor:
    logits = torch.mul(rows.pull, r).add_(rows.half, alpha=-r * r)
    return logits if rows.log_weights is None else logits.add_(rows.log_weights)


def _survivors(rows: Rows, logits: Tensor) -> Tensor | None:
    """The atoms [p, k] that may still matter, now or later; None where they are too many.

    With k = 0 nothing but own atoms is left.
    """
    highest = logits
    if rows.log_weights is not None:  # what weights hold down may yet rise
        highest = logits - rows.log_weights.clamp(max=0)
    counts = (highest > NEGLIGIBLE).sum(1)
    if not (counts - rows.own.long()).any():
        return counts.new_empty(len(logits), 0)
    keep = int(counts.amax())
    return None if 2 * keep > rows.atoms else highest.topk(keep, dim=1).indices


def _close(rows: Rows, curves: Tensor, classes: Tensor | None) -> None:
    """Write all later times: the own atom has all the weight, the others have none."""
    own = rows.own.double()
    peak = torch.where(rows.own, 0.0, NOTHING)
    for name, value in (("mass", own), ("squares", own), ("peak", peak)):
        curves[FOLLOWED.index(name)] = value
    if classes is not None and rows.own_class is not None:
        at = rows.own_class.clamp(min=0)[None, :, None].expand(len(classes), -1, 1)
        classes.scatter_(2, at, own[None, :, None].expand(len(classes), -1, 1))


def _sums(rows: Rows, weights: Tensor, relative: Tensor, first: Tensor) -> Tensor:
    """All that is followed [6, p], given peak and mass."""
    of = (rows.half, rows.lean, relative, weights)
    return torch.cat([first, torch.stack([torch.linalg.vecdot(weights, one) for one in of])])


def _by_class(rows: Rows, weights: Tensor, peak: Tensor, classes: int) -> Tensor:
    """The mass of every class [p, C], against the own atom; float64."""
    assert rows.classes is not None
    first = int(rows.classes.min())
    wide = int(rows.classes.max()) - first + 1
    local, sums = rows.classes - first, weights.new_zeros(len(weights), wide)
    if local.ndim == 1 and wide <= DENSE_CLASSES:
        sums = weights @ torch.nn.functional.one_hot(local, wide).to(weights.dtype)
    else:
        sums.scatter_add_(1, local.expand(weights.shape), weights)
    found = torch.zeros(len(weights), classes, dtype=torch.float64, device=weights.device)
    found[:, first : first + wide] = (
        sums.double() * peak.double().clamp(max=HIGHEST).exp()[:, None]
    )
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


def _gathered(table: Tensor | None, atoms: Tensor) -> Tensor | None:
    return None if table is None else table.gather(1, atoms)
