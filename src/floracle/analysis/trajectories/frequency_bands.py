"""Coarse structure before detail: how much of each band of frequencies x̂(t) already has.

The orthonormal DFT of a picture splits its squares by frequency, and Parseval's identity keeps
their sum. In a band, with P the projection on it and m the class mean, the law of total variance

    E‖P(data − m)‖² = E‖P(x̂ − m)‖² + E‖P(data − x̂)‖²

gives what x̂ *captures* of the band, the first part as a share of the whole; 1 − the second part is
what it *explains*. They agree on average; the second is measured on the pair's own data, so it is
the one that a model's x̂ can be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Landmark, bootstrap_means, find_landmark
from floracle.analysis.forward_pairs import check_field_times, forward_pairs, ratio
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.core.spectrum import moments
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError

HALF_EXPLAINED = 0.5
COARSE_CYCLES = 2.0
"""Cycles along the longer side up to which frequencies are coarse structure; above is detail."""


@dataclass(frozen=True)
class Bands:
    """Radial bands of the frequencies of pictures [C, H, W]."""

    edges: tuple[float, ...]
    """Where bands part, in cycles along the longer side; an edge belongs to the band below it."""
    band_of_frequency: Tensor
    """int64 [H, W]."""

    @property
    def count(self) -> int:
        """The number of bands."""
        return len(self.edges) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """The bands in words, lowest first."""
        inner = zip(self.edges, self.edges[1:], strict=False)
        middle = [f"{low:g}–{high:g} cycles" for low, high in inner]
        return (f"to {_cycles(self.edges[0])}", *middle, f"over {_cycles(self.edges[-1])}")

    def energies(self, pictures: Tensor) -> Tensor:
        """‖P picture‖² by band, float64 [b, bands], of pictures [b, C, H, W]; they sum to ‖·‖²."""
        if pictures.shape[-2:] != self.band_of_frequency.shape:
            raise ValueError(
                f"pictures are {list(pictures.shape)}, bands {list(self.band_of_frequency.shape)}"
            )
        spectrum = torch.fft.fft2(pictures.double(), norm="ortho")
        squares = (spectrum.real.square() + spectrum.imag.square()).sum(1).flatten(1)  # [b, H W]
        energies = torch.zeros(len(squares), self.count, dtype=torch.float64)
        return energies.index_add_(1, self.band_of_frequency.flatten(), squares)


def radial_bands(shape: Sequence[int], edges: Sequence[float] | None = None) -> Bands:
    """Bands of pictures of a shape [C, H, W]; octaves up to half of Nyquist without `edges`.

    Frequencies are radial, in cycles along the longer side; the lowest band holds the mean.
    """
    if len(shape) != 3 or max(shape[1:]) < 4:
        raise InputError(f"bands need pictures [C, H, W] of 4 pixels at least, got {list(shape)}")
    side = max(shape[1:])
    octaves = max(1, math.ceil(math.log2(side)) - 1)  # 1, 2, 4, … below Nyquist, side / 2
    edges = tuple(edges) if edges is not None else tuple(float(2**k) for k in range(octaves))
    increasing = all(low < high for low, high in zip((0.0, *edges), edges, strict=False))
    if not edges or not increasing:
        raise InputError(f"edges of bands are positive and increase, got {list(edges)}")
    down, across = (torch.fft.fftfreq(size, dtype=torch.float64) * side for size in shape[1:])
    radius = torch.hypot(down[:, None], across[None])  # [H, W]
    # rounding must not lift a frequency over the edge it lies on
    band = torch.bucketize(radius - 1e-9, torch.tensor(edges, dtype=torch.float64))
    if len(band.unique()) <= len(edges):
        raise InputError(f"edges {list(edges)} leave a band of pictures {list(shape)} empty")
    return Bands(edges, band)


@dataclass(frozen=True)
class SettledBands:
    """How far each band of x̂ has settled, by time; tuples run over bands, lowest first."""

    times: Tensor
    label: int
    bands: Bands
    explained: tuple[Curve, ...]
    """1 − E‖P(data − x̂)‖² / E‖P(data − m)‖²."""
    captured: tuple[Curve, ...]
    """E‖P(x̂ − m)‖² / E‖P(data − m)‖²."""
    half: tuple[Landmark, ...]
    """The time at which half of each band is explained."""
    shares: tuple[float, ...]
    """The share of each band in the variance of the data."""


def varies_in_bands(source: PointSet, *, pairs: int, label: int, seed: int) -> bool:
    """Whether the pairs that `settled_by_band` draws are pictures that vary in all its bands."""
    shape = source.shape
    if len(shape) != 3 or max(shape[1:]) < 4:
        return False
    drawn = forward_pairs(source, pairs, label=label, seed=seed)
    centre = moments(source, label).mean.reshape(shape)
    return bool((radial_bands(shape).energies(drawn.data - centre).sum(0) > 0).all())


@torch.no_grad()
def settled_by_band(
    oracle: Oracle,
    *,
    times: Tensor,
    pairs: int = 256,
    label: int = NO_LABEL,
    seed: int = 0,
    edges: Sequence[float] | None = None,
) -> SettledBands:
    """Measure on forward-path pairs of a class how much of each band x̂ has at times [T]."""
    bands, times = radial_bands(oracle.data.shape, edges), check_field_times(times)
    drawn = forward_pairs(oracle.data, pairs, label=label, seed=seed)
    centre = moments(oracle.data, label).mean.reshape(oracle.data.shape)  # m
    variance = bands.energies(drawn.data - centre)  # ‖P(data − m)‖² [p, bands]
    unexplained, captured = [], []
    for t in times.tolist():
        mean = oracle.posterior(*drawn.at(t, oracle.path), top=1).mean  # x̂
        unexplained.append(bands.energies(drawn.data - mean))
        captured.append(bands.energies(mean - centre))
    unexplained, captured = torch.stack(unexplained), torch.stack(captured)  # [T, p, bands]

    curves, half = [], []
    for band, name in enumerate(bands.names):
        total = variance[:, band, None].expand(-1, len(times))  # [p, T]
        if not total.sum() > 0:
            raise InputError(f"the data does not vary in the band {name}; merge it")
        gained = total - unexplained[..., band].T
        explained = ratio(gained, total)
        curves.append((explained, ratio(captured[..., band].T, total)))
        resamples = bootstrap_means(gained, seed) / bootstrap_means(total, seed)
        half.append(find_landmark(times, explained.mean, resamples, HALF_EXPLAINED))
    explained, captured = zip(*curves, strict=True)
    shares = variance.sum(0) / variance.sum()
    return SettledBands(
        times, label, bands, explained, captured, tuple(half), tuple(shares.tolist())
    )


def _cycles(count: float) -> str:
    return f"{count:g} cycle" if count == 1 else f"{count:g} cycles"
