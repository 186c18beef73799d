"""One class, many processes: each reads a contiguous share of the atoms.

A logit needs its own atom and the class's centre, nothing else, so the sums of a share are those
of some blocks, and merging them (log-sum-exp) over processes gives what one process would have
found. Weights are shares of the whole class, positions count through all of it, and small facts
(row numbers, weights, norms) are held by everyone: only points are divided. Every process ends
with the same sums to the last bit, and so decides alike what is to be looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, Block, PointSet, Prepared, WeightedRows, prepared
from floracle.core.spectrum import PASS_BYTES, dimension, moments
from floracle.run.exchange import broadcast_from_first, gather, gather_parts, merge_over_group
from floracle.run.processes import ProcessGroup, contiguous_share

from .class_points import FAR, NARROW, ClassPoints, PointBlock, Stretch, divided
from .posterior import PosteriorSums

S = TypeVar("S", bound=Any)


@dataclass(frozen=True, eq=False)
class ProcessShare:
    """A source that has only this process's atoms of every class; all else is the whole's.

    A class of fewer atoms than there are processes leaves some of them without any.
    """

    source: PointSet
    group: ProcessGroup

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return self.source.shape

    @property
    def labels(self) -> Tensor:
        """The class of every row of the whole, int64 [N]."""
        return self.source.labels

    @property
    def fingerprint(self) -> str:
        """That of the whole."""
        return self.source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def atoms(self, label: int = NO_LABEL) -> WeightedRows:
        """The atoms of the share, with their weights in the whole class."""
        whole = self.source.atoms(label)
        mine = contiguous_share(len(whole.rows), self.group)
        return WeightedRows(whole.rows[mine], whole.weights[mine])

    def blocks(self, label: int = NO_LABEL, *, rows: int) -> Iterator[Block]:
        """The atoms of the share in order, at most `rows` at a time."""
        atoms = self.atoms(label)
        for start in range(0, len(atoms.rows), rows):
            some = atoms.rows[start : start + rows]
            points = self.source.take(some).flatten(1)
            yield Block(some, atoms.weights[start : start + rows], points)

    def take(self, rows: Tensor) -> Tensor:
        """The points of any rows of the whole."""
        return self.source.take(rows)


@dataclass(frozen=True)
class SharedClassPoints(ClassPoints):
    """A class whose points are divided among processes; `points` are those of the share.

    Rows, weights and norms are those of all atoms, and so are positions. A kind of `Members`, so
    that whoever reads blocks and merges what they give needs to know nothing else.
    """

    group: ProcessGroup
    part: slice
    """The positions that this process reads."""

    def about(self, position: int) -> ClassPoints:
        """The class seen from one of its atoms; all processes take part."""
        leader = self.originals(torch.tensor([position], device=self.rows.device))[0]
        seen = replace(self.unshifted(), centre=leader, offset=leader)
        rows = max(1, PASS_BYTES // (8 * self.dims))
        own = [block.points.square().sum(1) for block in seen.blocks(rows, wide=True)]
        norms = _joined(torch.cat([leader.new_zeros(0), *own]), self.group)
        return replace(seen, norms=norms, largest=float(norms.max().sqrt()))

    def blocks(
        self, rows: int, *, wide: bool = False, within: Sequence[Stretch] | None = None
    ) -> Iterator[PointBlock]:
        """The working points of the share in order, at most `rows` at a time.

        With `within` only those of some stretches, which lie in the share.
        """
        whole = Stretch(self.part.start, self.part.stop)
        for start, stop in divided([whole] if within is None else within, rows):
            if self.points is not None:
                begin = self.part.start
                yield PointBlock(start, self.points[start - begin : stop - begin])
                continue
            points = self.source.take(self.rows[start:stop].cpu()).flatten(1)
            yield PointBlock(start, self._shifted(points, wide))

    def originals(self, positions: Tensor) -> Tensor:
        """Original points in float64 [*positions, D], whosever share they lie in."""
        points = _read(self.source, self.rows[positions.flatten()], self.centre.device)
        return points.double().reshape(*positions.shape, self.dims)


def gather_shared_class_points(
    source: PointSet, label: int, *, group: ProcessGroup, room: int, device: torch.device
) -> SharedClassPoints:
    """Read a class together: each process its share, whose points stay where they fit `room`."""
    atoms, known = source.atoms(label), prepared(source, label)
    known = known or measure_distributed(source, label, group)
    centre, part = known.centre, contiguous_share(len(atoms.rows), group)
    far = len(centre) >= NARROW and bool(centre.square().sum() > FAR * known.variance)
    offset = (centre if far else torch.zeros_like(centre)).to(device)
    points = None
    if (part.stop - part.start) * len(centre) * 4 <= room:
        points = _read(source, atoms.rows[part], device)
        points = points - offset.float() if far else points
    return SharedClassPoints(
        source,
        label,
        atoms.rows.to(device),
        atoms.weights.log().to(device),
        centre.to(device),
        offset,
        known.norms.to(device),
        float(known.norms.max().sqrt()) if far else known.largest,
        points,
        group,
        part,
    )


def measure_distributed(source: PointSet, label: int, group: ProcessGroup) -> Prepared:
    """What is to be known of a class before it is asked, in two passes over the shares."""
    mine = ProcessShare(source, group)
    found = merge_over_group(group, moments(mine, label))
    centre = found.mean.float().double()
    norms, squares = [centre.new_zeros(0)], [centre.new_zeros(1)]
    for block in mine.blocks(label, rows=max(1, PASS_BYTES // (8 * dimension(source)))):
        original = block.points.double()
        norms.append((original - centre).square().sum(1))
        squares.append(original.square().sum(1))
    largest = _joined(torch.cat(squares).max()[None], group).max().sqrt()
    every = _joined(torch.cat(norms), group)
    return Prepared(centre, every, float(found.variance.sum()), float(largest), None)


def everywhere(
    members: ClassPoints, parts: Sequence[PosteriorSums], keep: int, *, batch: int
) -> PosteriorSums:
    """The sums over a whole class from those over the blocks that this process has read."""
    if not isinstance(members, SharedClassPoints):
        return PosteriorSums.merged(parts, keep)
    own = PosteriorSums.merged(parts, keep) if parts else _nothing(members, batch)
    return PosteriorSums.merged(gather_parts(members.group, own, what=f"{batch} queries"), keep)


def together(members: ClassPoints, own: S) -> S:
    """A summary over a whole class from that over this process's share; numbers by the first."""
    if not isinstance(members, SharedClassPoints):
        return own
    if isinstance(own, int):
        return cast("S", broadcast_from_first(members.group, [own])[0])
    return merge_over_group(members.group, own)


def _nothing(members: ClassPoints, batch: int) -> PosteriorSums:
    """The sums over no atoms at all."""
    zeros = members.centre.new_zeros(batch)
    sums = {field.name: zeros for field in fields(PosteriorSums)}
    none = members.centre.new_zeros(batch, 0)
    shaped = {"points": zeros[:, None].expand(batch, members.dims), "top_logits": none}
    return PosteriorSums(**{**sums, **shaped, "peak": zeros - torch.inf, "top": none.long()})


def _joined(values: Tensor, group: ProcessGroup) -> Tensor:
    """The values of all processes, one after the other."""
    parts = gather([values], group, what="norms")
    return torch.cat([part[0] for part in parts]).to(values.device)


def _read(source: PointSet, rows: Tensor, device: torch.device) -> Tensor:
    """The points float32 [n, D] of some rows."""
    return source.take(rows.cpu()).flatten(1).to(device)
