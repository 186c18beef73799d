"""Forward-backward sampling: held-out data is noised to a time τ, and a field samples from there.

From x_τ = τ datum + (1 − τ) noise the field is followed to the end (Fig 6; as in SDEdit,
Meng et al. 2022). With P the projection on a band of frequencies, for a datum and m noises,

    change(τ) = E‖P(sample − datum)‖² / 2V,      spread(τ) = E Var_noise[P sample] / V,

V = E‖P(datum − class mean)‖² the variance of the band. Both are 0 where τ has settled the band,
and 1 where it is drawn afresh, as from one datum of the class to another. Coarse structure, the
low frequencies, settles before detail. The distance to the nearest training points shows whether
the field completes held-out data as itself or as a training point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Landmark, bootstrap_means, find_landmark
from floracle.analysis.forward_pairs import ForwardPairs, ratio
from floracle.analysis.serialization import (
    check_kind,
    check_number,
    check_sample_dims,
    check_shapes,
    damage_is_reported,
)
from floracle.analysis.serialization import check_strings as check_words
from floracle.analysis.trajectories.frequency_bands import (
    COARSE_CYCLES,
    HALF_EXPLAINED,
    radial_bands,
)
from floracle.core.fields import VelocityField
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.core.seeds import noise
from floracle.core.spectrum import moments
from floracle.data.held_out import join_and_warn
from floracle.data.training_points import check_all_points
from floracle.models.field import check_fit
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance
from floracle.sampling.grid import check_grid, split_grid, time_grid
from floracle.sampling.sample import sample

from .field_switching import (
    COPY_RATIO,
    KEPT_SAMPLES,
    SAMPLES_PER_BATCH,
    binomial_share,
    check_labels,
    check_switch_times,
    nearest_in_class,
)
from .result_files import read_arrays, write_fields

Energies = Callable[[Tensor], Tensor]
"""Squared norms by band, [b, *shape] → [b, B]."""

FILE_NAMES = {
    "switch_times": "taus",
    "squared_change": "off",
    "noise_variance": "within",
    "class_variance": "variance",
    "held_out_distance": "own",
    "nearest_distance": "first",
    "second_distance": "second",
    "samples": "ends",
}
SHAPES = {
    "switch_times": "K",
    "rows": "b",
    "squared_change": "b B K",
    "noise_variance": "b B K",
    "class_variance": "b B",
    "held_out_distance": "b",
    "nearest_distance": "b m K",
    "second_distance": "b m K",
    "samples": "n …",
}


@dataclass(frozen=True)
class ForwardBackwardResult:
    """Samples of a field from held-out data noised to τ; made by `forward_backward` (Fig 6)."""

    kind: ClassVar[str] = "resume"
    switch_times: Tensor
    """τ, float64 [K], increasing; at 0 there is noise alone, at 1 the datum itself."""
    bands: tuple[str, ...]
    """Names of the frequency bands, lowest first."""
    rows: Tensor
    """Rows of the held-out set, int64 [b]."""
    squared_change: Tensor
    """‖P(sample − datum)‖² by band, averaged over noises, float64 [b, B, K]."""
    noise_variance: Tensor
    """The variance of P sample among the noises of a datum, float64 [b, B, K]."""
    class_variance: Tensor
    """‖P(datum − class mean)‖², float64 [b, B]."""
    held_out_distance: Tensor
    """Distance of the data themselves to the nearest training point, float64 [b]."""
    nearest_distance: Tensor
    """d₁ of the samples, to the nearest training point of the class, float64 [b, m, K]."""
    second_distance: Tensor
    """d₂, to the second nearest, float64 [b, m, K]."""
    samples: Tensor
    """The first n data, then their samples from one noise at each τ, [n, 1 + K, *shape]."""
    dims: int
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def change(self, band: int) -> Curve:
        """How far samples are from the data in a band: 0 if kept, 1 if drawn afresh."""
        return ratio(self.squared_change[:, band], self._afresh(band))

    def spread(self, band: int) -> Curve:
        """The variance of one datum's samples in a band, as a share of the class's variance."""
        # Two fresh draws are 2 V apart, one varies by V: hence the half.
        return ratio(self.noise_variance[:, band], self._afresh(band) / 2)

    def half_change(self, band: int, *, seed: int = 0) -> Landmark:
        """The τ from which on a band changes by less than half of a fresh draw's change."""
        if len(self.switch_times) < 2:
            return Landmark(None)  # nothing is crossed between one time and itself
        afresh = self._afresh(band)
        preserved = afresh - self.squared_change[:, band]
        resamples = bootstrap_means(preserved, seed) / bootstrap_means(afresh, seed)
        return find_landmark(
            self.switch_times, 1 - self.change(band).mean, resamples, HALF_EXPLAINED
        )

    def distance(self) -> Curve:
        """d₁ by τ, averaged over noises, per √D."""
        return Curve.of(self.nearest_distance.mean(1) / self.dims**0.5)

    def copy_share(self) -> tuple[Tensor, Tensor, Tensor]:
        """The share of copies, d₁ < d₂ / 3, by τ with its 95 % interval; [K] each.

        Data are the independent draws of the interval, since all noises of a datum may end alike.
        """
        copied = self.nearest_distance < COPY_RATIO * self.second_distance
        return binomial_share(copied.double().mean(1))

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        return write_fields(self, FILE_NAMES)

    @classmethod
    def of_results(cls, results: Results) -> ForwardBackwardResult:
        """The inverse of `to_results`."""
        with damage_is_reported(cls.kind):
            check_kind(cls.kind, results)
            bands, dims = (
                check_words(results.values["bands"]),
                check_number(results.values["dims"]),
            )
            arrays = read_arrays(results, SHAPES, FILE_NAMES)
            check_sample_dims(arrays["samples"], dims)
            check_shapes(
                arrays,
                {
                    "class_variance": f"b {len(bands)}",
                    "samples": f"n {1 + len(arrays['switch_times'])} …",
                },
            )
            settings, origin = results.settings, results.provenance
            return cls(**arrays, bands=bands, dims=dims, settings=settings, provenance=origin)

    def _afresh(self, band: int) -> Tensor:
        """2V of every datum, the mean squared change of a fresh draw, at all τ: [b, K]."""
        return 2 * self.class_variance[:, band, None].expand(-1, len(self.switch_times))


