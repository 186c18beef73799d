"""The statistics of classes in a packed store: centres, norms, spectra.

They are computed once, when the store is packed, by the same passes over the same blocks as an
oracle would make: a class is then ready for queries without being read for them.
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

PER_CLASS = ("labels", "counts", "eigenvalues", "variance", "largest")
"""Arrays with one number for each class; `eigenvalues` counts those in `spectra`."""
ARRAYS = (*PER_CLASS, "norms", "spectra", "centres")
"""All arrays of the file, one class after the other; wide types first."""


def compute_statistics(points: PointSet, label: int, *, with_spectrum: bool) -> Prepared:
    """The statistics of a class; reads its points two or three times."""
    class_moments = moments(points, label)
    centre = class_moments.mean.float().double()  # as it is stored: norms are about this centre
    norms, start, largest = torch.empty(len(points.atoms(label).rows)).double(), 0, 0.0
    for block in points.blocks(label, rows=max(1, PASS_BYTES // (8 * dimension(points)))):
        x = block.points.double()  # [n, D]
        # One tensor for all norms: small results between large blocks leave holes in the heap.
        norms[start : start + len(x)] = (x - centre).square().sum(1)  # |x − c|²
        largest = max(largest, float(x.square().sum(1).max()))
        start += len(x)
    return Prepared(
        centre,
        norms,
        float(class_moments.variance.sum()),
        largest**0.5,
        spectrum(points, label) if with_spectrum else None,
    )


def statistics_arrays(labels: Sequence[int], statistics: Sequence[Prepared]) -> dict[str, Tensor]:
    """The statistics of several classes as the arrays of the file."""
    empty = torch.zeros(0, dtype=torch.float64)
    spectra = [empty if each.spectrum is None else each.spectrum for each in statistics]
    arrays = {
        "labels": torch.tensor(labels),
        "counts": torch.tensor([len(each.norms) for each in statistics]),
        "eigenvalues": torch.tensor([len(values) for values in spectra]),
        "variance": torch.tensor([each.variance for each in statistics], dtype=torch.float64),
        "largest": torch.tensor([each.largest for each in statistics], dtype=torch.float64),
        "norms": torch.cat([each.norms for each in statistics]),
        "spectra": torch.cat(spectra),
        "centres": torch.stack([each.centre for each in statistics]).float(),
    }
    return {name: arrays[name] for name in ARRAYS}


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """The statistics of all classes, and of the whole set, in a file; read when they are used."""

    file: TensorFile

    def prepared(self, label: int = NO_LABEL) -> Prepared | None:
        """The statistics of a class; None if there is no such class."""
        i = self._positions.get(label)
        if i is None:
            return None
        spectrum = self._class_slice("spectra", "eigenvalues", i)
        return Prepared(
            self._arrays["centres"][i : i + 1][0].double(),
            self._class_slice("norms", "counts", i),
            float(self._arrays["variance"][i : i + 1]),
            float(self._arrays["largest"][i : i + 1]),
            spectrum if len(spectrum) else None,
        )

    def _class_slice(self, name: str, counts: str, i: int) -> Tensor:
        ends = self._ends[counts]
        start = int(ends[i - 1]) if i else 0
        return self._arrays[name][start : int(ends[i])]

    @cached_property
    def _arrays(self) -> dict[str, Rows]:
        return dict(zip(ARRAYS, self.file.rows(*ARRAYS), strict=True))

    @cached_property
    def _ends(self) -> dict[str, Tensor]:
        return {name: self._arrays[name][:].cumsum(0) for name in ("counts", "eigenvalues")}

    @cached_property
    def _positions(self) -> dict[int, int]:
        """The position of each class in the arrays; a single class is the whole set as well."""
        labels = self._arrays["labels"][:].tolist()
        positions = {label: i for i, label in enumerate(labels)}
        return positions if NO_LABEL in positions else positions | {NO_LABEL: 0}


def labels_with_statistics(manifest: PackedManifest) -> list[int]:
    """The classes in order, and the whole set last unless there is only one class."""
    labels = [span.label for span in manifest.spans if span.label >= 0]
    return labels if labels and len(manifest.spans) == 1 else [*labels, NO_LABEL]


def read_class_statistics(path: Path, manifest: PackedManifest) -> ClassStatistics:
    """Open the statistics of a store, checked against its manifest."""
    file, labels = read_header(path), labels_with_statistics(manifest)
    shapes = {name: entry.shape for name, entry in file.entries.items()}
    expected: dict[str, tuple[int, ...]] = {name: (len(labels),) for name in PER_CLASS}
    expected["centres"] = (len(labels), prod(manifest.shape))
    if shapes.keys() == set(ARRAYS) and expected.items() <= shapes.items():
        stored_labels, counts, eigenvalues = (array[:] for array in file.rows(*PER_CLASS[:3]))
        expected |= {"norms": (int(counts.sum()),), "spectra": (int(eigenvalues.sum()),)}
        if shapes == expected and stored_labels.tolist() == labels:
            return ClassStatistics(file)
    raise InputError(f"{path} does not match its manifest: it holds {shapes}; pack again")
