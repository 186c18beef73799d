"""A coarse view of a class: a few leading coordinates of every point, and bounds on the rest.

With the centred point z_i = x_i − centre, orthonormal directions V and bands of them,

    ⟨y, z_i⟩ = ⟨V y, V z_i⟩ + Σ_b ⟨y_b, z_ib⟩,      |⟨y_b, z_ib⟩| ≤ ‖y_b‖ ‖z_ib‖,

so a query that knows a point's first coordinates and the length of its rest in each band knows
its logit to within a bound. Any orthonormal directions are valid; leading ones give tight bounds.

Stored directions are rounded, so they are orthonormal only up to their *defect* ‖V Vᵀ − 1‖. Bands
are those of the nearest orthonormal directions, (V Vᵀ)^(−1/2) V, from which V differs by no more
than the defect; lengths are rounded up by that and by what computing them may have lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .point_set import NO_LABEL, PointSet, prepared
from .spectrum import dimension, moments

MAX_STORED = 512
"""Coordinates of a point that are stored, at most."""
MAX_DIRECTIONS = 1024
"""Directions that bands are made of, at most."""
MAX_SAMPLE = 4096
"""Points that the directions are taken from, at most."""
NUMBERS = 2**24
"""Numbers of the sample, and of the directions, at most: both shrink where points are large."""
BLOCK_NUMBERS = 2**23
"""Numbers of a float64 block of points whose coordinates are taken."""
SWEEPS = 3
"""Subspace iterations; more would turn the directions by less than sampling did."""
FLOAT32_MARGIN = 1 + 2.0**-22
"""Lengths are raised by this before they are rounded to float32, so that they stay bounds."""


@dataclass(frozen=True)
class CoarseView:
    """Leading coordinates of the atoms of a class (or of all atoms, in their order)."""

    centre: Tensor
    """What is subtracted first, float64 [D] in float32's values."""
    directions: Tensor
    """Rows orthonormal to rounding, float32 [L, D], leading ones first."""
    edges: tuple[int, ...]
    """Coordinates are stored along directions[: edges[0]]; bands lie between consecutive edges,
    the last of which is L; one more band is all that no direction spans."""
    coordinates: Tensor
    """V z of every atom along the first edges[0] directions, float32 or float16 [n, edges[0]]."""
    remainders: Tensor
    """Upper bounds of the length of z in every band, float32 [n, len(edges)]."""

    def __len__(self) -> int:
        return len(self.coordinates)


@dataclass(frozen=True)
class Frame:
    """A centre, directions and bands along which points are seen; made by `Frame.along`."""

    centre: Tensor
    directions: Tensor
    edges: tuple[int, ...]
    wide: Tensor
    """The directions in float64."""
    slack: float
    """How far a coordinate vector may be off the orthonormal one, relative to ‖z‖."""

    @classmethod
    def along(cls, centre: Tensor, directions: Tensor, edges: tuple[int, ...]) -> Frame:
        """Directions float32 [L, D] about a centre [D], with bands between `edges`."""
        if list(edges) != sorted(set(edges)) or edges[0] < 1 or edges[-1] != len(directions):
            raise ValueError(
                f"edges must rise from at least 1 to {len(directions)}, got {tuple(edges)}"
            )
        wide = directions.double()
        slack = orthogonality_defect(wide) + product_rounding(wide)
        return cls(centre, directions, edges, wide, slack)

    def of_block(self, points: Tensor, *, half: bool = False) -> CoarseView:
        """Points [n, D] seen along the directions; coordinates in float16 if `half`."""
        z = points.flatten(1).double() - self.centre
        squared = z.square().sum(1)
        length, along = squared.sqrt(), z @ self.wide.T  # ‖z‖ [n], V z [n, L]
        stored = along[:, : self.edges[0]].to(torch.float16 if half else torch.float32)
        if not stored.isfinite().all():
            raise ValueError("coordinates exceed float16; keep them in float32 (half=False)")
        remainders = [
            along[:, low:high].norm(dim=1) + self.slack * length
            for low, high in pairwise(self.edges)
        ]
        if self.edges[-1] < z.shape[1]:  # ‖z‖² less what the directions span, which errs by slack
            beyond = (squared - along.square().sum(1)).clamp(min=0)
            remainders.append((beyond + 4 * self.slack * squared).sqrt())
        else:
            remainders.append(torch.zeros_like(length))
        bounds = (torch.stack(remainders, 1) * FLOAT32_MARGIN).float()
        return CoarseView(self.centre, self.directions, self.edges, stored, bounds)


