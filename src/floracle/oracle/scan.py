"""The dense scan: two matrix products a block, everything else kept out of their way.

For queries x with centred form y = x − α m, the logit of atom i is, up to a constant of the query,

    l_i = log w_i + (α/σ²) ⟨y, x_i − m⟩ − (α²/2σ²) ‖x_i − m‖²      (− ‖y‖² / 2σ²).

The inner products are taken in float32 (never TF32), or in float64 where points have few
dimensions, the rest of the logit in float64. Atoms whose weight cannot change the mean even in
its last bit are left out of the second product: past the end of navigation, nearly all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.paths import Coefficients, ProbabilityPath

from .class_points import ClassPoints, PointBlock, Stretch
from .distributed import everywhere
from .posterior import NEGLIGIBLE, PosteriorSums, exp_or_zero

TOP = 32
"""How many leading atoms are kept for each query."""
TOGETHER = 8
"""Blocks merged at a time."""
COPIES, CHECKED = 5, 12
"""Float64 copies of a query while blocks are summed: itself, seen from the centre, sums on their
way into one; and how many there are once its mean is checked."""
SUMMED = 4096
"""Atoms that are averaged together at most: more would let rounding add up."""
LAUNCHED, STREAMED = 2**30, 2**27
"""Bytes of a block on a GPU, of points that lie there and of others."""
LEAST_ROWS, LEAST_BYTES = 32, 2**27
"""Atoms of a block at least, unless they take more than these bytes."""
FEW = 8
"""Fewer queries than these wait for memory rather than for arithmetic."""


@dataclass(frozen=True)
class Queries:
    """Noisy points, ready for a class; float64 unless stated, [b] unless stated."""

    x: Tensor
    """[b, D]."""
    centred: Tensor
    """x − α · centre, [b, D]."""
    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor
    gain: Tensor
    """α / σ², over the temperature."""

    @property
    def amplification(self) -> Tensor:
        """A = α' − α σ' / σ: how much an error of the mean grows in the velocity."""
        return Coefficients(self.alpha, self.sigma, self.d_alpha, self.d_sigma).amplification

    def of(self, chosen: Tensor) -> Queries:
        """Some of the queries, in their order."""
        if len(chosen) == len(self.x):
            return self
        return Queries(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def velocity(self, mean: Tensor) -> Tensor:
        """u* from the posterior mean, both float64 [b, D]; the pull towards it comes last."""
        pull = (self.x - self.alpha[:, None] * mean) * (self.d_sigma / self.sigma)[:, None]
        return self.d_alpha[:, None] * mean + pull


def queries(
    members: ClassPoints, x: Tensor, t: Tensor, path: ProbabilityPath, *, temperature: float = 1.0
) -> Queries:
    """Queries x [b, D] at times t [b] < 1, for one class; logits are divided by `temperature`."""
    c = path.coefficients(t.to(x.device))
    if (c.sigma <= 0).any():
        raise ValueError("the oracle's velocity is 0 / 0 at t = 1; ask for it at t < 1")
    x = x.double()
    gain = c.alpha / (c.sigma**2 * temperature)
    return Queries(x, x - c.alpha[:, None] * members.centre, *c, gain)


@dataclass(frozen=True)
class Passed:
    """Where a scan has been, and the largest logit that each query found there."""

    stretches: list[Stretch]
    peaks: Tensor
    """float64 [most, b]; one tensor, since many small ones would leave holes in the heap."""

    @classmethod
    def ready(cls, members: ClassPoints, asked: Queries) -> Passed:
        """Room for a scan of a class that has yet to come."""
        rows = block_rows(members, len(asked.x), members.precision)
        return cls([], asked.gain.new_empty(-(-len(members) // rows), len(asked.x)))

    def note(self, block: PointBlock, peak: Tensor) -> None:
        """Remember a block and the largest logits [b] in it."""
        self.peaks[len(self.stretches)] = peak
        self.stretches.append(Stretch(block.start, block.start + len(block.points)))

    def where(self, floor: Tensor, places: Tensor) -> list[Stretch]:
        """The stretches where some atom came above the floor [p] of the query at its place [p]."""
        high = (self.peaks[: len(self.stretches), places] >= floor).any(1).tolist()
        return [one for one, here in zip(self.stretches, high, strict=True) if here]


def scan(
    members: ClassPoints,
    asked: Queries,
    *,
    dtype: torch.dtype | None = None,
    keep: int = TOP,
    passed: Passed | None = None,
    within: Sequence[Stretch] | None = None,
) -> PosteriorSums:
    """One pass over a class, with inner products in `dtype`; `keep` leaders are remembered.

    Without a `dtype` products are in float32, or in float64 for points of few dimensions. Where
    several processes share the class all of them take part, and get the sums over all of it.
    What was read joins `passed`; with `within`, no more than those stretches are.
    """
    dtype = dtype or members.precision
    kernel = _kernel(members, asked, dtype, keep)
    total, parts, floor = [], [], None
    rows = block_rows(members, len(asked.x), dtype)
    for block in members.blocks(rows, wide=dtype == torch.float64, within=within):
        parts.append(kernel.sums(block, floor))
        peak = parts[-1].peak
        if passed is not None:
            passed.note(block, peak)
        floor = peak if floor is None else torch.maximum(floor, peak)
        if len(parts) == TOGETHER:
            total, parts = [PosteriorSums.merged(total + parts, keep)], []
    return everywhere(members, total + parts, keep, batch=len(asked.x))


def _kernel(members: ClassPoints, asked: Queries, dtype: torch.dtype, keep: int) -> _Kernel:
    gain = asked.gain[:, None]
    shift = gain * (asked.centred @ (members.centre - members.offset))[:, None]
    half = gain * asked.alpha[:, None] / 2
    return _Kernel(members, asked.centred.to(dtype), gain, half, shift, dtype, keep)


def block_rows(members: ClassPoints, batch: int, dtype: torch.dtype) -> int:
    """Rows a block: small enough to stay in cache for few queries, large for many.

    Never so many that rounding would add up: within a block sums are taken in `dtype`. A GPU,
    which waits for launches, takes many more of what lies there, and sums them in parts.
    """
    if members.centre.is_cuda:
        size = LAUNCHED if members.points is not None else STREAMED
        return max(32, min(size // (members.dims * dtype.itemsize), 2**26 // max(batch, 1)))
    size, row = (16 if batch < FEW else 24) * 2**20, members.dims * dtype.itemsize
    most = min(size // row, 2**22 // max(batch, 1))
    return max(1, min(LEAST_ROWS, LEAST_BYTES // row), min(most, SUMMED))


def query_bytes(members: ClassPoints) -> int:
    """Bytes that a query takes while a class is scanned for it."""
    rows = block_rows(members, 1, members.precision)
    blocks = min(TOGETHER, -(-len(members) // rows)) + 1  # their sums wait to be merged
    return 8 * members.dims * max(blocks + COPIES, CHECKED)


@dataclass(frozen=True)
class _Kernel:
    """What every block of a scan needs of its queries."""

    members: ClassPoints
    centred: Tensor
    """y in the type of the products, [b, D]."""
    gain: Tensor
    """α / σ², [b, 1]."""
    half: Tensor
    """α² / (2σ²), [b, 1]."""
    shift: Tensor
    """(α/σ²) ⟨y, centre − offset⟩ [b, 1]: what working points lack of centred ones."""
    dtype: torch.dtype
    keep: int

    def sums(self, block: PointBlock, floor: Tensor | None) -> PosteriorSums:
        """The sums over one block; atoms hopelessly below `floor` are not averaged."""
        points = block.points.to(self.dtype)
        logits = self.logits(points, block.start)
        top = logits.topk(min(self.keep, logits.shape[1]), dim=1)
        peak = top.values[:, 0]
        relative = logits.sub_(peak[:, None]).to(self.dtype)
        matters = self.matters(relative, peak, floor)
        weights = exp_or_zero(relative)
        norms = self.members.norms[block.start : block.start + len(points)]
        return PosteriorSums(
            peak,
            weights.sum(1, dtype=torch.float64),
            self.average(points, weights, matters),
            torch.linalg.vecdot(weights, relative).double(),
            torch.linalg.vecdot(weights, weights).double(),
            (weights @ norms.to(self.dtype)).double(),
            top.values,
            top.indices + block.start,
        )

    def logits(self, points: Tensor, start: int) -> Tensor:
        """The logits [b, n], float64, short of −‖y‖² / (2σ²)."""
        these = slice(start, start + len(points))
        logits = (self.centred @ points.T).double().mul_(self.gain).sub_(self.shift)
        logits.addcmul_(self.half, self.members.norms[None, these], value=-1)
        return logits.add_(self.members.log_weights[these])

    def matters(self, relative: Tensor, peak: Tensor, floor: Tensor | None) -> Tensor:
        """Which atoms [n] can matter to any query, given the largest logits found so far."""
        cut = torch.full_like(peak, NEGLIGIBLE)
        if floor is not None:
            cut += (floor - peak).clamp(min=0)
        return (relative > cut[:, None]).any(0)

    def average(self, points: Tensor, weights: Tensor, matters: Tensor) -> Tensor:
        """Σ weights · points [b, D], over the atoms that matter."""
        if int(matters.sum()) <= len(points) // 2:
            chosen = matters.nonzero()[:, 0]
            weights, points = weights[:, chosen], points[chosen]
        if len(points) <= SUMMED:
            return (weights @ points).double()
        whole = len(points) // SUMMED * SUMMED
        parts = weights[:, :whole].unflatten(1, (-1, SUMMED)).transpose(0, 1)
        total = torch.bmm(parts, points[:whole].unflatten(0, (-1, SUMMED))).double().sum(0)
        return total.add_(weights[:, whole:] @ points[whole:])
