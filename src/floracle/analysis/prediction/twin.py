"""The stages to expect of a class, from a twin: other points with the same statistics.

A twin has as many points as the class, drawn from its `Profile`: Gaussian directions with the
covariance's eigenvalues, lengths in four bands of principal directions as the class has them, and
distances from a point to its k-th neighbour as they are in the class. Where x_t = α x_i + σ ε and
r = α/σ, the logit of point j relative to that of the pair's own point i is

    ℓ_j(r) = r ε·(x_j − x_i) − ½ r² ‖x_j − x_i‖²,

so two products, of points with points and of noise with points, serve all times. As for pairs of
data, both signs of the noise are used, and landmarks are where the mean curves cross their levels.

Why norms and neighbours: ‖x_i − x_j‖² and ε·(x_j − x_i) ~ N(0, ‖x_i − x_j‖²) are all that a
posterior depends on. The end, where the largest weight is .99 on average, is decided by the few
points whose neighbours are nearest: those of small norm, and those in clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from floracle.analysis.curves import END_WEIGHT
from floracle.analysis.interpolation import MeasuredTimes
from floracle.core.fields import path_time
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.core.seeds import generator
from floracle.run.errors import InputError

from .closed_form import PredictedStages
from .profile import BANDS, MOST_NEIGHBOURS, Profile, neighbour_ranks

LOG_RATIO_STEP = 0.12
"""From one r to the next, in log r."""
FIRST_RATIO, LAST_RATIO = 0.4, 6.0
"""The first and the last r, over the predicted r of the centre and of the collapse."""
LAST_DISTANCE, MAX_RATIOS = 8.0, 96
"""The last r is at least 8 / ‖x_j − x_i‖ of the nearest pairs, with at most 96 values of r."""
JITTER = 1e-4
"""Of a point's length: no two points of a twin coincide, so distances can be corrected."""
CORRECTED_NUMBERS, FREE_NUMBERS = 2**22, 2**25
"""Coordinates of a twin's points at most, with and without a correction of distances."""
BLOCK_LOGITS = 2**19
"""Logits that are computed at a time: they should stay in cache."""
LOGITS, MIN_PAIRS, MAX_PAIRS = 2**22, 256, 2048
"""Logits of all pairs at one time, and pairs of all sets of points together."""
MAX_PAIRS_OF_SET, MAX_SETS = 256, 64
QUICK_LOGITS, MIN_QUICK_PAIRS, MAX_QUICK_PAIRS = 2**21, 64, 256
"""The same for twins of tables that are shown at once."""
MAX_GROWTH = 4
"""A twin has at most 4 times the points of its profile: nearer neighbours are not known."""
MAX_LOG_FACTOR = 40.0
"""The log of a factor of squared distances at most: float32 holds e⁸⁸."""
LATE, LATE_NEIGHBOURS = 1.5, 1024
"""From 1.5 times the predicted r of the collapse on, only so many neighbours have weight."""


@dataclass(frozen=True)
class Twin:
    """The mean curves of a twin's pairs over r = α/σ."""

    points: float
    ratio: Tensor
    """r, float64 [T]."""
    information: Tensor
    """I in nats, float64 [T]."""
    self_weight: Tensor
    """The posterior weight of the pair's own point [T]."""
    max_weight: Tensor
    """The largest posterior weight [T]: Fig. 2b and 3 of the paper."""
    path: ProbabilityPath = LINEAR

    @cached_property
    def centre(self) -> float | None:
        """The time at which half of log N is reached; None where it is not."""
        return self.time_of("information", math.log(self.points) / 2)

    @cached_property
    def collapse(self) -> float | None:
        """The time at which the pair's own point has half of the weight."""
        return self.time_of("self_weight", 0.5)

    @cached_property
    def end(self) -> float | None:
        """The time at which the largest weight is .99."""
        return self.time_of("max_weight", END_WEIGHT)

    def time_of(self, curve: str, level: float) -> float | None:
        """The time at which `information`, `self_weight` or `max_weight` first reaches a level."""
        ratio = self.ratio_of(curve, level)
        return None if ratio is None else time_of_ratio(self.path, ratio)

    def ratio_of(self, curve: str, level: float) -> float | None:
        """The same as r = α/σ; before the first r, curves grow as r²."""
        values, start = getattr(self, curve), 0.0 if curve == "information" else 1 / self.points
        if level <= start:
            return 0.0
        if level < values[0]:
            return float(self.ratio[0] * ((level - start) / (values[0] - start)).sqrt())
        log_ratio, _ = MeasuredTimes(self.ratio.log()).reached(values[None], [level])
        return None if np.isnan(log_ratio[0]) else float(np.exp(log_ratio[0]))

    def at(self, curve: str, t: Tensor) -> Tensor:
        """A curve at times t [...]; outside the computed times its end values."""
        c = self.path.coefficients(t.double().flatten())
        log_ratio = c.signal_to_noise.clamp(min=float(self.ratio[0])).log()
        values = MeasuredTimes(self.ratio.log()).values(getattr(self, curve), log_ratio)
        return torch.from_numpy(values).view(t.shape)


