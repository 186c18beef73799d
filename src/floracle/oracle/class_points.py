"""A class made ready for queries: its centre, its norms and, where memory allows, its points.

Logits need only inner products with centred points, and the centre may be taken from the query
instead of the points: ⟨y, x_i − m⟩ = ⟨y, x_i⟩ − ⟨y, m⟩, the last term the same for all atoms. So
points are kept as they are, unless the data sits so far from the origin that rounding of ⟨y, x_i⟩
would show; then the working copy is x_i − offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.point_set import PointSet, prepared
from floracle.core.spectrum import PASS_BYTES, moments
from floracle.run.budget import to_device

FAR = 4.0
"""How many times the spread the centre's squared norm may be before points are kept centred."""
BLOCK_BYTES = 2**26
"""The size of a block of points on their way into memory."""
NARROW = 64
"""Below this dimension products are taken in float64: they cost little there, and rounding of the
query, which moves all logits in the same direction, would show."""


class PointBlock(NamedTuple):
    """Some atoms of a class in order: positions start … start + len(points) − 1."""

    start: int
    points: Tensor
    """Working points, float32 [n, D]."""


class Stretch(NamedTuple):
    """Consecutive atoms of a class: from the position `start` up to `stop`."""

    start: int
    stop: int


def divided(stretches: Sequence[Stretch], rows: int) -> Iterator[Stretch]:
    """The same atoms in pieces of at most `rows`."""
    for start, stop in stretches:
        for begin in range(start, stop, rows):
            yield Stretch(begin, min(begin + rows, stop))


@dataclass(frozen=True)
class ClassPoints:
    """The atoms of one class."""

    source: PointSet
    label: int
    rows: Tensor
    """Row numbers, int64 [n]."""
    log_weights: Tensor
    """float64 [n]."""
    centre: Tensor
    """The weighted mean in float32's values, float64 [D]."""
    offset: Tensor
    """What the working points are short of the original ones: zeros or the centre, [D]."""
    norms: Tensor
    """‖x_i − centre‖², float64 [n]."""
    largest: float
    """The largest norm of a working point."""
    points: Tensor | None
    """All working points, float32 [n, D], where they fit the budget."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dims(self) -> int:
        """The dimension D of a flattened point."""
        return len(self.centre)

    @property
    def exact(self) -> bool:
        """Whether the working points are the original ones."""
        return not bool(self.offset.any())

    @property
    def precision(self) -> torch.dtype:
        """The type in which inner products are taken."""
        return torch.float64 if self.dims < NARROW else torch.float32

    def about(self, position: int) -> ClassPoints:
        """The same class seen from one of its atoms, in float64 and streamed."""
        leader = self.originals(torch.tensor([position], device=self.rows.device))[0]
        seen = replace(self.unshifted(), centre=leader, offset=leader)
        rows = max(1, PASS_BYTES // (8 * self.dims))
        norms = torch.cat([block.points.square().sum(1) for block in seen.blocks(rows, wide=True)])
        return replace(seen, norms=norms, largest=float(norms.max().sqrt()))

    def unshifted(self) -> ClassPoints:
        """The same class with the original points, streamed: centred ones carry rounding."""
        return replace(self, offset=torch.zeros_like(self.offset), points=None)

    def blocks(
        self, rows: int, *, wide: bool = False, within: Sequence[Stretch] | None = None
    ) -> Iterator[PointBlock]:
        """The working points in order, at most `rows` at a time; shifted in float64 if `wide`.

        With `within` only those of some stretches.
        """
        if self.points is None and within is None:
            start = 0
            for block in self.source.blocks(self.label, rows=rows):
                yield PointBlock(start, self._shifted(block.points, wide))
                start += len(block.points)
            return
        for start, stop in divided([Stretch(0, len(self))] if within is None else within, rows):
            if self.points is not None:
                yield PointBlock(start, self.points[start:stop])
            else:
                points = self.source.take(self.rows[start:stop].cpu()).flatten(1)
                yield PointBlock(start, self._shifted(points, wide))

    def _shifted(self, points: Tensor, wide: bool) -> Tensor:
        """Original points as working ones."""
        points = to_device(points, self.centre.device)
        return points if self.exact else points - (self.offset if wide else self.offset.float())

    def originals(self, positions: Tensor) -> Tensor:
        """Original points in float64 [*positions, D]."""
        flat = positions.flatten()
        if self.points is not None and self.exact:
            points = self.points[flat]
        else:
            points = self.source.take(self.rows[flat].cpu()).flatten(1).to(self.centre.device)
        return points.double().reshape(*positions.shape, self.dims)


def gather_class_points(
    source: PointSet, label: int, *, room: int, device: torch.device
) -> ClassPoints:
    """Read a class: its moments, its norms, and its points where they fit `room` bytes.

    Where the source knows moments and norms beforehand only the points are read.
    """
    atoms, known = source.atoms(label), prepared(source, label)
    centre, variance = (known.centre, known.variance) if known else _centre(source, label)
    far = len(centre) >= NARROW and bool(centre.square().sum() > FAR * variance)
    offset = centre if far else torch.zeros_like(centre)
    resident = len(atoms.rows) * len(centre) * 4 <= room
    points = _resident(source, label, offset, device) if resident else None
    if known:
        norms = known.norms
        largest = float(norms.max().sqrt()) if far else known.largest
    else:
        norms, largest = _lengths(source, label, centre, offset)
    return ClassPoints(
        source,
        label,
        atoms.rows.to(device),
        atoms.weights.log().to(device),
        centre.to(device),
        offset.to(device),
        norms.to(device),
        largest,
        points,
    )


def _centre(source: PointSet, label: int) -> tuple[Tensor, float]:
    """The mean in float32's values, and the total variance."""
    found = moments(source, label)
    return found.mean.float().double(), float(found.variance.sum())


def _lengths(source: PointSet, label: int, centre: Tensor, offset: Tensor) -> tuple[Tensor, float]:
    """The squared distances from the centre, and the largest norm of a working point."""
    norms, longest = [], []
    for block in source.blocks(label, rows=max(1, PASS_BYTES // (8 * len(centre)))):
        original = block.points.double()
        norms.append((original - centre).square().sum(1))
        longest.append((original - offset).square().sum(1).max())
    return torch.cat(norms), float(torch.stack(longest).max().sqrt())


def _resident(source: PointSet, label: int, offset: Tensor, device: torch.device) -> Tensor:
    """All working points; those that need no change are taken as the source holds them."""
    count, dims = len(source.atoms(label).rows), len(offset)
    far, held = bool(offset.any()), getattr(source, "resident", True)
    if held and not far:
        return to_device(next(iter(source.blocks(label, rows=count))).points, device).contiguous()
    points, start, shift = torch.empty(count, dims, device=device), 0, offset.float().to(device)
    # a block at a time: as a whole, what it is made of would be held beside it
    for block in source.blocks(label, rows=max(1, BLOCK_BYTES // (4 * dims))):
        part = points[start : start + len(block.points)]
        part.copy_(to_device(block.points, device))
        start += len(part.sub_(shift) if far else part)
    return points
