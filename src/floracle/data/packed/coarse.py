"""The coarse view of a packed store: a few leading coordinates of every row.

With it an oracle that may leave points out reads from disk only those that may matter (see
core/coarse_view.py for what is stored, and why any directions are valid). One frame serves the
whole set and every class of it.
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


@dataclass(frozen=True, eq=False)
class StoredCoarseView:
    """The coarse view in a file; it is read when it is used."""

    file: TensorFile

    @cached_property
    def band_edges(self) -> tuple[int, ...]:
        """The edges of the bands of coordinates; the first is the number of stored ones."""
        return tuple(self.file.rows("edges")[0][:].tolist())

    def select(self, rows: Tensor) -> CoarseView:
        """The coarse view of some rows."""
        centre, directions, coordinates, remainders = self.file.rows(
            "centre", "directions", "coordinates", "remainders"
        )
        # a slice reads the file in order, which row numbers do not
        selection = slice(None) if len(rows) == len(remainders) else rows
        return CoarseView(
            centre[:].double(),
            directions[:],
            self.band_edges,
            coordinates[selection],
            remainders[selection],
        )


def read_coarse(path: Path, manifest: PackedManifest) -> StoredCoarseView:
    """Open the coarse view of a store, checked against its manifest."""
    view, dims = StoredCoarseView(read_header(path)), prod(manifest.shape)
    shapes = {name: entry.shape for name, entry in view.file.entries.items()}
    edges = view.band_edges if "edges" in shapes else ()
    expected = edges and {
        "edges": (len(edges),),
        "centre": (dims,),
        "directions": (edges[-1], dims),
        "coordinates": (manifest.points, edges[0]),
        "remainders": (manifest.points, len(edges)),
    }
    if shapes != expected or list(edges) != sorted(set(edges)):
        raise InputError(f"{path} does not match its manifest: it holds {shapes}; pack again")
    return view