def twin(
    profile: Profile,
    points: float | None = None,
    *,
    path: ProbabilityPath = LINEAR,
    seed: int = 0,
    pairs: int | None = None,
) -> Twin:
    """The stages to expect of `points` points with a profile.

    For other numbers of points than the profile's, distances are taken at equal shares of the
    points that are nearer, and continued as a power law below the nearest. Of more than 4 times as
    many as the profile has, or than 32,768, that many are drawn, and r is multiplied by its ratio
    between the two numbers for the Gaussian bound.

    Parameters
    ----------
    profile
        The statistics of the class.
    points
        Their number, at least 2; by default that of the profile.
    path
        The path on which times are those of r = α/σ.
    seed
        Where the random draws start.
    pairs
        Pairs that are computed, by default 256 to 2,048: landmarks scatter by about 1 %.
    """
    count = profile.points if points is None else points
    if not 2 <= count < math.inf:
        raise InputError(f"a twin has at least 2 points, got {count:g}")
    most = min(MOST_NEIGHBOURS, MAX_GROWTH * profile.searched_points)
    drawn = min(round(count), most if len(profile.distances) else MOST_NEIGHBOURS)
    # in units of the class's spread, so that any scale of the data gives the same digits
    curves = _draw_curves(profile.standardized, drawn, seed, pairs)
    if drawn < round(count):
        curves = _extrapolate(profile.standardized, curves, drawn, count)
    return Twin(count, curves.ratio / math.sqrt(profile.variance), *curves[1:], path)