def coarse_view(
    source: PointSet,
    label: int = NO_LABEL,
    *,
    width: int | None = None,
    half: bool = False,
    frame: Frame | None = None,
    seed: int = 0,
) -> CoarseView:
    """The coarse view of a class in one pass, and one for its mean where that is not known.

    `width` coordinates are stored, by default a quarter of the dimensions and 512 at most; `half`
    stores them in float16. Another class's `frame` may be used as well. A source that keeps such a
    view is not read, if nothing else is asked for.
    """
    read_stored = getattr(source, "coarse", None)
    if frame is None and width is None and read_stored is not None:
        stored = read_stored(label)
        if stored is not None:
            return stored
    frame = frame or frame_of(source, label, width=width, seed=seed)
    count = len(source.atoms(label).rows)
    coordinates = torch.empty(
        count, frame.edges[0], dtype=torch.float16 if half else torch.float32
    )
    remainders = torch.empty(count, len(frame.edges))
    start = 0
    for block in source.blocks(label, rows=max(1, BLOCK_NUMBERS // dimension(source))):
        seen, positions = (
            frame.of_block(block.points, half=half),
            slice(start, start + len(block.rows)),
        )
        coordinates[positions], remainders[positions] = seen.coordinates, seen.remainders
        start += len(block.rows)
    return CoarseView(frame.centre, frame.directions, frame.edges, coordinates, remainders)


def kept_coordinates(source: PointSet) -> int:
    """How many coordinates of every point a source keeps; 0 where it keeps no coarse view."""
    return int(getattr(source, "kept", 0))


def frame_of(
    source: PointSet, label: int = NO_LABEL, *, width: int | None = None, seed: int = 0
) -> Frame:
    """The leading directions of a class, from a sample of it, and bands that suit them."""
    statistics = prepared(source, label)
    centre = (
        statistics.centre
        if statistics is not None
        else moments(source, label).mean.float().double()
    )
    dims, rows = len(centre), source.atoms(label).rows
    count = max(2, min(MAX_SAMPLE, NUMBERS // dims, len(rows)))
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    sample = rows[shuffled[:count].sort().values]
    centred = source.take(sample).flatten(1).double() - centre
    spanned = max(1, min(MAX_DIRECTIONS, dims, NUMBERS // dims, len(sample)))
    directions = leading_directions(centred.float(), spanned, seed=seed)
    return Frame.along(centre, directions, default_edges(spanned, dims, width))


def default_edges(spanned: int, dims: int, width: int | None = None) -> tuple[int, ...]:
    """Band edges: a quarter of the dimensions stored (512 at most), four bands beyond them."""
    first = min(width or MAX_STORED, spanned)
    if width is None:
        first = max(1, min(first, 2 ** max(0, dims.bit_length() - 3)))
    beyond = spanned - first
    return tuple(dict.fromkeys(first + beyond * quarter // 4 for quarter in range(5)))


def leading_directions(centred: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Leading principal directions of points [m, D], float32 [count, D], by subspace iteration.

    Halko, Martinsson, Tropp 2011, Algorithm 4.4; orthonormal whatever the points are.
    """
    generator = torch.Generator().manual_seed(seed)
    centred = centred / 2.0 ** centred.abs().max().frexp().exponent  # products stay in float32
    basis = torch.randn(centred.shape[1], count, generator=generator)
    for _ in range(SWEEPS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q  # [D, count]
    # Within the subspace, the principal directions, largest first.
    projected = (centred @ basis).double()
    _, rotation = torch.linalg.eigh(projected.T @ projected)
    return torch.linalg.qr(basis.double() @ rotation.flip(1)).Q.T.float().contiguous()


def orthogonality_defect(directions: Tensor) -> float:
    """A bound of ‖V Vᵀ − 1‖ for directions float64 [L, D], and of ‖V − V'‖ for the nearest V'."""
    count, dims = directions.shape
    products = directions @ directions.T
    products.diagonal().sub_(1)
    return float(products.norm()) + 2 * count * (dims + 4) * 2.0**-53


def product_rounding(directions: Tensor) -> float:
    """What float64 may lose of V y for directions [L, D], relative to ‖y‖ (Higham 2002, §3.1)."""
    count, dims = directions.shape
    return 2 * (dims + 4) * 2.0**-53 * count**0.5
