"""What of unseen data has settled by a time τ: it is mixed with fresh noise, and a field goes on.

From x_τ = τ datum + (1 − τ) noise the field is followed to the end (Fig 6). With P the projection
on a band of frequencies, of a datum and of m noises of its own,

    apart(τ) = E‖P(end − datum)‖² / 2V,        spread(τ) = E Var_noise[P end] / V,

V = E‖P(datum − class mean)‖² the variance of the band. Both are 0 where the band is settled by τ
and 1 where it is drawn afresh, as from one datum of the class to another. Layout, the low
frequencies, settles before detail. The distance to the nearest training points tells whether the
field finishes what it never saw as itself or as something that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Landmark, bootstrap_means, landmark
from floracle.analysis.forward_pairs import ratio
from floracle.analysis.serialization import (
    as_results,
    check_ends,
    check_kind,
    check_shapes,
    number,
    reading,
    words,
)
from floracle.analysis.trajectories.frequency_bands import HALF, LAYOUT, radial_bands
from floracle.core.fields import VelocityField
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.core.seeds import noise
from floracle.core.spectrum import moments
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance
from floracle.sampling.grid import check_grid, split_grid, time_grid
from floracle.sampling.sample import sample

from .field_switching import COPIED, SHOWN, checked_taus, given_labels, near_in_class, share_of

AT_ONCE = 256
"""Samples that are followed together at most."""


@dataclass(frozen=True)
class ForwardBackwardResult:
    """Where a field ends that goes on from unseen data and noise mixed at τ (Fig 6)."""

    kind: ClassVar[str] = "resume"
    taus: Tensor
    """float64 [K], increasing; at 0 there is noise alone, at 1 the datum itself."""
    bands: tuple[str, ...]
    """The bands of frequencies in words, lowest first: layout before detail."""
    rows: Tensor
    """The rows of the unseen data, int64 [b]."""
    off: Tensor
    """‖P(end − datum)‖² by band, averaged over noises, float64 [b, B, K]."""
    within: Tensor
    """The variance of P end among the noises of a datum, float64 [b, B, K]."""
    variance: Tensor
    """‖P(datum − class mean)‖², float64 [b, B]."""
    own: Tensor
    """Distance of the data themselves to the nearest training point, float64 [b]."""
    first: Tensor
    """Distance of the ends to the nearest training point of the class, float64 [b, m, K]."""
    second: Tensor
    """Distance to the second nearest."""
    ends: Tensor
    """The first few data and where they end with one noise each, [n, 1 + K, *shape]."""
    dims: int
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def apart(self, band: int) -> Curve:
        """How far the ends are from the data in a band: 0 where it is kept, 1 if drawn afresh."""
        return ratio(self.off[:, band], self._whole(band))

    def spread(self, band: int) -> Curve:
        """How much the ends of one datum vary in a band, as a share of the class's variance."""
        return ratio(self.within[:, band], self._whole(band) / 2)

    def half(self, band: int, *, seed: int = 0) -> Landmark:
        """From which τ on a band is nearer to the datum than half of what chance gives."""
        whole = self._whole(band)
        kept = whole - self.off[:, band]
        again = bootstrap_means(kept, seed) / bootstrap_means(whole, seed)
        return landmark(self.taus, 1 - self.apart(band).mean, again, HALF)

    def distance(self) -> Curve:
        """The distance to the nearest training point by τ, per √D."""
        return Curve.of(self.first.mean(1) / self.dims**0.5)

    def copied(self) -> tuple[Tensor, Tensor, Tensor]:
        """The share of copies, d1 < d2 / 3, by τ with its 95 % interval; [K] each.

        The interval is that of as many draws as there are data, since the noises of one datum
        may all end alike.
        """
        return share_of((self.first < COPIED * self.second).double().mean(1))

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        return as_results(self)

    @classmethod
    def of_results(cls, found: Results) -> ForwardBackwardResult:
        """What was saved."""
        shapes = {"taus": "K", "rows": "b", "own": "b", "variance": "b B", "ends": "n …"}
        shapes |= {"off": "b B K", "within": "b B K", "first": "b m K", "second": "b m K"}
        with reading(cls.kind):
            check_kind(cls.kind, found)
            bands = words(found.values["bands"])
            check_shapes(found.arrays, shapes)
            check_shapes(found.arrays, {"variance": f"b {len(bands)}"})
            arrays = {name: found.arrays[name] for name in shapes}
            check_ends(arrays["ends"], number(found.values["dims"]))
            check_shapes(arrays, {"ends": f"n {1 + len(arrays['taus'])} …"})
            return cls(
                **arrays,
                bands=bands,
                dims=number(found.values["dims"]),
                settings=found.settings,
                provenance=found.provenance,
            )

    def _whole(self, band: int) -> Tensor:
        """2V of every datum, as wide as the times: [b, K]."""
        return 2 * self.variance[:, band, None].expand(-1, len(self.taus))