def quick_pairs(points: float) -> int:
    """Pairs of a twin of so many points that takes a fraction of a second: ± 2 %."""
    return max(MIN_QUICK_PAIRS, min(MAX_QUICK_PAIRS, QUICK_LOGITS // round(points)))


def time_of_ratio(path: ProbabilityPath, ratio: float) -> float:
    """The time of a path at which α/σ is `ratio`."""
    return float(path_time(path, torch.tensor([ratio / (1 + ratio)], dtype=torch.float64)))


class TwinCurves(NamedTuple):
    """The r [T], and curves over them."""

    ratio: Tensor
    information: Tensor
    self_weight: Tensor
    max_weight: Tensor


def _extrapolate(profile: Profile, curves: TwinCurves, drawn: int, points: float) -> TwinCurves:
    """Curves of more points than were drawn: r moves as the bound's does, I as log N."""
    before, after = (np.log(_bound_ratios(profile, count)) for count in (drawn, points))
    log_ratio = curves.ratio.log()
    shift = torch.from_numpy(np.interp(log_ratio, before, after - before))
    growth = math.log(points) / math.log(drawn)
    return curves._replace(
        ratio=(log_ratio + shift).exp(), information=curves.information * growth
    )


def _bound_ratios(profile: Profile, points: float) -> tuple[float, float]:
    """The r at which the Gaussian bound reaches half of log N, and log N."""
    values, counts = profile.eigenvalues
    levels = torch.tensor([0.5, 1.0], dtype=torch.float64) * math.log(points)
    times = PredictedStages(points, values, multiplicities=counts).times_of(levels)
    centre, collapse = (times / (1 - times)).tolist()
    return centre, collapse


@lru_cache(maxsize=64)
def _draw_curves(profile: Profile, points: int, seed: int, pairs: int | None) -> TwinCurves:
    """The r and the mean curves of a few sets of so many points, by a standardized profile."""
    # 1. The values of r: from before the centre to after the end, equally spaced in log r.
    centre, collapse = _bound_ratios(profile, points)
    first, last = math.log(FIRST_RATIO * centre), math.log(LAST_RATIO * collapse)
    if len(profile.distances):  # as far as r ‖x_j − x_i‖ of the nearest is 8
        last = max(last, math.log(LAST_DISTANCE) - float(profile.distances[0, 0]) / 2)
    count = min(MAX_RATIOS, math.ceil((last - first) / LOG_RATIO_STEP))
    ratio = torch.linspace(first, last, count, dtype=torch.float64).exp()

    # 2. Few points fill several sets, so that there are enough pairs.
    random = generator(seed)
    total = pairs or max(MIN_PAIRS, min(MAX_PAIRS, LOGITS // points))
    pairs_of_set = min(points, total, MAX_PAIRS_OF_SET)
    ratios = (ratio, LATE * collapse)
    sets = [
        measure_set(profile, points, pairs_of_set, ratios, random)
        for _ in range(min(total // pairs_of_set, MAX_SETS))
    ]
    return TwinCurves(ratio, *torch.stack(sets).mean(0))


def measure_set(
    profile: Profile,
    points: int,
    pairs: int,
    ratios: tuple[Tensor, float],
    random: torch.Generator,
) -> Tensor:
    """Information, own weight and largest weight [3, T] of pairs of one set of points.

    `ratios` are r [T], and that from which only the nearest neighbours are looked at.
    """
    ratio, late = ratios
    x = draw_points(profile, points, random).double()
    rows = torch.randint(points, (pairs,), generator=random)
    noise = torch.randn(pairs, x.shape[1], generator=random).double()
    norms = x.square().sum(1)

    def neighbours() -> Iterator[tuple[Tensor, Tensor]]:
        """Of some pairs, nearest first: ‖x_j − x_i‖² and ε·(x_j − x_i), [p, N]."""
        for block in torch.arange(pairs).split(max(1, BLOCK_LOGITS // points)):
            own, index = rows[block], torch.arange(len(block))
            squared = (norms[own, None] + norms - 2 * x[own] @ x.T).clamp(min=0)
            squared[index, own] = -1  # the own point comes first
            projection = noise[block] @ x.T
            projection -= projection[index, own].clone()[:, None]
            squared, order = squared.sort(1)
            yield squared.clamp(min=0).float(), projection.gather(1, order).float()

    factors, blocks = None, list(neighbours())
    if len(profile.distances):
        at_ranks = [squared[:, neighbour_ranks(points)] for squared, _ in blocks]
        factors = _distance_factors(profile, points, at_ranks)
    sums, start = torch.zeros(3, len(ratio), dtype=torch.float64), 0
    for squared, projection in blocks:
        if factors is not None:
            log = factors(start, len(squared)).clamp(max=MAX_LOG_FACTOR)
            squared[:, 1:] *= log.exp()
            projection[:, 1:] *= (log / 2).exp()
        start += len(squared)
        for near, times in ((points, ratio < late), (LATE_NEIGHBOURS, ratio >= late)):
            sums[:, times] += _sum_over_pairs(
                squared[:, :near], projection[:, :near], ratio[times].float()
            )
    sums /= 2 * pairs  # both signs of the noise
    sums[0] += math.log(points)  # I = log N − H
    return sums


def _sum_over_pairs(squared: Tensor, projection: Tensor, ratio: Tensor) -> Tensor:
    """−H, own and largest weight of pairs [p, n] at r [T], both signs of their noise: [3, T]."""
    size, sums = max(1, BLOCK_LOGITS // squared.numel()), []
    for r in ratio[:, None, None].split(size):
        away = squared * (-r.square() / 2)  # −½ r² ‖x_j − x_i‖², [T, p, n]
        sums.append(_sum_weights(away + r * projection) + _sum_weights(away - r * projection))
    return torch.cat(sums, 1)


def _sum_weights(logits: Tensor) -> Tensor:
    """−H, own weight (the first) and largest weight of [T, p, n], summed over p; [3, T]."""
    logits -= logits.amax(2, keepdim=True)
    own = logits[..., 0].exp()
    weights = logits.exp()
    total = weights.sum(2)
    # H = log Σ e^ℓ − Σ γ ℓ
    entropy = total.log() - torch.linalg.vecdot(weights, logits) / total
    return torch.stack([-entropy, own / total, 1 / total]).double().sum(2)


def draw_points(profile: Profile, points: int, random: torch.Generator) -> Tensor:
    """A set of points, float32 [N, k]: directions are Gaussian, lengths by band as the class's."""
    # 1. Standard deviations of the coordinates, by band; the tail as equal directions.
    total, squares = profile.tail_sums
    bands = [profile.leading[low:high].sqrt().float() for low, high in pairwise(BANDS)]
    if squares:
        numbers = CORRECTED_NUMBERS if len(profile.distances) else FREE_NUMBERS
        room = max(1, numbers // points - BANDS[-1])
        dims = min(room, max(1, round(total**2 / squares)))
        bands.append(torch.full((dims,), math.sqrt(total / dims)))

    # 2. Every point takes the energies of one point of the class, each as often as another.
    rows = torch.arange(points)
    if sampled := len(profile.energies):
        repeated = math.ceil(points / sampled) * sampled
        rows = torch.randperm(repeated, generator=random)[:points] % sampled

    # 3. Gaussian coordinates, scaled to the energy of their band.
    coordinates = []
    for number, scales in enumerate(bands):
        if not len(scales):
            continue
        z = torch.randn(points, len(scales), generator=random) * scales
        if sampled:
            relative = profile.energies[rows, -1 if number == len(BANDS) - 1 else number]
            energies = relative.float() * scales.square().sum()
            z *= (energies / z.square().sum(1).clamp(min=1e-30)).sqrt()[:, None]
            z += JITTER * scales * torch.randn(z.shape, generator=random)
        coordinates.append(z)
    # the covariance of a sample about its own mean is (N − 1) / N of the drawn one
    return torch.cat(coordinates, 1) * math.sqrt(points / (points - 1))


def _distance_factors(
    profile: Profile, points: int, squared: list[Tensor]
) -> Callable[[int, int], Tensor]:
    """The logs [p, N − 1] of what brings the quantiles of squared distances to the class's.

    `squared` are those of pairs at `neighbour_ranks(points)`. Returned is a function of the first
    pair and the number of pairs.
    """
    logs = torch.cat(squared).double().clamp(min=1e-30).log()  # [p, R]
    quantiles = _expected_quantiles(profile, points)
    # at every rank, the pair with the q-th smallest distance gets the q-th quantile of the class
    q = (logs.argsort(0).argsort(0).double() + 0.5) / len(logs)
    levels = (np.arange(len(quantiles)) + 0.5) / len(quantiles)
    columns = [np.interp(q[:, k], levels, column) for k, column in enumerate(quantiles.T)]
    at_ranks = (torch.from_numpy(np.stack(columns, 1)) - logs).float()  # log d²(class) / d²(twin)

    # between ranks, interpolated over log k
    log_ranks = neighbour_ranks(points).double().log()
    log_all = torch.arange(1, points).double().log()
    upper = torch.searchsorted(log_ranks, log_all).clamp(max=len(log_ranks) - 1)
    lower = (upper - 1).clamp(min=0)
    share = (log_all - log_ranks[lower]) / (log_ranks[upper] - log_ranks[lower]).clamp(min=1e-30)
    share = share.clamp(0, 1).float()

    def factors(start: int, count: int) -> Tensor:
        pairs = at_ranks[start : start + count]
        return pairs[:, lower].lerp(pairs[:, upper], share)

    return factors


def _expected_quantiles(profile: Profile, points: int) -> np.ndarray:
    """The log squared distances to expect of so many points, [256, R].

    They are the profile's at the same share k/n of the points that are nearer.
    """
    values = profile.distances.numpy()
    if points == profile.searched_points:
        return values
    searched = profile.searched_points
    log_shares = (neighbour_ranks(searched).double() / searched).log().numpy()
    wanted = (neighbour_ranks(points).double() / points).log().numpy()
    within = np.stack([np.interp(wanted, log_shares, row) for row in values])
    # below the nearest a power law; the median of slopes, because near-duplicates follow none
    last = min(2, len(log_shares) - 1)
    slope = float(
        np.median(values[:, last] - values[:, 0]) / max(log_shares[last] - log_shares[0], 1e-30)
    )
    return within + slope * np.minimum(wanted - log_shares[0], 0)
