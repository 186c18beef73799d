"""The oracle of data whose samples are Gaussians: an autoencoder's posteriors N(μ_i, diag s_i²).

A noisy sample of atom i is N(α μ_i, σ² + α² s_i²) in every coordinate, so with v_i = σ² + α² s_i²

    l_i   = log w_i − ½ Σ_d [ (x − α μ_i)² / v_i + log(v_i / σ²) ]
    m_i   = μ_i + (α s_i² / v_i) (x − α μ_i)            the data, given x and i
    x̂     = Σ_i γ_i m_i,        u* = α' x̂ + (σ'/σ) (x − α x̂).

What x tells about i obeys the information law with the part of the variance between atoms,
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

from floracle.core.paths import LINEAR, ProbabilityPath, check_times
from floracle.core.point_set import NO_LABEL, PointSet, classes
from floracle.core.spectrum import PASS_BYTES
from floracle.run.budget import memory_budget
from floracle.run.errors import InputError

from .pairs.forward_pairs import PairCurves
from .posterior import Posterior, PosteriorSums

TOP = 8
BLOCKS = 8
"""A block of atoms is this many times the size of a pass: its products are what costs."""
COPIES = 16
"""Float64 copies of a pair, or of a query, that are in memory at once."""


@runtime_checkable
class GaussianPointSet(PointSet, Protocol):
    """A source whose points are means, with a standard deviation for every coordinate."""

    def take_stds(self, rows: Tensor) -> Tensor:
        """The standard deviations float32 [len(rows), *shape] of any rows."""
        ...


class GaussianBlock(NamedTuple):
    """Some Gaussians of a class, float64: rows start … of it."""

    start: int
    rows: Tensor
    log_weights: Tensor
    means: Tensor
    variances: Tensor


@dataclass(frozen=True)
class Moment:
    """The path's coefficients at one time."""

    alpha: float
    sigma: float
    d_alpha: float
    d_sigma: float

    def velocity(self, x: Tensor, mean: Tensor) -> Tensor:
        """u* from the posterior mean."""
        return self.d_alpha * mean + (x - self.alpha * mean) * (self.d_sigma / self.sigma)


