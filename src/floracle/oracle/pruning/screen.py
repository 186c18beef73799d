"""A class made ready for pruning: levels of bounds, and a quick guess at the leader of each query.

The guess ranks points by the logits that they would have if nothing lay beyond their first few
coordinates. It need not be right: it only decides how much can be left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.coarse_view import CoarseView, orthogonality_defect, product_rounding
from floracle.oracle.class_points import ClassPoints
from floracle.oracle.queries import Queries

from .bfloat16_bounds import Bfloat16Bounds, make_bfloat16_bounds
from .levels import (
    FLOAT32_UNIT,
    FLOAT64_UNIT,
    BoundLevel,
    PointFeatures,
    ProjectedQueries,
    gamma,
    make_level,
)

WIDTHS = (32, 128, 512, 2048)
"""Coordinates of the levels, of those that are stored."""
SAMPLED_POINTS = 1024
"""Points on which the share of survivors is estimated."""
MIN_LOG_WEIGHT = -1e5
"""Logarithms of weights are taken to be no smaller."""
SCREENED_ROWS = 64
"""Points of which only the best bound is compared at first."""
CANDIDATES = 4
"""Guessed leaders of each query, which are evaluated over all coordinates."""
SUMMED_DIMS = 256
"""Dimensions whose products are summed in float32 before they are joined in float64."""
PROJECTION_ROUNDING = 1e-6
"""What rounding y to float32, and differences of its summed squares, may cost of a length."""
MARGIN = 1 + 1e-9
"""Room for the rounding of float64 norms."""
NORM_COORDINATES = 2**22
"""Coordinates whose norms about another centre are taken together."""


@dataclass(frozen=True)
class Screen:
    """A class made ready for pruning; made by `make_screen`."""

    members: ClassPoints
    centre: Tensor
    """c, what the coarse view subtracts, float64 [D]."""
    directions: Tensor
    """V, float32 [L, D]."""
    defect: float
    """How far they are from orthonormal."""
    norms: Tensor
    """‖x_i − c‖², float64 [n]."""
    radius: float
    """At least the largest ‖x_i − c‖."""
    levels: tuple[BoundLevel, ...]
    """Of more and more coordinates."""
    guess_features: Tensor
    """First coordinates, their squared length and log weights, float32 [n, k + 2]."""
    bfloat16: Bfloat16Bounds | None
    """All coordinates to a few digits, where that helps."""

    @property
    def starts(self) -> tuple[BoundLevel | Bfloat16Bounds, ...]:
        """What may be applied to all points first; survivors then pass the levels behind it."""
        return self.levels if self.bfloat16 is None else (*self.levels, self.bfloat16)

    @property
    def bytes(self) -> int:
        """What is large beside the points of the class themselves."""
        if self.members.points is None:
            return screen_bytes(len(self.members), self.levels[-1].width)
        return 0 if self.bfloat16 is None else self.bfloat16.points.nbytes

    @property
    def max_norm(self) -> float:
        """At least the largest ‖x_i‖."""
        return self.radius + float(self.centre.norm()) * MARGIN

    @property
    def shares_centre(self) -> bool:
        """Whether the coarse view is about the mean of the class."""
        return self.norms is self.members.norms

    def project(self, queries: Queries) -> ProjectedQueries:
        """Queries seen along the directions."""
        y = queries.x - queries.alpha[:, None] * self.centre
        along, squared = _project(y, self.directions), torch.linalg.vecdot(y, y)
        squares = torch.nn.functional.pad(along.square().cumsum(1), (1, 0))
        length, half = squared.sqrt() * MARGIN, queries.gain * queries.alpha / 2
        skew = (self.defect + PROJECTION_ROUNDING) * length
        coordinate_error = gamma(SUMMED_DIMS + 4, FLOAT32_UNIT) * length
        # ‖y‖² less what the directions span, which may be short by the errors of V y
        count, dims = self.directions.shape
        short = 4 * (skew + coordinate_error * count**0.5) * length
        beyond = ((squared - squares[:, -1]).clamp(min=0) + short).sqrt()
        beyond = beyond if count < dims else torch.zeros_like(beyond)
        # float64's rounding of y, and of the two terms of a logit
        moved = 4 * FLOAT64_UNIT * (length + queries.alpha * self.centre.norm()) * self.radius
        rounding = half * self.radius**2 * gamma(dims + 8, FLOAT64_UNIT)
        return ProjectedQueries(
            centred=y,
            gain=queries.gain,
            half=half,
            length=length,
            along=along,
            squares=squares,
            beyond=beyond,
            skew=skew,
            coordinate_error=coordinate_error,
            logit_error=queries.gain * moved + rounding,
        )

    def guess_leaders(self, queries: ProjectedQueries) -> Tensor:
        """Positions int64 [b, CANDIDATES] of points that may well lead."""
        width = self.guess_features.shape[1] - 2
        scaled = queries.gain[:, None] * queries.along[:, :width]
        ones = torch.ones_like(scaled[:, :1])
        factors = torch.cat([scaled, -queries.half[:, None], ones], 1).float()
        guesses = screened_room(len(self.guess_features), len(scaled), self.guess_features)
        torch.mm(self.guess_features, factors.T, out=guesses[: len(self.guess_features)])
        # The best blocks of points, and the best point of each.
        blocks = screened_blocks(guesses)
        best = blocks.amax(1)
        best = best.topk(min(CANDIDATES, len(best)), dim=0).indices.T  # [b, CANDIDATES]
        query = torch.arange(len(scaled), device=guesses.device)[:, None]
        within = blocks[best, :, query].argmax(2)
        return (best * SCREENED_ROWS + within).clamp(max=len(self.guess_features) - 1)


def _project(y: Tensor, directions: Tensor) -> Tensor:
    """V y, float64 [b, L], from float32 products of short pieces."""
    total = torch.zeros(len(y), len(directions), dtype=torch.float64, device=y.device)
    pieces = zip(y.float().split(SUMMED_DIMS, 1), directions.split(SUMMED_DIMS, 1), strict=True)
    for some, others in pieces:
        total += some @ others.T
    return total


def screened_room(count: int, queries: int, like: Tensor) -> Tensor:
    """Room for a number of every point and query, in whole blocks of points; −∞ beyond them."""
    room = torch.empty(-(-count // SCREENED_ROWS) * SCREENED_ROWS, queries, device=like.device)
    room[count:] = -torch.inf
    return room


def screened_blocks(values: Tensor) -> Tensor:
    """The same numbers as [blocks, SCREENED_ROWS, b]."""
    return values.unflatten(0, (-1, SCREENED_ROWS))


def make_screen(members: ClassPoints, coarse: CoarseView, *, bfloat16: bool = False) -> Screen:
    """Make a class ready for pruning; `coarse` has its points in the order of `members`.

    With `bfloat16` all coordinates of a class in memory are stored once more in that type.
    """
    if len(coarse) != len(members):
        raise ValueError(f"the coarse view has {len(coarse)} points, the class {len(members)}")
    device = members.centre.device
    centre, directions = coarse.centre.to(device), coarse.directions.to(device)
    norms, wide = _norms_about(members, centre), directions.double()
    radius, defect = float(norms.max().sqrt()) * MARGIN, orthogonality_defect(wide)
    mean_norm = float(norms.mean())
    features = PointFeatures(
        coarse.coordinates.to(device),
        coarse.remainders.to(device),
        coarse.edges,
        (norms - mean_norm).float(),
        mean_norm,
        members.log_weights.clamp(min=MIN_LOG_WEIGHT).float(),
        coordinate_error=(defect + product_rounding(wide)) * radius,
    )
    widths = [width for width in WIDTHS if width < coarse.edges[0]] + [coarse.edges[0]]
    shuffled = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))
    sample = shuffled[:SAMPLED_POINTS].sort().values.to(device)
    levels = tuple(make_level(features, width, sample) for width in widths)
    first = features.coordinates[:, : widths[0]].float()
    guess = [first, first.square().sum(1, keepdim=True), features.log_weights[:, None]]
    bounds = None
    if bfloat16 and members.points is not None:
        further = torch.stack([features.norms, features.log_weights], 1)
        bounds = make_bfloat16_bounds(members, centre, further, mean_norm, sample)
    return Screen(
        *(members, centre, directions, defect, norms, radius, levels), torch.cat(guess, 1), bounds
    )


def screen_bytes(count: int, coordinates: int) -> int:
    """About the bytes that the levels of so many points take, of so many `coordinates` each.

    These lie in float16, once more in float32 for the widest level but one, and the first of all
    in two tables, beside a dozen other numbers.
    """
    return count * (6 * coordinates + 8 * (WIDTHS[0] + 12))


def _norms_about(members: ClassPoints, centre: Tensor) -> Tensor:
    """‖x_i − c‖², float64 [n]."""
    if torch.equal(centre, members.centre):
        return members.norms
    original = members if members.exact else members.with_original_points()
    blocks = original.blocks(max(1, NORM_COORDINATES // members.dims), wide=True)
    return torch.cat([(block.points.double() - centre).square().sum(1) for block in blocks])