@torch.no_grad()
def forward_backward(
    field: VelocityField,
    held_out: PointSet,
    data: PointSet,
    *,
    taus: Sequence[float],
    rows: Sequence[int],
    noises: int = 4,
    labelled: bool = True,
    grid: Tensor | None = None,
    path: ProbabilityPath = LINEAR,
    solver: str = "euler",
    edges: Sequence[float] | None = None,
    seed: int = 0,
    shown: int = SHOWN,
) -> ForwardBackwardResult:
    """Mix unseen data with noise at each τ, follow a field from there, and see where it ends.

    `rows` are rows of the held-out set, each with `noises` noises, the same ones at every τ;
    `labelled` asks the field for their classes. Bands part at `edges`, in cycles along the longer
    side, unless told otherwise into layout and detail; points that are no pictures have one band.
    """
    times, names, energies = checked_taus(taus), *_banded(held_out.shape, edges)
    chosen = _checked_rows(rows, held_out, data, noises)
    grid = time_grid(50) if grid is None else check_grid(grid)
    points = held_out.take(chosen)
    labels = held_out.labels[chosen] if labelled else torch.full((len(chosen),), NO_LABEL)
    labels = given_labels(data, labels, len(chosen))
    variance = energies(_centred(held_out, points, labels))
    if not (variance.sum(0) > 0).all():
        raise InputError(
            "the unseen data does not vary in every band; take more rows or fewer bands"
        )
    fresh = noise(range(seed, seed + len(chosen) * noises), held_out.shape)
    mixing = points.repeat_interleave(noises, 0), fresh, labels.repeat_interleave(noises)
    parts, shows = [], [points[:shown]]
    for tau in times.tolist():
        ends = _followed(field, mixing, tau, grid=grid, path=path, solver=solver)
        parts.append(_measured(ends, mixing, data, noises=noises, energies=energies))
        shows.append(ends[::noises][:shown])
    off, within, distances = (torch.stack(each, 2) for each in zip(*parts, strict=True))
    return ForwardBackwardResult(
        taus=times,
        bands=names,
        rows=chosen,
        off=off,
        within=within,
        variance=variance,
        own=near_in_class(data, points, labels, 1)[0][:, 0],
        first=distances[..., 0],
        second=distances[..., 1],
        ends=torch.stack(shows, 1),
        dims=points[0].numel(),
        settings={
            "rows": list(rows),
            "noises": noises,
            "labelled": labelled,
            "steps": len(grid) - 1,
            "solver": solver,
            "path": path.name,
            "seed": seed,
        },
        provenance=provenance(data=data.fingerprint, held_out=held_out.fingerprint),
    )


def _banded(
    shape: Sequence[int], edges: Sequence[float] | None
) -> tuple[tuple[str, ...], Callable[[Tensor], Tensor]]:
    """The names of the bands, and the energies [b, B] by band of points [b, *shape]."""
    if edges is None and (len(shape) != 3 or max(shape[1:]) < 4):
        return ("everything",), lambda points: points.double().flatten(1).square().sum(1)[:, None]
    bands = radial_bands(shape, edges or [LAYOUT])
    return bands.names, bands.energies


def _followed(
    field: VelocityField,
    mixing: tuple[Tensor, Tensor, Tensor],
    tau: float,
    *,
    grid: Tensor,
    path: ProbabilityPath,
    solver: str,
) -> Tensor:
    """Where data, noise and labels mixed at τ end, [b, *shape]; some at a time."""
    if tau >= grid[-1]:
        return mixing[0]
    late, parts = grid if tau <= grid[0] else split_grid(grid, tau)[1], []
    for points, fresh, labels in zip(*(each.split(AT_ONCE) for each in mixing), strict=True):
        x = path.sample(points, fresh, torch.full((len(points),), tau, dtype=torch.float64))
        parts.append(sample(field, x, late, labels=labels, solver=solver, path=path))
    return torch.cat(parts)


def _measured(
    ends: Tensor,
    mixing: tuple[Tensor, Tensor, Tensor],
    data: PointSet,
    *,
    noises: int,
    energies: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """How far ends [b m, *shape] are from their data, from each other, and from training points.

    The first two are by band, [b, B]; the last are the two smallest distances, [b, m, 2].
    """
    points, _, labels = mixing
    grouped = ends.double().unflatten(0, (-1, noises))
    around = energies((grouped - grouped.mean(1, keepdim=True)).flatten(0, 1))
    return (
        energies(ends - points).unflatten(0, (-1, noises)).mean(1),
        around.unflatten(0, (-1, noises)).sum(1) / (noises - 1),
        near_in_class(data, ends, labels, 2)[0].unflatten(0, (-1, noises)),
    )


def _centred(held_out: PointSet, points: Tensor, labels: Tensor) -> Tensor:
    """Points less the mean of their class, float64 [b, *shape]."""
    centred = points.double()
    for label in labels.unique().tolist():
        mean = moments(held_out, label).mean.reshape(held_out.shape)
        centred[labels == label] -= mean
    return centred


def _checked_rows(rows: Sequence[int], held_out: PointSet, data: PointSet, noises: int) -> Tensor:
    if len(rows) < 2 or noises < 2:
        raise InputError(
            f"errors need at least 2 unseen rows and 2 noises of each, got {len(rows)} rows and"
            f" {noises} noises"
        )
    if len(set(rows)) < len(rows):
        raise InputError(
            "a row of the unseen data is named twice; take each once, or errors are off"
        )
    for row in rows:
        if not 0 <= row < len(held_out):
            raise InputError(f"there is no row {row} among the {len(held_out)} that were held out")
    if tuple(held_out.shape) != tuple(data.shape):
        raise InputError(
            f"held-out points have shape {tuple(held_out.shape)}, those of the data"
            f" {tuple(data.shape)}"
        )
    return torch.tensor(list(rows))
