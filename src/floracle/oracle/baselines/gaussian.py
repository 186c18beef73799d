"""Baselines of Gaussians: the field of a data set of which only means and covariances are known.

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

MIN_BLOCK_ROWS = 64
"""Points of a block at least; with D / 4 of them a product D × D is worth its passes over it."""


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
        _, z, variances = self._project(x, c)
        return self.mean + (c.alpha[:, None] * self.variances / variances * z) @ self.directions.T

    def log_density(self, x: Tensor, c: Coefficients) -> Tensor:
        """Log p_t(x) [b] in nats, over all D dimensions."""
        centred, z, variances = self._project(x, c)
        rest = (centred - z @ self.directions.T).square().sum(1)  # ‖rest‖² [b]
        spanned = (variances.log() + z.square() / variances).sum(1)
        noise_variance, dims = c.sigma.square(), len(self.mean)
        unspanned = (dims - len(self.variances)) * noise_variance.log()
        total = spanned + unspanned + rest / noise_variance + dims * math.log(2 * math.pi)
        return -total / 2

    def _project(self, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
        """Centred samples x − αm [b, D], their z [b, k], and the variances α²λ + σ² [b, k]."""
        centred = x - c.alpha[:, None] * self.mean
        variances = c.alpha.square()[:, None] * self.variances + c.sigma.square()[:, None]
        return centred, centred @ self.directions, variances


@dataclass(frozen=True)
class GaussianField:
    """The oracle of one Gaussian; made by `gaussian_field`. Labels change nothing."""

    gaussian: Gaussian
    shape: tuple[int, ...]
    path: ProbabilityPath

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at samples x [b, *shape], times t [b] in [0, 1); as x's type."""
        flat, c = flatten_samples(x, self.shape), self.path.coefficients(t.cpu())
        return velocity_of_mean(self.gaussian.posterior_mean(flat, c), x, t, self.path)


@dataclass(frozen=True)
class ClassGaussians:
    """The oracle of a Gaussian for each class, or of their mixture; made by `class_gaussians`."""

    gaussians: Mapping[int, Gaussian]
    log_priors: Tensor
    """Log of the classes' shares of the mass, float64 [C], in the order of the Gaussians."""
    shape: tuple[int, ...]
    path: ProbabilityPath

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at samples x [b, *shape], times t [b], labels [b]; −1 is the mixture."""
        flat, c = flatten_samples(x, self.shape), self.path.coefficients(t.cpu())
        mean = torch.zeros_like(flat)
        for label, weights in self._class_weights(flat, c, labels).items():
            weighted = weights > 0
            of_class = self.gaussians[label].posterior_mean(flat[weighted], c.of(weighted))
            mean[weighted] += weights[weighted, None] * of_class
        return velocity_of_mean(mean, x, t, self.path)

    @torch.no_grad()
    def class_posterior(self, x: Tensor, t: Tensor) -> Tensor:
        """p(c | x, t), float64 [b, C]: how likely x is a noisy sample of each Gaussian."""
        return self._posterior(flatten_samples(x, self.shape), self.path.coefficients(t.cpu()))

    def _posterior(self, x: Tensor, c: Coefficients) -> Tensor:
        densities = [gaussian.log_density(x, c) for gaussian in self.gaussians.values()]
        return (torch.stack(densities, 1) + self.log_priors).softmax(1)

    def _class_weights(
        self, x: Tensor, c: Coefficients, labels: Tensor | None
    ) -> dict[int, Tensor]:
        """What each class weighs in x̂, [b]; classes without any weight are left out."""
        labels = torch.full((len(x),), NO_LABEL) if labels is None else labels.cpu()
        unknown = set(labels.unique().tolist()) - {NO_LABEL, *self.gaussians}
        if unknown:
            raise InputError(
                f"there is no class {min(unknown)}; labels are {list(self.gaussians)}"
            )
        weights = (labels[:, None] == torch.tensor(list(self.gaussians))).double()  # [b, C]
        mixed = labels == NO_LABEL
        if mixed.any():
            weights[mixed] = self._posterior(x[mixed], c.of(mixed))
        columns = zip(self.gaussians, weights.T, strict=True)
        return {label: column for label, column in columns if column.any()}


def gaussian_field(source: PointSet, *, path: ProbabilityPath = LINEAR) -> GaussianField:
    """The oracle of one Gaussian with the data's weighted mean and covariance.

    It costs the inner products of the smaller side of the data, n × n or D × D, and holds D × that
    many numbers.
    """
    return GaussianField(fit_gaussian(source), tuple(source.shape), path)


def class_gaussians(source: PointSet, *, path: ProbabilityPath = LINEAR) -> ClassGaussians:
    """The oracle of a Gaussian for each class; label −1 is their mixture by the classes' mass.

    Every row needs a label.
    """
    labels = classes(source)
    if not labels or (source.labels == NO_LABEL).any():
        raise InputError("a Gaussian a class needs a label on every row; some have none")
    priors = torch.tensor([mass(source, label) for label in labels], dtype=torch.float64)
    gaussians = {label: fit_gaussian(source, label) for label in labels}
    return ClassGaussians(gaussians, priors.log(), tuple(source.shape), path)


def fit_gaussian(source: PointSet, label: int = NO_LABEL) -> Gaussian:
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
    blocks = _weighted_blocks(source, label, mean)
    if count <= dims:  # P Pᵀ [n, n], of which an eigenvector u gives the direction Pᵀ u / √λ
        points = torch.empty(count, dims, dtype=torch.float64)
        start = 0
        for block in blocks:
            points[start : start + len(block)] = block
            start += len(block)
        variances, vectors = _positive_eigenpairs(points @ points.T)
        return Gaussian(mean, points.T @ (vectors / variances.sqrt()), variances)
    covariance = torch.zeros(dims, dims, dtype=torch.float64)
    for block in blocks:
        covariance.addmm_(block.T, block)
    variances, vectors = _positive_eigenpairs(covariance)
    return Gaussian(mean, vectors, variances)


def _positive_eigenpairs(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of a symmetric matrix, without those that are 0 to rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    positive = values > len(values) * torch.finfo(torch.float64).eps * values[-1]
    return values[positive], vectors[:, positive]


def _weighted_blocks(source: PointSet, label: int, mean: Tensor) -> Iterator[Tensor]:
    """√w_i (x_i − m), float64 [n, D], block by block."""
    rows = max(MIN_BLOCK_ROWS, PASS_BYTES // (8 * len(mean)), len(mean) // 4)
    for block in source.blocks(label, rows=rows):
        yield (block.points.double() - mean) * block.weights.sqrt()[:, None]


def flatten_samples(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Samples x [b, *shape] as float64 [b, D] on the CPU; refused where the shape is another."""
    if tuple(x.shape[1:]) != shape:
        raise ValueError(
            f"samples have shape {tuple(x.shape[1:])}, but points of the data {shape}"
        )
    return x.cpu().double().flatten(1)


def velocity_of_mean(mean: Tensor, x: Tensor, t: Tensor, path: ProbabilityPath) -> Tensor:
    """The velocity [b, *shape] at (x, t) of a field whose posterior mean is `mean` [b, D]."""
    mean, wide = mean.reshape(x.shape), x.cpu().double()
    velocity = convert(mean, wide, t.cpu(), source="data", target="velocity", path=path)
    return velocity.to(x.device, x.dtype)
