"""The patch-local oracle: every pixel is averaged by what lies around it alone.

With Ω a square window around a pixel (Kamb & Ganguli 2024, "An analytic theory of creativity in
convolutional diffusion models", the local score machine)

    x̂[pixel] = Σ_i γ_i x_i[pixel],      γ_i = softmax_i( log w_i − ‖x_Ω − α x_i,Ω‖² / (2σ²) ).

A network that sees no further than such windows cannot do better; other than the oracle it puts
training points together. A window that covers the whole image makes it the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from floracle.core.paths import LINEAR, Coefficients, ProbabilityPath
from floracle.core.point_set import NO_LABEL, Block, PointSet
from floracle.oracle.queries import check_label
from floracle.run.errors import InputError

from .gaussian import flatten_samples, velocity_of_mean

DIFFERENCE_BYTES = 2**21
"""The size of the differences between a few queries and a block of points: it stays in cache."""
QUERIES_PER_BLOCK = 8
"""Points in such a block for every query, about."""


@dataclass(frozen=True)
class PatchSums:
    """Sums over some points of e^{l − max} times what is named, for every pixel; float64."""

    max_logit: Tensor
    """[b, H, W]."""
    mass: Tensor
    """Of 1, [b, H, W]."""
    points: Tensor
    """Of the points' own pixels, [b, C, H, W]."""

    @classmethod
    def empty(cls, x: Tensor) -> PatchSums:
        """Over no points, for queries x [b, C, H, W]."""
        zeros = torch.zeros_like(x[:, 0])
        return cls(zeros - torch.inf, zeros, torch.zeros_like(x))

    def merge(self, other: PatchSums) -> PatchSums:
        """Over both sets of points; the other is not empty."""
        highest = torch.maximum(self.max_logit, other.max_logit)
        ours, theirs = (self.max_logit - highest).exp(), (other.max_logit - highest).exp()
        return PatchSums(
            highest,
            self.mass * ours + other.mass * theirs,
            self.points * ours[:, None] + other.points * theirs[:, None],
        )


@dataclass(frozen=True)
class LocalOracle:
    """The patch-local oracle of images [C, H, W]; made by `local_oracle`."""

    data: PointSet
    patch: int
    path: ProbabilityPath

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at samples x [b, C, H, W], times t [b], labels [b]; −1 is the whole set."""
        wide = flatten_samples(x, tuple(self.data.shape)).reshape(x.shape)
        labels = torch.full((len(x),), NO_LABEL) if labels is None else labels.cpu()
        mean, c = torch.empty_like(wide), self.path.coefficients(t.cpu())
        size = max(1, DIFFERENCE_BYTES // (8 * wide[0].numel() * QUERIES_PER_BLOCK))
        for label in labels.unique().tolist():
            check_label(self.data, label)
            for indices in (labels == label).nonzero()[:, 0].split(size):
                mean[indices] = self._mean(wide[indices], c.of(indices), label)
        return velocity_of_mean(mean.flatten(1), x, t, self.path)

    def _mean(self, x: Tensor, c: Coefficients, label: int) -> Tensor:
        """x̂ [b, C, H, W] of one class."""
        rows = max(1, DIFFERENCE_BYTES // (8 * x.numel()))
        blocks = self.data.blocks(label, rows=rows)
        block_sums = (self._block_sums(block, x, c) for block in blocks)
        sums = reduce(PatchSums.merge, block_sums, PatchSums.empty(x))
        return sums.points / sums.mass[:, None]

    def _block_sums(self, block: Block, x: Tensor, c: Coefficients) -> PatchSums:
        points = block.points.double().reshape(-1, *self.data.shape)  # [n, C, H, W]
        differences = x[:, None] - c.alpha.reshape(-1, 1, 1, 1, 1) * points  # [b, n, C, H, W]
        rows, columns = (_window_sums(size, self.patch) for size in self.data.shape[1:])
        # ‖x_Ω − α x_i,Ω‖² around every pixel, [b, n, H, W]: sums over rows, then over columns
        distances = rows @ differences.square_().sum(2) @ columns
        logits = distances.div_(-2 * c.sigma.square().reshape(-1, 1, 1, 1))
        logits += block.weights.log()[:, None, None]
        max_logit = logits.amax(1)
        weights = (logits - max_logit[:, None]).exp_()
        averaged = torch.einsum("bnhw,nchw->bchw", weights, points)
        return PatchSums(max_logit, weights.sum(1), averaged)


def local_oracle(source: PointSet, *, patch: int, path: ProbabilityPath = LINEAR) -> LocalOracle:
    """The patch-local oracle of images, with square windows of `patch` × `patch` pixels.

    A window is centred on its pixel and clipped at the border, so `patch` is odd. With 1 every
    pixel is alone; from 2 max(H, W) − 1 on every window is the whole image.
    """
    if len(source.shape) != 3:
        raise InputError(f"patches need pictures [C, H, W], but points are {list(source.shape)}")
    if patch < 1 or patch % 2 == 0:
        raise InputError(f"a patch is an odd number of pixels wide, to have a centre, got {patch}")
    return LocalOracle(source, patch, path)


def _window_sums(size: int, patch: int) -> Tensor:
    """The matrix that sums windows of `patch` pixels in a row of `size`, float64 of 0 and 1."""
    pixels = torch.arange(size)
    return ((pixels[:, None] - pixels).abs() <= patch // 2).double()
