"""The coarse view that a packed store keeps: a few leading coordinates of every row.

With it an oracle that may leave atoms out reads from disk only those that may matter (see
core/coarse_view.py for what is kept, and why any directions are valid). One frame serves the whole
set and every class of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from torch import Tensor

from floracle.core.coarse_view import CoarseView
from floracle.data.rows.tensorfile import TensorFile, read_header
from floracle.run.errors import InputError

from .manifest import PackedManifest

NAMES = ("edges", "centre", "directions", "remainders", "coordinates")


@dataclass(frozen=True, eq=False)
class StoredCoarseView:
    """The view of one file; read when it is asked for."""

    file: TensorFile

    @cached_property
    def band_edges(self) -> tuple[int, ...]:
        """Those of the bands, the coordinates held first."""
        return tuple(self.file.rows("edges")[0][:].tolist())

    def select(self, rows: Tensor) -> CoarseView:
        """That of some rows."""
        centre, directions, coordinates, remainders = self.file.rows(
            "centre", "directions", "coordinates", "remainders"
        )
        everything = len(rows) == len(remainders)
        at = slice(None) if everything else rows
        return CoarseView(
            centre[:].double(),
            directions[:],
            self.band_edges,
            coordinates[at],
            remainders[at],
        )


def read_coarse(path: Path, manifest: PackedManifest) -> StoredCoarseView:
    """The file of a store, checked against its manifest."""
    file, dims = read_header(path), prod(manifest.shape)
    shapes = {name: entry.shape for name, entry in file.entries.items()}
    if set(shapes) != set(NAMES):
        raise InputError(f"{path} does not fit its manifest: it holds {shapes}; pack again")
    edges = file.rows("edges")[0][:].tolist()
    expected = {
        "edges": (len(edges),),
        "centre": (dims,),
        "directions": (edges[-1], dims),
        "coordinates": (manifest.points, edges[0]),
        "remainders": (manifest.points, len(edges)),
    }
    if shapes != expected or edges != sorted(set(edges)):
        raise InputError(f"{path} does not fit its manifest: it holds {shapes}; pack again")
    return StoredCoarseView(file)
