"""What a packed store knows of its classes beforehand: centres, norms, spectra.

Found once, when the store is packed, by the same passes over the same blocks as an oracle would
make: a class is then ready for queries without being read for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, PointSet, Prepared
from floracle.core.spectrum import PASS_BYTES, dimension, moments, spectrum
from floracle.data.rows.rows import Rows
from floracle.data.rows.tensorfile import TensorFile, read_header
from floracle.run.errors import InputError

from .manifest import PackedManifest

NAMES = (
    *("labels", "counts", "eigenvalues", "variance", "largest", "norms", "spectra"),
    "centres",
)
"""Arrays by class, one after the other; wide types first."""


def prepare(source: PointSet, label: int, *, with_spectrum: bool) -> Prepared:
    """Read a class for what may be known of it."""
    found = moments(source, label)
    centre = found.mean.float().double()
    norms, start, largest = torch.empty(len(source.atoms(label).rows)).double(), 0, 0.0
    for block in source.blocks(label, rows=max(1, PASS_BYTES // (8 * dimension(source)))):
        points = block.points.double()
        # kept in one piece: small results between large blocks would leave holes in the heap
        norms[start : start + len(points)] = (points - centre).square().sum(1)
        largest = max(largest, float(points.square().sum(1).max()))
        start += len(points)
    return Prepared(
        centre,
        norms,
        float(found.variance.sum()),
        largest**0.5,
        spectrum(source, label) if with_spectrum else None,
    )


def arrays_of(labels: Sequence[int], found: Sequence[Prepared]) -> dict[str, Tensor]:
    """Several classes as the arrays that are stored."""
    none = torch.zeros(0, dtype=torch.float64)
    spectra = [none if known.spectrum is None else known.spectrum for known in found]
    arrays = {
        "labels": torch.tensor(labels),
        "counts": torch.tensor([len(known.norms) for known in found]),
        "eigenvalues": torch.tensor([len(values) for values in spectra]),
        "variance": torch.tensor([known.variance for known in found], dtype=torch.float64),
        "largest": torch.tensor([known.largest for known in found], dtype=torch.float64),
        "norms": torch.cat([known.norms for known in found]),
        "spectra": torch.cat(spectra),
        "centres": torch.stack([known.centre for known in found]).float(),
    }
    return {name: arrays[name] for name in NAMES}


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """The classes of one file, and the whole set; read when they are asked for."""

    file: TensorFile

    def prepared(self, label: int = NO_LABEL) -> Prepared | None:
        """What is known of a class; None where there is no such class."""
        number = self._numbers.get(label)
        if number is None:
            return None
        spectra = self._part("spectra", "eigenvalues", number)
        return Prepared(
            self._arrays["centres"][number : number + 1][0].double(),
            self._part("norms", "counts", number),
            float(self._arrays["variance"][number : number + 1]),
            float(self._arrays["largest"][number : number + 1]),
            spectra if len(spectra) else None,
        )

    def _part(self, name: str, counts: str, number: int) -> Tensor:
        ends = self._ends[counts]
        start = int(ends[number - 1]) if number else 0
        return self._arrays[name][start : int(ends[number])]

    @cached_property
    def _arrays(self) -> dict[str, Rows]:
        return dict(zip(NAMES, self.file.rows(*NAMES), strict=True))

    @cached_property
    def _ends(self) -> dict[str, Tensor]:
        return {name: self._arrays[name][:].cumsum(0) for name in ("counts", "eigenvalues")}

    @cached_property
    def _numbers(self) -> dict[int, int]:
        """Where each class stands; a single class is the whole set as well."""
        labels = self._arrays["labels"][:].tolist()
        numbers = {label: number for number, label in enumerate(labels)}
        return numbers if NO_LABEL in numbers else numbers | {NO_LABEL: 0}


def known_labels(manifest: PackedManifest) -> list[int]:
    """The classes that are kept, in order, the whole set last unless it is the only class."""
    labels = [span.label for span in manifest.spans if span.label >= 0]
    return labels if labels and len(manifest.spans) == 1 else [*labels, NO_LABEL]


def read_class_statistics(path: Path, manifest: PackedManifest) -> ClassStatistics:
    """The file of a store, checked against its manifest."""
    file = read_header(path)
    count, dims = len(known_labels(manifest)), prod(manifest.shape)
    shapes = {name: entry.shape for name, entry in file.entries.items()}
    fits = set(shapes) == set(NAMES) and all(shapes[name] == (count,) for name in NAMES[:5])
    if not fits or shapes["centres"] != (count, dims):
        raise InputError(f"{path} does not fit its manifest: it holds {shapes}; pack again")
    known = ClassStatistics(file)
    labels, counts, eigenvalues = (array[:] for array in file.rows(*NAMES[:3]))
    sums = {"norms": int(counts.sum()), "spectra": int(eigenvalues.sum())}
    if labels.tolist() != known_labels(manifest) or any(
        shapes[name] != (sums[name],) for name in sums
    ):
        raise InputError(f"{path} does not fit its manifest: other classes are in it; pack again")
    return known
