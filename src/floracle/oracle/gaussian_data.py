"""The oracle of data whose training points are Gaussians: an autoencoder's N(μ_i, diag s_i²).

A noisy sample of point i is N(α μ_i, σ² + α² s_i²) in every coordinate, so with v_i = σ² + α² s_i²

    l_i   = log w_i − ½ Σ_d [ (x − α μ_i)² / v_i + log(v_i / σ²) ]
    m_i   = μ_i + (α s_i² / v_i) (x − α μ_i)            the data, given x and i
    x̂     = Σ_i γ_i m_i,        u* = α' x̂ + (σ'/σ) (x − α x̂).

What x tells about i obeys the information law with the part of the variance between points,
E‖m_own − x̂‖²; the part within, E Σ_d s² / (1 + r² s²), belongs to the Gaussians themselves and
carries ½ E Σ_d log(1 + r² s²). Precisions differ at every time, so nothing is shared between times
and everything is float64 products: three to five per block and time. As s → 0 it is `Oracle`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from floracle.core.paths import LINEAR, Coefficients, ProbabilityPath, check_times
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.core.spectrum import PASS_BYTES
from floracle.run.budget import memory_budget

from .pairs.forward_pairs import PairCurves, positions_of_rows
from .posterior import Posterior, PosteriorSums
from .queries import check_label, check_queries

REPORTED_LEADERS = 8
PASSES_PER_BLOCK = 8
"""A block of points is this many times the size of a pass: its products are what costs."""
COPIES = 16
"""Float64 copies of a pair, or of a query, in memory at once."""
MIN_LOGIT = -700.0
"""Logits relative to the largest are bounded here, where e^l is still a float64."""


@runtime_checkable
class GaussianPointSet(PointSet, Protocol):
    """A point set whose points are means, with a standard deviation for every coordinate."""

    def take_stds(self, rows: Tensor) -> Tensor:
        """The standard deviations float32 [len(rows), *shape] of any rows."""
        ...


class GaussianBlock(NamedTuple):
    """Some Gaussians of a class, float64, from the position `start` on."""

    start: int
    log_weights: Tensor
    """[n]."""
    means: Tensor
    """μ [n, D]."""
    variances: Tensor
    """s² [n, D]."""


class GaussianPairs(NamedTuple):
    """p pairs of data μ + s · inner and noise."""

    own: Tensor
    """Positions of the own Gaussians in their class, int64 [p]."""
    rows: Tensor
    """Their rows, int64 [p]."""
    noise: Tensor
    """[p, *shape]."""
    inner: Tensor
    """The noise within the Gaussians, [p, *shape]."""


@dataclass(frozen=True)
class GaussianOracle:
    """The oracle velocity of Gaussian training points, as a velocity field.

    `data` gives the means as points and their deviations by `take_stds`. Exact, in float64.
    `memory` ("4G" or bytes; by default half of the free memory) bounds what is computed at a time.
    """

    data: GaussianPointSet
    path: ProbabilityPath = LINEAR
    memory: int | str | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """u* at samples x [b, *shape], times t [b] in [0, 1), labels int64 [b]; as x's type."""
        velocity = torch.empty_like(x)
        for indices, c, sums in self._query_sums(x, t, labels, REPORTED_LEADERS):
            mean = sums.points / sums.mass[:, None]
            values = c.velocity(x[indices].flatten(1).double(), mean)
            velocity[indices] = values.reshape(-1, *self.data.shape).to(x.dtype)
        return velocity

    @torch.no_grad()
    def posterior(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, *, top: int = REPORTED_LEADERS
    ) -> Posterior:
        """Posterior weights of the training points given x [b, *shape], as for `Oracle`."""
        parts, groups = [], []
        for indices, _, sums in self._query_sums(x, t, labels, top):
            label = NO_LABEL if labels is None else int(labels[indices[0]])
            parts.append(self._posterior(sums, self.data.atoms(label).rows))
            groups.append(indices)
        return Posterior.joined(parts, groups)

    def room(self, label: int = NO_LABEL) -> int:
        """Bytes to work with; classes are read anew whenever they are needed."""
        return memory_budget(self.memory)

    def log_density(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The density log p_t(x) in nats, float64 [b]."""
        sigma = self.path.coefficients(t).sigma
        normal = self._dims / 2 * (2 * math.pi * sigma**2).log()
        return self.posterior(x, t, labels, top=1).log_mass - normal

    def variance(self, label: int = NO_LABEL) -> float:
        """The mean of s² over the points of a class and their coordinates."""
        parts = (block.log_weights.exp() @ block.variances for block in self._blocks(label))
        return sum(float(part.mean()) for part in parts)

    @torch.no_grad()
    def pairs(
        self,
        rows: Tensor,
        noise: Tensor,
        times: Tensor,
        *,
        inner: Tensor,
        label: int = NO_LABEL,
        mirrored: bool = False,
    ) -> PairCurves:
        """The posterior of pairs at all times [T]: data μ + s · inner of rows [p], and its noise.

        `noise` and `inner` are [p, *shape]. `mirrored` averages with the opposite noise.
        """
        own, size = positions_of_rows(self.data.atoms(label).rows, rows, label), self._batch_size
        batches = zip(*(values.split(size) for values in (own, rows, noise, inner)), strict=True)
        parts = [
            self._curves(GaussianPairs(*batch), times, label, mirrored=mirrored)
            for batch in batches
        ]
        curves = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return PairCurves(
            times=times.double(),
            amplification=self.path.coefficients(times).amplification,
            control_variate=torch.zeros_like(curves["variance"]),
            rivals=torch.full_like(own, -1),
            **curves,
        )

    @property
    def _dims(self) -> int:
        return torch.Size(self.data.shape).numel()

    @property
    def _batch_size(self) -> int:
        """How many pairs or queries fit in memory at a time."""
        return max(1, self.room() // (8 * COPIES * self._dims))

    def _curves(
        self, pairs: GaussianPairs, times: Tensor, label: int, *, mirrored: bool
    ) -> dict[str, Tensor]:
        """The curves of pairs that fit in memory, by their names in `PairCurves`; [p, T] each."""
        noises = (pairs.noise, -pairs.noise) if mirrored else (pairs.noise,)
        columns: dict[str, list[Tensor]] = {}
        for c in self._coefficients(times):
            signs = [self._pair_values(pairs._replace(noise=noise), c, label) for noise in noises]
            for name in signs[0]:
                mean = torch.stack([values[name] for values in signs]).mean(0)
                columns.setdefault(name, []).append(mean)
        return {name: torch.stack(column, 1) for name, column in columns.items()}

    def _pair_values(self, pairs: GaussianPairs, c: Coefficients, label: int) -> dict[str, Tensor]:
        """The curves' values [p] at one time, by name."""
        alpha, sigma = float(c.alpha), float(c.sigma)
        means = self.data.take(pairs.rows).flatten(1).double()  # μ [p, D]
        deviations = self.data.take_stds(pairs.rows).flatten(1).double()  # s [p, D]
        x = alpha * (means + deviations * pairs.inner.flatten(1).double())
        x = x + sigma * pairs.noise.flatten(1).double()
        sums, own_logit = self._scan(x, c, label, top_k=1, own=pairs.own)
        variances = sigma**2 + (alpha * deviations) ** 2  # v [p, D]
        share = alpha * deviations**2 / variances
        own_mean = means + share * (x - alpha * means)  # m_own [p, D]
        return {
            "variance": (own_mean - sums.points / sums.mass[:, None]).square().sum(1),
            "within_variance": (sigma**2 * deviations**2 / variances).sum(1),
            "max_weight": 1 / sums.mass,
            "self_weight": (own_logit - sums.max_logit).exp() / sums.mass,
            "entropy": sums.entropy,
            "participation": sums.participation,
        }

    def _posterior(self, sums: PosteriorSums, rows: Tensor) -> Posterior:
        return Posterior(
            mean=(sums.points / sums.mass[:, None]).reshape(-1, *self.data.shape),
            log_mass=sums.max_logit + sums.mass.log(),
            top_weights=sums.top_weights(sums.top.shape[1]),
            top_rows=rows[sums.top],
            entropy=sums.entropy,
            participation=sums.participation.clamp(max=1),
            missing=torch.zeros_like(sums.mass),
            error=torch.zeros_like(sums.mass),
            touched=torch.full(sums.mass.shape, len(rows)),
        )

    def _query_sums(
        self, x: Tensor, t: Tensor, labels: Tensor | None, top_k: int
    ) -> Iterator[tuple[Tensor, Coefficients, PosteriorSums]]:
        """Queries by class and time: their indices, the coefficients, and their sums."""
        check_queries(self.data, x, t, labels)
        if labels is None:
            labels = torch.full((len(x),), NO_LABEL)
        label_and_time = torch.stack([labels.double(), check_times(t)], 1)
        distinct, index = label_and_time.unique(dim=0, return_inverse=True)
        coefficients = self._coefficients(distinct[:, 1])
        for number, (label, c) in enumerate(zip(distinct[:, 0], coefficients, strict=True)):
            for indices in (index == number).nonzero()[:, 0].split(self._batch_size):
                batch = x[indices].flatten(1).double()
                sums, _ = self._scan(batch, c, int(label), top_k=top_k)
                yield indices, c, sums

    def _scan(
        self, x: Tensor, c: Coefficients, label: int, *, top_k: int, own: Tensor | None = None
    ) -> tuple[PosteriorSums, Tensor]:
        """One pass over a class, and the logits [b] of each query's own Gaussian."""
        total: list[PosteriorSums] = []
        own_logits = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        for block in self._blocks(label):
            logits, mean = _block_logits(x, block, c)
            if own is not None:
                stop = block.start + len(block.means)
                inside = ((own >= block.start) & (own < stop)).nonzero()
                own_logits[inside] = logits[inside, own[inside] - block.start]
            sums = _block_sums(logits, mean, x, block.start, top_k)
            total = [PosteriorSums.merged([*total, sums], top_k)]
        return total[0], own_logits

    def _blocks(self, label: int) -> Iterator[GaussianBlock]:
        """The Gaussians of a class in order."""
        check_label(self.data, label)
        start, rows = 0, max(1, PASSES_PER_BLOCK * PASS_BYTES // (8 * self._dims))
        for block in self.data.blocks(label, rows=rows):
            variances = self.data.take_stds(block.rows).flatten(1).double().square()
            yield GaussianBlock(start, block.weights.log(), block.points.double(), variances)
            start += len(block.rows)

    def _coefficients(self, times: Tensor) -> list[Coefficients]:
        """The coefficients at each of the times, 0-d each."""
        c = self.path.coefficients(times)
        if (c.sigma <= 0).any():
            raise ValueError("the oracle's velocity is 0 / 0 at t = 1; ask for it at t < 1")
        return [Coefficients(*values) for values in zip(*c, strict=True)]


class _MeanTerms(NamedTuple):
    """Σ γ_i m_i(x) is γ @ constant + (γ @ slope) · x."""

    constant: Tensor
    slope: Tensor


def _block_logits(x: Tensor, block: GaussianBlock, c: Coefficients) -> tuple[Tensor, _MeanTerms]:
    """The logits [b, n] of a block, and what its posterior means are made of."""
    alpha, sigma = float(c.alpha), float(c.sigma)
    centre = block.means.mean(0)  # about it, so that squares do not cancel
    means, y = block.means - centre, x - alpha * centre
    snr = (alpha / sigma) ** 2 * block.variances  # r² s² [n, D]
    precision = 1 / (sigma**2 * (1 + snr))  # 1 / v [n, D]
    # Σ_d (y − α μ)² / v, as three products
    squares = y.square() @ precision.T - 2 * alpha * y @ (precision * means).T
    squares += alpha**2 * (precision * means.square()).sum(1) + torch.log1p(snr).sum(1)
    share = alpha * block.variances * precision  # α s² / v [n, D]
    return block.log_weights - squares / 2, _MeanTerms(block.means * (1 - alpha * share), share)


def _block_sums(
    logits: Tensor, mean: _MeanTerms, x: Tensor, start: int, top_k: int
) -> PosteriorSums:
    top = logits.topk(min(top_k, logits.shape[1]), dim=1)
    max_logit = top.values[:, 0]
    relative = (logits - max_logit[:, None]).clamp(min=MIN_LOGIT)
    weights = relative.exp()
    return PosteriorSums(
        max_logit,
        weights.sum(1),
        weights @ mean.constant + (weights @ mean.slope) * x,
        (weights * relative).sum(1),
        weights.square().sum(1),
        torch.zeros_like(max_logit),
        top.values,
        top.indices + start,
    )
