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

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .point_set import NO_LABEL, PointSet, prepared
from .spectrum import dimension, moments

KEPT = 512
"""Coordinates of a point that are held, at most."""
SPANNED = 1024
"""Directions that bands are made of, at most."""
SAMPLE = 4096
"""Points that the directions are taken from, at most."""
NUMBERS = 2**24
"""Numbers of the sample, and of the directions, at most: both shrink where points are large."""
BLOCK = 2**23
"""Numbers of a float64 block of points whose coordinates are taken."""
SWEEPS = 3
"""Subspace iterations; more would turn the directions by less than sampling did."""


@dataclass(frozen=True)
class CoarseView:
    """Leading coordinates of the atoms of a class (or of all atoms, in their order)."""

    centre: Tensor
    """What is subtracted first, float64 [D] in float32's values."""
    directions: Tensor
    """Rows orthonormal to rounding, float32 [L, D], leading ones first."""
    edges: tuple[int, ...]
    """Coordinates are held along directions[: edges[0]]; bands lie between consecutive edges, the
    last of which is L; one more band is all that no direction spans."""
    coordinates: Tensor
    """V z of every atom along the first edges[0] directions, float32 or float16 [n, edges[0]]."""
    remainders: Tensor
    """Upper bounds of the length of z in every band, float32 [n, len(edges)]."""

    def __len__(self) -> int:
        return len(self.coordinates)

    def part(self, rows: slice | Tensor) -> CoarseView:
        """The same view of some of the atoms, such as those of a class."""
        return replace(self, coordinates=self.coordinates[rows], remainders=self.remainders[rows])


@dataclass(frozen=True)
class Frame:
    """Directions and bands, ready to be looked along; made by `frame_of`."""

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
        _check_edges(edges, len(directions))
        wide = directions.double()
        return cls(
            centre, directions, edges, wide, orthogonality_defect(wide) + product_rounding(wide)
        )

    def of_block(self, points: Tensor, *, half: bool = False) -> CoarseView:
        """Points [n, D] seen along the directions; coordinates in float16 if `half`."""
        centred = points.flatten(1).double() - self.centre
        squared = centred.square().sum(1)
        length, along = squared.sqrt(), centred @ self.wide.T
        first, last = self.edges[0], self.edges[-1]
        held = along[:, :first].to(torch.float16 if half else torch.float32)
        if not held.isfinite().all():
            raise ValueError("coordinates exceed float16; keep them in float32 (half=False)")
        bands = [part.norm(dim=1) + self.slack * length for part in self._bands(along)]
        if last < centred.shape[1]:
            beyond = (squared - along.square().sum(1)).clamp(min=0)
            bands.append((beyond + 4 * self.slack * squared).sqrt())
        else:  # nothing is left that no direction spans
            bands.append(torch.zeros_like(length))
        remainders = torch.stack(bands, 1) * (1 + 2.0**-22)
        return CoarseView(self.centre, self.directions, self.edges, held, remainders.float())

    def _bands(self, along: Tensor) -> tuple[Tensor, ...]:
        widths = [high - low for low, high in zip(self.edges, self.edges[1:], strict=False)]
        return along[:, self.edges[0] :].split(widths, 1) if widths else ()


def coarse_view(
    source: PointSet,
    label: int = NO_LABEL,
    *,
    kept: int | None = None,
    half: bool = False,
    frame: Frame | None = None,
    seed: int = 0,
) -> CoarseView:
    """The coarse view of a class in one pass (and one for its mean, where that is not known).

    `kept` coordinates are held, by default a quarter of the dimensions and 512 at most; `half`
    holds them in float16. Another class's `frame` may be used as well. A source that keeps such a
    view is not read, if nothing else is asked for.
    """
    held = known_coarse(source, label) if frame is None and kept is None else None
    if held is not None:
        return held
    frame = frame or frame_of(source, label, kept=kept, seed=seed)
    count, first = len(source.atoms(label).rows), frame.edges[0]
    coordinates = torch.empty(count, first, dtype=torch.float16 if half else torch.float32)
    remainders = torch.empty(count, len(frame.edges))
    rows, start = max(1, BLOCK // dimension(source)), 0
    for block in source.blocks(label, rows=rows):
        found, here = (
            frame.of_block(block.points, half=half),
            slice(start, start + len(block.rows)),
        )
        coordinates[here], remainders[here] = found.coordinates, found.remainders
        start += len(block.rows)
    return CoarseView(frame.centre, frame.directions, frame.edges, coordinates, remainders)


def known_coarse(source: PointSet, label: int = NO_LABEL) -> CoarseView | None:
    """The coarse view that a source keeps of a class; None where it keeps none."""
    known = getattr(source, "coarse", None)
    return known(label) if known is not None else None


def kept_coordinates(source: PointSet) -> int:
    """How many coordinates of every point a source keeps; 0 where it keeps no coarse view."""
    return int(getattr(source, "kept", 0))


def frame_of(
    source: PointSet, label: int = NO_LABEL, *, kept: int | None = None, seed: int = 0
) -> Frame:
    """The leading directions of a class, from a sample of it, and bands that suit them."""
    known = prepared(source, label)
    centre = known.centre if known is not None else moments(source, label).mean.float().double()
    dims, rows = len(centre), source.atoms(label).rows
    sample = max(2, min(SAMPLE, NUMBERS // dims, len(rows)))
    drawn = torch.Generator().manual_seed(seed)
    some = rows[torch.randperm(len(rows), generator=drawn)[:sample].sort().values]
    centred = source.take(some).flatten(1).double() - centre
    spanned = max(1, min(SPANNED, dims, NUMBERS // dims, len(some)))
    directions = leading_directions(centred.float(), spanned, seed=seed)
    return Frame.along(centre, directions, default_edges(spanned, dims, kept))


def default_edges(spanned: int, dims: int, kept: int | None = None) -> tuple[int, ...]:
    """Band edges: a quarter of the dimensions held (512 at most), four bands beyond them."""
    first = min(kept or KEPT, spanned)
    if kept is None:
        first = max(1, min(first, 2 ** max(0, dims.bit_length() - 3)))
    beyond = spanned - first
    return tuple(dict.fromkeys(first + beyond * quarter // 4 for quarter in range(5)))


def leading_directions(centred: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Leading principal directions of points [m, D], float32 [count, D], by subspace iteration.

    Halko, Martinsson, Tropp 2011, Algorithm 4.4; orthonormal whatever the points are.
    """
    drawn = torch.Generator().manual_seed(seed)
    centred = centred / 2.0 ** centred.abs().max().frexp().exponent  # products stay in float32
    basis = torch.randn(centred.shape[1], count, generator=drawn)
    for _ in range(SWEEPS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    seen = (centred @ basis).double()
    _, turn = torch.linalg.eigh(seen.T @ seen)
    return torch.linalg.qr(basis.double() @ turn.flip(1)).Q.T.float().contiguous()


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


def _check_edges(edges: Sequence[int], spanned: int) -> None:
    if list(edges) != sorted(set(edges)) or edges[0] < 1 or edges[-1] != spanned:
        raise ValueError(f"edges must rise from at least 1 to {spanned}, got {tuple(edges)}")
