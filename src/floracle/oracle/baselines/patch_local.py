"""The patch-local oracle: every pixel is voted on by what lies around it alone.

With Ω a square window around a pixel (Kamb & Ganguli 2024, "An analytic theory of creativity in
convolutional diffusion models", the local score machine)

    x̂[pixel] = Σ_i γ_i x_i[pixel],      γ_i = softmax_i( log w_i − ‖x_Ω − α x_i,Ω‖² / (2σ²) ).

A network that sees no further than such windows cannot do better; other than the oracle it puts
training samples together. A window that covers the whole picture makes it the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.fold import fold
from floracle.core.paths import LINEAR, Coefficients, ProbabilityPath
from floracle.core.point_set import NO_LABEL, Block, PointSet, classes
from floracle.run.errors import InputError

from .gaussian import flat, towards

VOTES_BYTES = 2**21
"""The size of the differences between a few queries and a block of atoms: it stays in cache."""


@dataclass(frozen=True)
class PatchWeights:
    """Sums over some atoms of e^{l − peak} times what is named, for every pixel; float64."""

    peak: Tensor
    """The largest logit, [b, H, W]."""
    mass: Tensor
    """[b, H, W]."""
    points: Tensor
    """Of the atoms' own pixels, [b, C, H, W]."""

    @classmethod
    def empty(cls, x: Tensor) -> PatchWeights:
        """Of no atoms, for queries x [b, C, H, W]."""
        none = torch.zeros_like(x[:, 0])
        return cls(none - torch.inf, none, torch.zeros_like(x))

    def merge(self, other: PatchWeights) -> PatchWeights:
        """Of both sets of atoms; the other is not empty."""
        peak = torch.maximum(self.peak, other.peak)
        ours, theirs = (self.peak - peak).exp(), (other.peak - peak).exp()
        return PatchWeights(
            peak,
            self.mass * ours + other.mass * theirs,
            self.points * ours[:, None] + other.points * theirs[:, None],
        )


@dataclass(frozen=True)
class LocalOracle:
    """The patch-local oracle of pictures [C, H, W]; made by `local_oracle`."""

    data: PointSet
    patch: int
    path: ProbabilityPath

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at samples x [b, C, H, W], times t [b], labels [b]; −1 is the whole set."""
        at = flat(x, tuple(self.data.shape)).reshape(x.shape)
        asked = torch.full((len(x),), NO_LABEL) if labels is None else labels.cpu()
        mean, c = torch.empty_like(at), self.path.coefficients(t.cpu())
        few = max(1, VOTES_BYTES // (8 * at[0].numel() * 8))
        for label in asked.unique().tolist():
            self._check(label)
            for places in (asked == label).nonzero()[:, 0].split(few):
                here = Coefficients(*(values[places] for values in c))
                mean[places] = self._mean(at[places], here, label)
        return towards(mean.flatten(1), x, t, self.path)

    def _mean(self, x: Tensor, c: Coefficients, label: int) -> Tensor:
        """x̂ [b, C, H, W] of one class."""

        def votes(block: Block) -> PatchWeights:
            return self._votes(block, x, c)

        rows = max(1, VOTES_BYTES // (8 * x.numel()))
        found = fold(self.data.blocks(label, rows=rows), votes, PatchWeights.empty(x))
        return found.points / found.mass[:, None]

    def _votes(self, block: Block, x: Tensor, c: Coefficients) -> PatchWeights:
        points = block.points.double().reshape(-1, *self.data.shape)
        apart = x[:, None] - c.alpha.reshape(-1, 1, 1, 1, 1) * points
        rows, columns = (reach(size, self.patch) for size in self.data.shape[1:])
        around = rows @ apart.square_().sum(2) @ columns
        logits = around.div_(-2 * c.sigma.square().reshape(-1, 1, 1, 1))
        logits += block.weights.log()[:, None, None]
        peak = logits.amax(1)
        weights = (logits - peak[:, None]).exp_()
        return PatchWeights(peak, weights.sum(1), torch.einsum("bnhw,nchw->bchw", weights, points))

    def _check(self, label: int) -> None:
        if label != NO_LABEL and label not in classes(self.data):
            raise InputError(f"there is no class {label}; labels are {classes(self.data)}")


def local_oracle(source: PointSet, *, patch: int, path: ProbabilityPath = LINEAR) -> LocalOracle:
    """The patch-local oracle of pictures, with square windows of `patch` × `patch` pixels.

    A window is centred on its pixel and clipped at the border, so `patch` is odd. With 1 every
    pixel is alone; from 2 max(H, W) − 1 on every window is the whole picture.
    """
    if len(source.shape) != 3:
        raise InputError(f"patches need pictures [C, H, W], but points are {list(source.shape)}")
    if patch < 1 or patch % 2 == 0:
        raise InputError(f"a patch is an odd number of pixels wide, to have a centre, got {patch}")
    return LocalOracle(source, patch, path)


def reach(size: int, patch: int) -> Tensor:
    """Which of `size` places in a row lie in whose window, float64 [size, size] of 0 and 1."""
    places = torch.arange(size)
    return ((places[:, None] - places).abs() <= patch // 2).double()
