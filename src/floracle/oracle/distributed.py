"""The share of a point set that one of several processes reads.

A logit needs its own point and the centre of the class, nothing else. So the sums over a share are
those over some blocks, and merged over all processes (log-sum-exp) they are what one process would
have computed alone. Every process ends with the same sums to the last bit, and takes the same
decisions from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from floracle.core.point_set import NO_LABEL, Block, PointSet, WeightedRows
from floracle.run.processes import ProcessGroup, contiguous_share


@dataclass(frozen=True, eq=False)
class ProcessShare:
    """A point set with only this process's share of every class; all else is the whole set's.

    In a class of fewer points than there are processes, some processes have none.
    """

    source: PointSet
    group: ProcessGroup

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return self.source.shape

    @property
    def labels(self) -> Tensor:
        """The class of every row of the whole set, int64 [N]."""
        return self.source.labels

    @property
    def fingerprint(self) -> str:
        """That of the whole set."""
        return self.source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def atoms(self, label: int = NO_LABEL) -> WeightedRows:
        """The points of the share, with their weights in the whole class."""
        rows, weights = self.source.atoms(label)
        share = contiguous_share(len(rows), self.group)
        return WeightedRows(rows[share], weights[share])

    def blocks(self, label: int = NO_LABEL, *, rows: int) -> Iterator[Block]:
        """The points of the share in order, at most `rows` at a time."""
        atoms = self.atoms(label)
        for start in range(0, len(atoms.rows), rows):
            block_rows = atoms.rows[start : start + rows]
            points = self.source.take(block_rows).flatten(1)
            yield Block(block_rows, atoms.weights[start : start + rows], points)

    def take(self, rows: Tensor) -> Tensor:
        """The points of any rows of the whole set."""
        return self.source.take(rows)
