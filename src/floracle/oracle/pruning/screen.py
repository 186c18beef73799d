"""A class made ready for pruning: its levels, and a quick guess at who leads.

The guess ranks atoms by the logits that they would have if nothing lay beyond their first few
coordinates. It need not be right: it only decides how much can be left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.coarse_view import CoarseView, orthogonality_defect, product_rounding
from floracle.oracle.class_points import ClassPoints
from floracle.oracle.scan import Queries

from .bfloat16_bounds import Bfloat16Bounds, bfloat16_bounds
from .levels import DOUBLE, SINGLE, BoundLevel, Held, View, bound_level, gamma

WIDTHS = (32, 128, 512, 2048)
"""Coordinates that levels look at, of those that are held."""
SAMPLE = 1024
"""Atoms on which the share of survivors is estimated."""
LEAST = -1e5
"""Logarithms of weights are taken to be no smaller."""
BLOCK = 64
"""Atoms of which only the best is noted at first."""
CANDIDATES = 4
"""Guessed leaders of each query that are looked at in full."""
PIECE = 256
"""Dimensions whose products are summed in float32 before they are joined in float64."""
CUMULATED = 1e-6
"""What rounding y to float32, and differences of its summed squares, may cost of a length."""
MARGIN = 1 + 1e-9
"""Room for the rounding of float64."""


@dataclass(frozen=True)
class Screen:
    """A class made ready for pruning; made by `screen_of`."""

    members: ClassPoints
    centre: Tensor
    """What the coarse view subtracts, float64 [D]."""
    directions: Tensor
    """V, float32 [L, D]."""
    defect: float
    """How far they are from orthonormal."""
    norms: Tensor
    """‖x_i − centre‖², float64 [n]."""
    radius: float
    """At least the largest ‖x_i − centre‖."""
    levels: tuple[BoundLevel, ...]
    """Of more and more coordinates."""
    nearness: Tensor
    """First coordinates, their squared length and log weights, float32 [n, k + 2]."""
    whole: Bfloat16Bounds | None
    """All coordinates to a few digits, where that helps."""

    @property
    def starts(self) -> tuple[BoundLevel | Bfloat16Bounds, ...]:
        """All that may be looked at first of every atom; queries then pass the later levels."""
        return self.levels if self.whole is None else (*self.levels, self.whole)

    @property
    def held(self) -> int:
        """Bytes that are large beside the class itself."""
        if self.members.points is None:
            return room_for(len(self.members), self.levels[-1].width)
        return 0 if self.whole is None else self.whole.points.nbytes

    @property
    def reach(self) -> float:
        """At least the largest norm of an atom."""
        return self.radius + float(self.centre.norm()) * MARGIN

    @property
    def shares_centre(self) -> bool:
        """Whether the coarse view is about the mean of the class."""
        return self.norms is self.members.norms

    def view(self, asked: Queries) -> View:
        """Queries seen along the directions."""
        y = asked.x - asked.alpha[:, None] * self.centre
        along, squared = _along(y, self.directions), torch.linalg.vecdot(y, y)
        squares = torch.nn.functional.pad(along.square().cumsum(1), (1, 0))
        length, half = squared.sqrt() * MARGIN, asked.gain * asked.alpha / 2
        skew, rate = (self.defect + CUMULATED) * length, gamma(PIECE + 4, SINGLE) * length
        count, dims = self.directions.shape
        short = 4 * (skew + rate * count**0.5) * length
        beyond = ((squared - squares[:, -1]).clamp(min=0) + short).sqrt()
        moved = 4 * DOUBLE * (length + asked.alpha * self.centre.norm()) * self.radius
        slip = asked.gain * moved + half * self.radius**2 * gamma(dims + 8, DOUBLE)
        beyond = beyond if count < dims else torch.zeros_like(beyond)
        return View(y, asked.gain, half, length, along, squares, beyond, skew, rate, slip)

    def candidates(self, view: View) -> Tensor:
        """Positions int64 [b, CANDIDATES] of atoms that may well lead."""
        width = self.nearness.shape[1] - 2
        scaled = view.gain[:, None] * view.along[:, :width]
        factors = torch.cat([scaled, -view.half[:, None], torch.ones_like(scaled[:, :1])], 1)
        found = blocked(len(self.nearness), len(scaled), self.nearness)
        torch.mm(self.nearness, factors.float().T, out=found[: len(self.nearness)])
        tops = in_blocks(found).amax(1)
        best = tops.topk(min(CANDIDATES, len(tops)), dim=0).indices.T
        asked = torch.arange(len(scaled), device=found.device)[:, None]
        within = in_blocks(found)[best, :, asked].argmax(2)
        return (best * BLOCK + within).clamp(max=len(self.nearness) - 1)


def _along(y: Tensor, directions: Tensor) -> Tensor:
    """V y, float64 [b, L], from float32 products of short pieces."""
    total = torch.zeros(len(y), len(directions), dtype=torch.float64, device=y.device)
    for some, others in zip(y.float().split(PIECE, 1), directions.split(PIECE, 1), strict=True):
        total += some @ others.T
    return total


def blocked(count: int, queries: int, like: Tensor) -> Tensor:
    """Room for one number of every atom and query, whole blocks of atoms; −∞ beyond them."""
    room = torch.empty(-(-count // BLOCK) * BLOCK, queries, device=like.device)
    room[count:] = -torch.inf
    return room


def in_blocks(values: Tensor) -> Tensor:
    """The same numbers as [blocks, BLOCK, b]."""
    return values.unflatten(0, (-1, BLOCK))


def screen_of(members: ClassPoints, coarse: CoarseView, *, whole: bool = False) -> Screen:
    """Make a class ready for pruning; `coarse` has its atoms in the order of `members`.

    With `whole` all coordinates of a class in memory are held once more, in bfloat16.
    """
    if len(coarse) != len(members):
        raise ValueError(f"the coarse view has {len(coarse)} atoms, the class {len(members)}")
    device = members.centre.device
    centre, directions = coarse.centre.to(device), coarse.directions.to(device)
    norms, wide = _norms(members, centre), directions.double()
    radius, skew = float(norms.max().sqrt()) * MARGIN, orthogonality_defect(wide)
    held = _held(members, coarse, norms, (skew + product_rounding(wide)) * radius)
    widths = [w for w in WIDTHS if w < coarse.edges[0]] + [coarse.edges[0]]
    some = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    some = some.sort().values.to(device)
    levels = tuple(bound_level(held, width, some) for width in widths)
    first = held.coordinates[:, : widths[0]].float()
    nearness = [first, first.square().sum(1, keepdim=True), held.log_weights[:, None]]
    near, everything = torch.cat(nearness, 1), None
    if whole and members.points is not None:
        further = torch.stack([held.norms, held.log_weights], 1)
        everything = bfloat16_bounds(members, centre, further, held.middle, some)
    return Screen(members, centre, directions, skew, norms, radius, levels, near, everything)


def room_for(count: int, kept: int) -> int:
    """About the bytes that the levels of so many atoms take, of which `kept` coordinates are held.

    These lie in float16, once more in float32 for the widest level but one, and the first of all
    in two tables, beside a dozen other numbers.
    """
    return count * (6 * kept + 8 * (WIDTHS[0] + 12))


def _held(members: ClassPoints, coarse: CoarseView, norms: Tensor, off: float) -> Held:
    device, middle = members.centre.device, float(norms.mean())
    return Held(
        coarse.coordinates.to(device),
        coarse.remainders.to(device),
        coarse.edges,
        (norms - middle).float(),
        middle,
        members.log_weights.clamp(min=LEAST).float(),
        off,
    )


def _norms(members: ClassPoints, centre: Tensor) -> Tensor:
    if torch.equal(centre, members.centre):
        return members.norms
    original = members if members.exact else members.unshifted()
    blocks = original.blocks(max(1, 2**22 // members.dims), wide=True)
    return torch.cat([(block.points.double() - centre).square().sum(1) for block in blocks])
