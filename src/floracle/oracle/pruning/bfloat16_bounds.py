"""Upper bounds of logits from all coordinates in bfloat16.

Where processors multiply in bfloat16 several times as fast as in float32, one product over all
coordinates of every atom tells who may matter long before leading coordinates do. With ŷ and ẑ_i
what bfloat16 keeps of g y and of z_i = x_i − c,

    |g ⟨y, z_i⟩ − ⟨ŷ, ẑ_i⟩| ≤ ‖g y − ŷ‖ ‖z_i‖ + ‖ŷ‖ ‖z_i − ẑ_i‖,

and both roundings are known, so the bound is far below that of their units. Products are summed
in float32 and come back in bfloat16 (Higham 2002, §3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from floracle.oracle.class_points import ClassPoints

from .levels import OVERFLOW, ROWS, SINGLE, View, gamma, lowered

COARSE = 2.0**-9
"""The unit roundoff of bfloat16."""
VANISHED = 2.0**-120
"""More than a product of bfloat16 numbers may lose to underflow."""
MARGIN = 1 + 1e-6


@cache
def quick() -> bool:
    """Whether this processor has units that multiply in bfloat16."""
    known = Path("/proc/cpuinfo")
    return known.exists() and " amx_bf16" in known.read_text()


@dataclass(frozen=True)
class Bfloat16Bounds:
    """All coordinates of every atom, to a few digits; made by `whole_of`."""

    points: Tensor
    """ẑ, bfloat16 [n, D]."""
    further: Tensor
    """‖z‖² − μ and log w, float32 [n, 2]."""
    sample: Tensor
    """Features of a few atoms, float32 [s, D + 2]."""
    longest: float
    """At least the largest ‖z‖ and ‖ẑ‖."""
    rounded: float
    """At least the largest ‖z − ẑ‖."""
    largest: Tensor
    """The largest of every further column, float64 [2]."""
    middle: float
    """μ, subtracted from ‖z‖²."""

    @property
    def columns(self) -> int:
        """The number of features."""
        return self.sample.shape[1]

    @property
    def dims(self) -> int:
        """How many of them are coordinates."""
        return self.points.shape[1]

    def coefficients(self, view: View) -> Tensor:
        """What features are multiplied by, float32 [b, columns]; ŷ in bfloat16's values."""
        scaled = (view.gain[:, None] * view.centred).bfloat16()
        return torch.cat([scaled.float(), self._further(view).float()], 1)

    def thresholds(self, view: View, cut: Tensor) -> Tensor:
        """Products below these belong to logits below `cut` [b]; float32, rounded down."""
        return lowered(cut + view.half * self.middle - self._allowance(view))

    def bounds(self, coefficients: Tensor, out: Tensor) -> Tensor:
        """The products of all atoms, no lower than they are, written to float32 [n, b]."""
        factor = coefficients[:, : self.dims].T.bfloat16()
        rest = coefficients[:, self.dims :].T
        pieces = (values.split(ROWS) for values in (self.points, self.further, out))
        for some, further, place in zip(*pieces, strict=True):
            found = some @ factor
            torch.add(found, found.abs().float(), alpha=2 * COARSE, out=place)
            place.addmm_(further, rest)
        return out

    def _allowance(self, view: View) -> Tensor:
        """How far products may be below U + h μ, and U itself below the logit; [b]."""
        exact = view.gain[:, None] * view.centred
        kept = exact.bfloat16().double()
        off, length = (values.norm(dim=1) * MARGIN for values in (exact - kept, kept))
        most, further = length * self.longest, self._further(view).abs() @ self.largest
        cross = off * self.longest + length * self.rounded
        summed = gamma(2 * self.dims, SINGLE) * most + gamma(8, SINGLE) * (2 * most + further)
        found = cross + summed + self.dims * VANISHED + view.slip
        return torch.where(most < OVERFLOW, found, torch.inf)

    def _further(self, view: View) -> Tensor:
        return torch.stack([-view.half, torch.ones_like(view.half)], 1)


def bfloat16_bounds(
    members: ClassPoints, centre: Tensor, further: Tensor, middle: float, some: Tensor
) -> Bfloat16Bounds:
    """The working points of a class about `centre`; `some` are positions of a few atoms."""
    assert members.points is not None
    shift, rounded, longest, parts = members.offset - centre, 0.0, 0.0, []
    for points in members.points.split(max(1, 2**22 // members.dims)):
        exact = points.double() + shift
        kept = exact.bfloat16()
        rounded = max(rounded, float((exact - kept.double()).norm(dim=1).max()))
        longest = max(longest, float(exact.norm(dim=1).max()))
        parts.append(kept)
    points = torch.cat(parts)
    sample = torch.cat([points[some].float(), further[some]], 1)
    rounded = (rounded + 2 * SINGLE * members.largest) * MARGIN  # working points are rounded too
    largest = further.abs().amax(0).double()
    return Bfloat16Bounds(
        points, further, sample, longest * MARGIN + rounded, rounded, largest, middle
    )
