"""Yardstick fields of Gaussians: what a field would be that knows means and covariances alone.

With data ~ N(m, C) a noisy sample x_t is N(αm, α²C + σ²) and the posterior mean is linear in it,

    x̂ = m + α C (α²C + σ²)⁻¹ (x − αm) = m + Σ_k (αλ_k / (α²λ_k + σ²)) ⟨v_k, x − αm⟩ v_k.

Where points are fewer than dimensions only n − 1 of the λ_k are not 0, and n × n inner products
give them. The noise fills all D dimensions, so every α²C + σ² has full rank at t < 1, and

    log p_t(x) = −½ [ D log 2πσ² + Σ_k log(1 + r²λ_k) + Σ_k z_k² / (α²λ_k + σ²) + ‖rest‖²/σ² ]

are densities of one space whatever the ranks: z_k = ⟨v_k, x − αm⟩, the rest is what these leave of
x − αm, and r = α/σ. So classes of unlike ranks can be weighed against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.paths import LINEAR, Coefficients, ProbabilityPath, convert
from floracle.core.point_set import NO_LABEL, PointSet, classes, mass
from floracle.core.spectrum import PASS_BYTES, dimension, moments
from floracle.run.budget import memory_budget
from floracle.run.errors import InputError


@dataclass(frozen=True)
class Gaussian:
    """The mean and covariance of points; outside its directions the variance is 0. All float64."""

    mean: Tensor
    """m [D]."""
    directions: Tensor
    """Orthonormal columns v_k [D, k]."""
    variances: Tensor
    """λ_k [k], positive, smallest first."""

    def posterior_mean(self, x: Tensor, c: Coefficients) -> Tensor:
        """x̂ at samples x [b, D] where the path's coefficients [b] are c."""
        _, along, total = self._seen(x, c)
        return self.mean + (c.alpha[:, None] * self.variances / total * along) @ self.directions.T

    def log_density(self, x: Tensor, c: Coefficients) -> Tensor:
        """Log p_t(x) [b] in nats, over all D dimensions."""
        apart, along, total = self._seen(x, c)
        rest = (apart - along @ self.directions.T).square().sum(1)
        inside = (total.log() + along.square() / total).sum(1)
        narrow = c.sigma.square()
        free = len(self.mean) - len(self.variances)
        return -(
            inside + free * narrow.log() + rest / narrow + len(self.mean) * math.log(2 * math.pi)
        ) / 2  # fmt: skip

    def _seen(self, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
        """Samples less αm [b, D], their z [b, k], and its variances α²λ + σ² [b, k]."""
        apart = x - c.alpha[:, None] * self.mean
        total = c.alpha.square()[:, None] * self.variances + c.sigma.square()[:, None]
        return apart, apart @ self.directions, total


@dataclass(frozen=True)
class GaussianField:
    """The oracle of one Gaussian; made by `gaussian_field`. Labels change nothing."""

    gaussian: Gaussian
    shape: tuple[int, ...]
    path: ProbabilityPath

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at samples x [b, *shape], times t [b] in [0, 1); as x's type."""
        mean = self.gaussian.posterior_mean(flat(x, self.shape), self.path.coefficients(t.cpu()))
        return towards(mean, x, t, self.path)


@dataclass(frozen=True)
class ClassGaussians:
    """The oracle of a Gaussian for each class, or of their mixture; made by `class_gaussians`."""

    gaussians: Mapping[int, Gaussian]
    log_shares: Tensor
    """Log of the classes' shares of the mass, float64 [C], in the order of the Gaussians."""
    shape: tuple[int, ...]
    path: ProbabilityPath

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at samples x [b, *shape], times t [b], labels [b]; −1 is the mixture."""
        at, c = flat(x, self.shape), self.path.coefficients(t.cpu())
        mean = torch.zeros_like(at)
        for label, shares in self._votes(at, c, labels).items():
            heard = shares > 0
            found = self.gaussians[label].posterior_mean(at[heard], _chosen(c, heard))
            mean[heard] += shares[heard, None] * found
        return towards(mean, x, t, self.path)

    @torch.no_grad()
    def class_posterior(self, x: Tensor, t: Tensor) -> Tensor:
        """p(c | x, t), float64 [b, C]: how likely x is a noisy sample of each Gaussian."""
        return self._weighed(flat(x, self.shape), self.path.coefficients(t.cpu()))

    def _weighed(self, x: Tensor, c: Coefficients) -> Tensor:
        densities = [gaussian.log_density(x, c) for gaussian in self.gaussians.values()]
        return (torch.stack(densities, 1) + self.log_shares).softmax(1)

    def _votes(self, x: Tensor, c: Coefficients, labels: Tensor | None) -> dict[int, Tensor]:
        """The share [b] that each class that is heard has in x̂."""
        asked = torch.full((len(x),), NO_LABEL) if labels is None else labels.cpu()
        unknown = set(asked.unique().tolist()) - {NO_LABEL, *self.gaussians}
        if unknown:
            raise InputError(
                f"there is no class {min(unknown)}; labels are {list(self.gaussians)}"
            )
        votes = (asked[:, None] == torch.tensor(list(self.gaussians))).double()
        mixed = asked == NO_LABEL
        if mixed.any():
            votes[mixed] = self._weighed(x[mixed], _chosen(c, mixed))
        columns = zip(self.gaussians, votes.T, strict=True)
        return {label: shares for label, shares in columns if shares.any()}


def gaussian_field(source: PointSet, *, path: ProbabilityPath = LINEAR) -> GaussianField:
    """The oracle of one Gaussian with the data's weighted mean and covariance.

    It costs the inner products of the smaller side of the data, n × n or D × D, and holds D × that
    many numbers.
    """
    return GaussianField(fitted(source), tuple(source.shape), path)


def class_gaussians(source: PointSet, *, path: ProbabilityPath = LINEAR) -> ClassGaussians:
    """The oracle of a Gaussian for each class; label −1 is their mixture by the classes' mass.

    Every row needs a label.
    """
    labels = classes(source)
    if not labels or (source.labels == NO_LABEL).any():
        raise InputError("a Gaussian a class needs a label on every row; some have none")
    shares = torch.tensor([mass(source, label) for label in labels], dtype=torch.float64)
    gaussians = {label: fitted(source, label) for label in labels}
    return ClassGaussians(gaussians, shares.log(), tuple(source.shape), path)


def fitted(source: PointSet, label: int = NO_LABEL) -> Gaussian:
    """The Gaussian with the weighted mean and covariance of a class; of the whole set for −1."""
    dims, count = dimension(source), len(source.atoms(label).rows)
    small = min(dims, count)
    needed, free = 8 * small * (2 * dims + 2 * small), memory_budget()
    if needed > free:
        raise InputError(
            f"a Gaussian of {count:,} points in {dims:,} dimensions takes {needed >> 20:,} MiB,"
            f" but {free >> 20:,} MiB may be used; measure fewer points or smaller ones"
        )
    mean = moments(source, label).mean
    centred = _centred(source, label, mean)
    return _of_few(centred, mean, count) if count <= dims else _of_many(centred, mean)


def _of_few(centred: Iterator[Tensor], mean: Tensor, count: int) -> Gaussian:
    """From the n × n inner products: an eigenvector u of them is the direction Pᵀu / √λ."""
    points = torch.empty(count, len(mean), dtype=torch.float64)
    start = 0
    for block in centred:
        points[start : start + len(block)] = block
        start += len(block)
    variances, vectors = _leading(points @ points.T)
    return Gaussian(mean, points.T @ (vectors / variances.sqrt()), variances)


def _of_many(centred: Iterator[Tensor], mean: Tensor) -> Gaussian:
    """From the D × D covariance."""
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for block in centred:
        covariance.addmm_(block.T, block)
    variances, vectors = _leading(covariance)
    return Gaussian(mean, vectors, variances)


def _leading(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of a symmetric matrix, without those that are 0 to rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > len(values) * torch.finfo(torch.float64).eps * values[-1]
    return values[kept], vectors[:, kept]


def _centred(source: PointSet, label: int, mean: Tensor) -> Iterator[Tensor]:
    """Atoms less their mean times the root of their weight, float64, block by block."""
    rows = max(64, PASS_BYTES // (8 * len(mean)), len(mean) // 4)
    for block in source.blocks(label, rows=rows):
        yield (block.points.double() - mean) * block.weights.sqrt()[:, None]


def flat(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Samples x [b, *shape] as float64 [b, D] on the CPU; refused where the shape is another."""
    if tuple(x.shape[1:]) != shape:
        raise ValueError(
            f"samples have shape {tuple(x.shape[1:])}, but points of the data {shape}"
        )
    return x.cpu().double().flatten(1)


def towards(mean: Tensor, x: Tensor, t: Tensor, path: ProbabilityPath) -> Tensor:
    """The velocity [b, *shape] at (x, t) of a field whose posterior mean is `mean` [b, D]."""
    known = {"source": "data", "target": "velocity", "path": path}
    found = convert(mean.reshape(x.shape), x.cpu().double(), t.cpu(), **known)
    return found.to(x.device, x.dtype)


def _chosen(c: Coefficients, where: Tensor) -> Coefficients:
    return Coefficients(*(values[where] for values in c))
