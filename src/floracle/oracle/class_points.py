"""A class made ready for queries: its centre m, its norms and, where memory allows, its points.

Logits need only inner products with centred points, and the centre may be taken from the query
instead of the points: ⟨y, x_i − m⟩ = ⟨y, x_i⟩ − ⟨y, m⟩, the last term the same for all points. So
the *working points* are the original ones, unless the data lies so far from the origin that the
rounding of ⟨y, x_i⟩ would show; then they are x_i − offset.

Several processes divide the points of a class: each holds and reads a contiguous share of them.
Row numbers, weights and norms are small, and every process has those of the whole class. Positions
count through the whole class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.point_set import PointSet, Prepared, prepared
from floracle.core.spectrum import PASS_BYTES, dimension, moments
from floracle.run.budget import to_device
from floracle.run.exchange import gather, merge_over_group
from floracle.run.processes import ALONE, ProcessGroup, contiguous_share

from .distributed import ProcessShare

FAR_FROM_ORIGIN = 4.0
"""How many times the total variance ‖m‖² may be before the working points are centred."""
FLOAT64_DIMS = 64
"""Below this dimension products are taken in float64. They cost little there, and the rounding of
the query, which moves all logits in the same direction, would show."""
LOADED_BLOCK_BYTES = 2**26
"""Bytes of a block of points on their way into memory."""


class PointBlock(NamedTuple):
    """Consecutive points of a class: positions start … start + len(points) − 1."""

    start: int
    points: Tensor
    """Working points, float32 [n, D]."""


class PositionRange(NamedTuple):
    """Consecutive positions of a class, from `start` up to `stop`."""

    start: int
    stop: int


@dataclass(frozen=True)
class ClassPoints:
    """The distinct points of one class, n of them, or the share of them that a process reads."""

    source: PointSet
    label: int
    rows: Tensor
    """Row numbers of all points, int64 [n]."""
    log_weights: Tensor
    """log w_i of all points, float64 [n]."""
    centre: Tensor
    """The weighted mean m in float32's values, float64 [D]."""
    offset: Tensor
    """Original points less working points: zeros or the centre, float64 [D]."""
    norms: Tensor
    """‖x_i − centre‖² of all points, float64 [n]."""
    largest: float
    """The largest norm of a working point."""
    points: Tensor | None
    """The working points of this process, float32; None where they do not fit in memory."""
    group: ProcessGroup = ALONE
    """The processes that divide the points."""

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def dims(self) -> int:
        """The dimension D of a flattened point."""
        return len(self.centre)

    @cached_property
    def exact(self) -> bool:
        """Whether the working points are the original ones."""
        return not bool(self.offset.any())

    @cached_property
    def precision(self) -> torch.dtype:
        """The type in which inner products are taken."""
        return torch.float64 if self.dims < FLOAT64_DIMS else torch.float32

    @cached_property
    def undivided(self) -> bool:
        """Whether this process reads all points."""
        return self.group.alone

    @cached_property
    def share(self) -> slice:
        """The positions that this process reads."""
        return contiguous_share(len(self), self.group)

    def with_original_points(self) -> ClassPoints:
        """The same class with the original points, streamed: centred ones carry rounding."""
        return replace(self, offset=torch.zeros_like(self.offset), points=None)

    def centred_on(self, position: int) -> ClassPoints:
        """The same class seen from one of its points, in float64 and streamed.

        Where several processes share the class, all of them take part.
        """
        point = self.originals(torch.tensor([position], device=self.rows.device))[0]
        moved = replace(self.with_original_points(), centre=point, offset=point)
        rows = max(1, PASS_BYTES // (8 * self.dims))
        norms = [block.points.square().sum(1) for block in moved.blocks(rows, wide=True)]
        norms = _concatenate_shares(torch.cat([point.new_zeros(0), *norms]), self.group)
        return replace(moved, norms=norms, largest=float(norms.max().sqrt()))

    def blocks(
        self, rows: int, *, wide: bool = False, within: Sequence[PositionRange] | None = None
    ) -> Iterator[PointBlock]:
        """The working points of the share in order, at most `rows` at a time.

        They are shifted in float64 if `wide`; with `within` only those of some ranges are read.
        """
        if self.points is None and within is None and self.undivided:
            start = 0
            for block in self.source.blocks(self.label, rows=rows):  # which may read ahead
                yield PointBlock(start, self._shift(block.points, wide))
                start += len(block.points)
            return
        share = self.share
        for first, stop in [PositionRange(share.start, share.stop)] if within is None else within:
            for start in range(first, stop, rows):
                positions = slice(start, min(start + rows, stop))
                if self.points is None:
                    points = self._shift(_read(self.source, self.rows[positions]), wide)
                else:
                    points = self.points[start - share.start : positions.stop - share.start]
                yield PointBlock(start, points)

    def originals(self, positions: Tensor) -> Tensor:
        """Original points in float64 [*positions, D], whosever share they lie in."""
        flat = positions.flatten()
        if self.points is not None and self.exact and self.undivided:
            points = self.points[flat]
        else:
            points = _read(self.source, self.rows[flat]).to(self.centre.device)
        return points.double().reshape(*positions.shape, self.dims)

    def _shift(self, points: Tensor, wide: bool) -> Tensor:
        """Working points from original ones."""
        points = to_device(points, self.centre.device)
        return points if self.exact else points - (self.offset if wide else self.offset.float())


def gather_class_points(
    source: PointSet,
    label: int,
    *,
    room: int,
    device: torch.device,
    group: ProcessGroup = ALONE,
) -> ClassPoints:
    """Read a class: its moments, its norms, and its points where they fit in `room` bytes.

    Where the source knows moments and norms beforehand, only the points are read. All processes of
    the group take part.
    """
    atoms = source.atoms(label)
    summary = prepared(source, label) or measure_class(source, label, group)
    centre = summary.centre
    far = len(centre) >= FLOAT64_DIMS and bool(
        centre.square().sum() > FAR_FROM_ORIGIN * summary.variance
    )
    offset = centre if far else torch.zeros_like(centre)
    share = contiguous_share(len(atoms.rows), group)
    resident = (share.stop - share.start) * len(centre) * 4 <= room
    return ClassPoints(
        source,
        label,
        atoms.rows.to(device),
        atoms.weights.log().to(device),
        centre.to(device),
        offset.to(device),
        summary.norms.to(device),
        float(summary.norms.max().sqrt()) if far else summary.largest,
        _load(_share_of(source, group), label, offset, device) if resident else None,
        group,
    )


def measure_class(source: PointSet, label: int, group: ProcessGroup = ALONE) -> Prepared:
    """The moments and norms of a class in two passes, each process over its share."""
    share = _share_of(source, group)
    total = merge_over_group(group, moments(share, label))
    centre = total.mean.float().double()
    norms, squares = [centre.new_zeros(0)], [centre.new_zeros(1)]
    for block in share.blocks(label, rows=max(1, PASS_BYTES // (8 * dimension(source)))):
        points = block.points.double()
        norms.append((points - centre).square().sum(1))
        squares.append(points.square().sum(1))
    largest = _concatenate_shares(torch.cat(squares).max()[None], group).max().sqrt()
    norms = _concatenate_shares(torch.cat(norms), group)
    return Prepared(centre, norms, float(total.variance.sum()), float(largest), None)


def _share_of(source: PointSet, group: ProcessGroup) -> PointSet:
    return source if group.alone else ProcessShare(source, group)


def _load(source: PointSet, label: int, offset: Tensor, device: torch.device) -> Tensor:
    """All working points; those that need no change are taken as the source holds them."""
    count, dims, shifted = len(source.atoms(label).rows), len(offset), bool(offset.any())
    if count and getattr(source, "resident", True) and not shifted:
        return to_device(next(iter(source.blocks(label, rows=count))).points, device).contiguous()
    points, start, shift = torch.empty(count, dims, device=device), 0, offset.float().to(device)
    # One block at a time: read as a whole, the class would be in memory twice.
    for block in source.blocks(label, rows=max(1, LOADED_BLOCK_BYTES // (4 * dims))):
        part = points[start : start + len(block.points)]
        part.copy_(to_device(block.points, device))
        start += len(part.sub_(shift) if shifted else part)
    return points


def _read(source: PointSet, rows: Tensor) -> Tensor:
    """The points of some rows, float32 [n, D]."""
    return source.take(rows.cpu()).flatten(1)


def _concatenate_shares(values: Tensor, group: ProcessGroup) -> Tensor:
    """The values of all processes, in the order of their shares."""
    if group.alone:
        return values
    return torch.cat([part[0] for part in gather([values], group, what="norms")]).to(values.device)