@dataclass(frozen=True)
class GaussianOracle:
    """The oracle velocity of Gaussian samples, as a velocity field.

    `data` gives the means as points and their deviations by `take_stds`. Exact, in float64.
    `memory` ("4G" or bytes; by default half of what is free) bounds what is worked on at a time.
    """

    data: GaussianPointSet
    path: ProbabilityPath = LINEAR
    memory: int | str | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """u* at samples x [b, *shape], times t [b] in [0, 1), labels int64 [b]; as x's type."""
        velocity = torch.empty_like(x)
        for places, moment, sums in self._summed(x, t, labels):
            mean = sums.points / sums.mass[:, None]
            found = moment.velocity(x[places].flatten(1).double(), mean)
            velocity[places] = found.reshape(-1, *self.data.shape).to(x.dtype)
        return velocity

    @torch.no_grad()
    def posterior(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, *, top: int = TOP
    ) -> Posterior:
        """Who votes at samples x [b, *shape]: means, weights, entropy, log mass (float64)."""
        parts, groups = [], []
        for places, _, sums in self._summed(x, t, labels, top):
            label = NO_LABEL if labels is None else int(labels[places[0]])
            parts.append(self._posterior(sums, self.data.atoms(label).rows))
            groups.append(places)
        return Posterior.joined(parts, groups)

    def room(self, label: int = NO_LABEL) -> int:
        """Bytes to work with; classes are read anew whenever they are needed."""
        return memory_budget(self.memory)

    def log_density(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The density log p_t(x) in nats, float64 [b]."""
        sigma = self.path.coefficients(t).sigma
        dims = torch.Size(self.data.shape).numel()
        return (
            self.posterior(x, t, labels, top=1).log_mass
            - dims / 2 * (2 * math.pi * sigma**2).log()
        )

    def variance(self, label: int = NO_LABEL) -> float:
        """The mean of s² over the atoms of a class and their coordinates."""
        parts = (atoms.log_weights.exp() @ atoms.variances for atoms in self._atoms(label))
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
        own = self._positions(rows, label)
        size = self._together
        pieces = zip(*(one.split(size) for one in (own, rows, noise, inner)), strict=True)
        drawn = (_Drawn(*piece) for piece in pieces)
        curves = [self._curves(some, times, label, mirrored=mirrored) for some in drawn]
        c = self.path.coefficients(times)
        variance, within, top, weight, entropy, concentration = torch.cat(curves, 1)
        return PairCurves(
            times=times.double(),
            amplification=c.amplification,
            variance=variance,
            control_variate=torch.zeros_like(variance),
            max_weight=top,
            self_weight=weight,
            entropy=entropy,
            participation=concentration,
            rivals=torch.full_like(own, -1),
            within_variance=within,
        )

    @property
    def _together(self) -> int:
        """How many pairs or queries fit the memory at a time."""
        dims = torch.Size(self.data.shape).numel()
        return max(1, self.room() // (8 * COPIES * dims))

    def _curves(self, drawn: _Drawn, times: Tensor, label: int, *, mirrored: bool) -> Tensor:
        """Between, within, top, own, entropy, concentration [6, p, T] of pairs that fit."""
        noises = (drawn.noise, -drawn.noise) if mirrored else (drawn.noise,)
        signs, curves = [drawn._replace(noise=noise) for noise in noises], []
        for moment in self._moments(times):
            each = [self._pair_curves(some, moment, label) for some in signs]
            curves.append(torch.stack(each).mean(0))
        return torch.stack(curves, 2)

    def _pair_curves(self, drawn: _Drawn, moment: Moment, label: int) -> Tensor:
        """Between, within, top, own, entropy, concentration [6, p] at one time."""
        means = self.data.take(drawn.rows).flatten(1).double()
        deviations = self.data.take_stds(drawn.rows).flatten(1).double()
        x = moment.alpha * (means + deviations * drawn.inner.flatten(1).double())
        x = x + moment.sigma * drawn.noise.flatten(1).double()
        sums, own_logit = self._scan(x, moment, label, keep=1, own=drawn.own)
        variances = moment.sigma**2 + (moment.alpha * deviations) ** 2
        share = moment.alpha * deviations**2 / variances
        guess = means + share * (x - moment.alpha * means)
        between = (guess - sums.points / sums.mass[:, None]).square().sum(1)
        within = (moment.sigma**2 * deviations**2 / variances).sum(1)
        weight = (own_logit - sums.peak).exp() / sums.mass
        entropy = (sums.mass.log() - sums.logits / sums.mass).clamp(min=0)
        squares = sums.squares / sums.mass**2
        return torch.stack([between, within, 1 / sums.mass, weight, entropy, squares])

    def _posterior(self, sums: PosteriorSums, rows: Tensor) -> Posterior:
        return Posterior(
            mean=(sums.points / sums.mass[:, None]).reshape(-1, *self.data.shape),
            log_mass=sums.peak + sums.mass.log(),
            top_weights=(sums.top_logits - sums.peak[:, None]).exp() / sums.mass[:, None],
            top_rows=rows[sums.top],
            entropy=(sums.mass.log() - sums.logits / sums.mass).clamp(min=0),
            participation=(sums.squares / sums.mass**2).clamp(max=1),
            missing=torch.zeros_like(sums.mass),
            error=torch.zeros_like(sums.mass),
            touched=torch.full(sums.mass.shape, len(rows)),
        )

    def _summed(
        self, x: Tensor, t: Tensor, labels: Tensor | None, top: int = TOP
    ) -> Iterator[tuple[Tensor, Moment, PosteriorSums]]:
        """Queries by class and time: their places, coefficients and sums."""
        self._check(x, t, labels)
        if labels is None:
            labels = torch.full((len(x),), NO_LABEL)
        asked = torch.stack([labels.double(), check_times(t)], 1)
        each, index = asked.unique(dim=0, return_inverse=True)
        for number, (label, moment) in enumerate(
            zip(each[:, 0].tolist(), self._moments(each[:, 1]), strict=True)
        ):
            for places in (index == number).nonzero()[:, 0].split(self._together):
                sums, _ = self._scan(x[places].flatten(1).double(), moment, int(label), keep=top)
                yield places, moment, sums

    def _scan(
        self, x: Tensor, moment: Moment, label: int, *, keep: int, own: Tensor | None = None
    ) -> tuple[PosteriorSums, Tensor]:
        """One pass over a class, and the logits [b] of each query's own atom."""
        total: list[PosteriorSums] = []
        own_logits = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        for atoms in self._atoms(label):
            logits, mean = _block(x, atoms, moment)
            if own is not None:
                here = ((own >= atoms.start) & (own < atoms.start + len(atoms.rows))).nonzero()
                own_logits[here] = logits[here, own[here] - atoms.start]
            total = [
                PosteriorSums.merged([*total, _sums(logits, mean, x, atoms.start, keep)], keep)
            ]
        return total[0], own_logits

    def _atoms(self, label: int) -> Iterator[GaussianBlock]:
        start, dims = 0, torch.Size(self.data.shape).numel()
        if label != NO_LABEL and not (self.data.labels == label).any():
            raise InputError(
                f"there is no class {label}; labels are {classes(self.data) or 'all −1'}"
            )
        for block in self.data.blocks(label, rows=max(1, BLOCKS * PASS_BYTES // (8 * dims))):
            deviations = self.data.take_stds(block.rows).flatten(1).double()
            yield GaussianBlock(
                start,
                block.rows,
                block.weights.log(),
                block.points.double(),
                deviations.square(),
            )
            start += len(block.rows)

    def _moments(self, times: Tensor) -> list[Moment]:
        c = self.path.coefficients(times)
        if (c.sigma <= 0).any():
            raise ValueError("the oracle's velocity is 0 / 0 at t = 1; ask for it at t < 1")
        return [Moment(*values) for values in torch.stack(list(c), 1).tolist()]

    def _positions(self, rows: Tensor, label: int) -> Tensor:
        known = self.data.atoms(label).rows
        found = torch.searchsorted(known, rows).clamp(max=len(known) - 1)
        if not (known[found] == rows).all():
            raise ValueError(f"some rows are no atoms of class {label}; draw from atoms()")
        return found

    def _check(self, x: Tensor, t: Tensor, labels: Tensor | None) -> None:
        if tuple(x.shape[1:]) != tuple(self.data.shape):
            raise ValueError(
                f"samples have shape {tuple(x.shape[1:])}, but points {tuple(self.data.shape)}"
            )
        if not x.isfinite().all():
            raise ValueError("samples contain NaN or infinity")
        if t.shape != (len(x),) or (labels is not None and labels.shape != (len(x),)):
            raise ValueError(f"t and labels must be [{len(x)}], one a sample")


class _Drawn(NamedTuple):
    """Pairs of a class: positions and rows of their atoms, int64 [p], and noises [p, *shape]."""

    own: Tensor
    rows: Tensor
    noise: Tensor
    inner: Tensor
    """The noise within the Gaussians."""


class _Mean(NamedTuple):
    """Σ γ_i m_i(x) is γ @ fixed + (γ @ along) · x."""

    fixed: Tensor
    along: Tensor


def _block(x: Tensor, atoms: GaussianBlock, moment: Moment) -> tuple[Tensor, _Mean]:
    """The logits [b, n] of a block of atoms and what their posterior means are made of."""
    alpha, sigma = moment.alpha, moment.sigma
    centre = atoms.means.mean(0)
    means, seen = atoms.means - centre, x - alpha * centre
    signal = (alpha / sigma) ** 2 * atoms.variances
    precision = 1 / (sigma**2 * (1 + signal))
    squares = seen.square() @ precision.T - 2 * alpha * seen @ (precision * means).T
    squares += alpha**2 * (precision * means.square()).sum(1) + torch.log1p(signal).sum(1)
    share = alpha * atoms.variances * precision
    return atoms.log_weights - squares / 2, _Mean(atoms.means * (1 - alpha * share), share)


def _sums(logits: Tensor, mean: _Mean, x: Tensor, start: int, keep: int) -> PosteriorSums:
    top = logits.topk(min(keep, logits.shape[1]), dim=1)
    peak = top.values[:, 0]
    relative = (logits - peak[:, None]).clamp(min=-700)
    weights = relative.exp()
    return PosteriorSums(
        peak,
        weights.sum(1),
        weights @ mean.fixed + (weights @ mean.along) * x,
        (weights * relative).sum(1),
        weights.square().sum(1),
        torch.zeros_like(peak),
        top.values,
        top.indices + start,
    )