@torch.no_grad()
def forward_backward(
    field: VelocityField,
    held_out: PointSet,
    data: PointSet,
    *,
    switch_times: Sequence[float],
    rows: Sequence[int],
    noises: int = 4,
    labelled: bool = True,
    grid: Tensor | None = None,
    path: ProbabilityPath = LINEAR,
    solver: str = "euler",
    edges: Sequence[float] | None = None,
    seed: int = 0,
    kept_samples: int = KEPT_SAMPLES,
) -> ForwardBackwardResult:
    """Noise held-out data to each τ, sample from there with a field, and compare (Fig 6).

    - `held_out`, `data`: Points that were not trained on, and the training points that distances
      are taken to.
    - `switch_times`: τ in [0, 1], increasing.
    - `rows`: At least two rows of the held-out set.
    - `noises`: Noises for each row, the same ones at every τ; at least two.
    - `labelled`: Whether the field gets the classes of the rows.
    - `edges`: Where frequency bands part, in cycles along the longer side; by default into coarse
      structure and detail. Points that are not pictures have one band.
    - `kept_samples`: How many data and their samples the result holds, for pictures.
    """
    check_fit(field, data)
    times = check_switch_times(switch_times)
    names, energies = _choose_bands(held_out.shape, edges)
    check_all_points([field], data)
    held_out = join_and_warn(data, held_out)
    chosen = _check_rows(rows, held_out, noises)
    grid = time_grid(50) if grid is None else check_grid(grid)
    points = held_out.take(chosen)
    labels = held_out.labels[chosen] if labelled else torch.full((len(chosen),), NO_LABEL)
    labels = check_labels(data, labels, len(chosen))
    class_variance = energies(_subtract_class_means(held_out, points, labels))
    if not (class_variance.sum(0) > 0).all():
        raise InputError(
            "the held-out data does not vary in every band; take more rows or fewer bands"
        )

    # m noises for each datum, neighbours in the batch [b m]; the same ones at every τ, so that
    # differences between τ are not those of the noise.
    pairs = ForwardPairs(
        points.repeat_interleave(noises, 0),
        noise(range(seed, seed + len(chosen) * noises), held_out.shape),
        labels.repeat_interleave(noises),
    )
    measures, pictures = [], [points[:kept_samples]]
    for tau in times.tolist():
        samples = _sample_from(field, pairs, tau, grid=grid, path=path, solver=solver)
        measures.append(_compare(samples, pairs, data, noises=noises, energies=energies))
        pictures.append(samples[::noises][:kept_samples])  # the first noise of each datum
    change, variance, distances = (torch.stack(v, 2) for v in zip(*measures, strict=True))
    return ForwardBackwardResult(
        switch_times=times,
        bands=names,
        rows=chosen,
        squared_change=change,
        noise_variance=variance,
        class_variance=class_variance,
        held_out_distance=nearest_in_class(data, points, labels, 1)[0][:, 0],
        nearest_distance=distances[..., 0],
        second_distance=distances[..., 1],
        samples=torch.stack(pictures, 1),
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


def _choose_bands(
    shape: Sequence[int], edges: Sequence[float] | None
) -> tuple[tuple[str, ...], Energies]:
    """The names of the frequency bands, and the squared norms by band."""
    if edges is None and (len(shape) != 3 or max(shape[1:]) < 4):
        return ("everything",), lambda points: points.double().flatten(1).square().sum(1)[:, None]
    bands = radial_bands(shape, edges or [COARSE_CYCLES])
    return bands.names, bands.energies


def _sample_from(
    field: VelocityField,
    pairs: ForwardPairs,
    tau: float,
    *,
    grid: Tensor,
    path: ProbabilityPath,
    solver: str,
) -> Tensor:
    """Samples [b m, *shape] from pairs at τ."""
    if tau >= grid[-1]:
        return pairs.data
    after, samples = grid if tau <= grid[0] else split_grid(grid, tau)[1], []
    for batch in zip(*(values.split(SAMPLES_PER_BATCH) for values in pairs), strict=True):
        x, _, labels = ForwardPairs(*batch).at(tau, path)
        samples.append(sample(field, x, after, labels=labels, solver=solver, path=path))
    return torch.cat(samples)


def _compare(
    samples: Tensor, pairs: ForwardPairs, data: PointSet, *, noises: int, energies: Energies
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared change and noise variance by band, [b, B] each, and d₁ and d₂, [b, m, 2]."""
    by_datum = samples.double().unflatten(0, (-1, noises))  # [b, m, *shape]
    deviations = energies((by_datum - by_datum.mean(1, keepdim=True)).flatten(0, 1))
    return (
        energies(samples - pairs.data).unflatten(0, (-1, noises)).mean(1),
        deviations.unflatten(0, (-1, noises)).sum(1) / (noises - 1),  # unbiased
        nearest_in_class(data, samples, pairs.labels, 2)[0].unflatten(0, (-1, noises)),
    )


def _subtract_class_means(held_out: PointSet, points: Tensor, labels: Tensor) -> Tensor:
    """Points less the mean of their class, float64 [b, *shape]."""
    centred = points.double()
    for label in labels.unique().tolist():
        centred[labels == label] -= moments(held_out, label).mean.reshape(held_out.shape)
    return centred


def _check_rows(rows: Sequence[int], held_out: PointSet, noises: int) -> Tensor:
    """Rows int64 [b] of the held-out set, at least two different ones."""
    if len(rows) < 2 or noises < 2:
        raise InputError(
            f"errors need at least 2 held-out rows and 2 noises of each, got {len(rows)} rows and"
            f" {noises} noises"
        )
    if len(set(rows)) < len(rows):
        raise InputError("a held-out row is named twice; take each once, or errors are too small")
    for row in rows:
        if not 0 <= row < len(held_out):
            raise InputError(f"there is no row {row} among the {len(held_out)} held-out points")
    excluded = set(getattr(held_out, "excluded", [])) & set(rows)
    if excluded:
        raise InputError(
            f"held-out row {min(excluded)} is left out: the training set lacks its class, or has"
            " the row itself; take other rows"
        )
    return torch.tensor(list(rows))
