"""The stages to expect of a class, from a twin: other points with the same statistics.

A twin has as many points as the class, drawn from its `Profile`: Gaussian directions with the
covariance's eigenvalues, lengths in four bands of principal directions as the class has them, and
distances from a point to its k-th neighbour as they are in the class. Where x_t = α x_i + σ ε and
r = α/σ, the logit of point j over that of the pair's own point i is

    ℓ_j(r) = r ε·(x_j − x_i) − ½ r² ‖x_j − x_i‖²,

so two products, of points with points and of noise with points, serve all times. Pairs are
followed as those of data are, with both signs of their noise, and their mean curves are crossed by
the landmarks.

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

from floracle.analysis.interpolation import MeasuredTimes
from floracle.analysis.stages.result import END
from floracle.core.fields import path_time
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.core.seeds import generator
from floracle.run.errors import InputError

from .closed_form import PredictedStages
from .profile import BANDS, MOST_NEIGHBOURS, Profile, ranks

STEP = 0.12
"""From one r at which pairs are looked at to the next, in log r."""
EARLIEST, LATEST = 0.4, 6.0
"""The first and the last of them, over the predicted r of the centre and of the collapse."""
APART, MOST_RATIOS = 8.0, 96
"""Squares of r ‖x_j − x_i‖ / 2 up to which the nearest are looked at, if r does not take more."""
JITTER = 1e-4
"""Of a point's length: no two points of a twin are the same, so distances can be put right."""
POINT_NUMBERS, FREE_NUMBERS = 2**22, 2**25
"""Coordinates of a twin's points at most: where distances are put right, and where not."""
CHUNK_LOGITS = 2**19
"""Logits that are worked on at a time: they should stay in cache."""
LOGITS, FEWEST_PAIRS, MOST_PAIRS = 2**22, 256, 2048
"""Logits of all pairs at one time; and pairs of all sets of points."""
PAIRS_OF_SET, MOST_SETS = 256, 64
QUICK_LOGITS, FEWEST_QUICK, MOST_QUICK = 2**21, 64, 256
"""The same of twins for tables that are drawn at once."""
FARTHEST = 4
"""So many times the points of a profile are drawn at most: nearer neighbours are not known."""
MOST_FACTOR = 40.0
"""The log of what multiplies a squared distance at most: float32 holds e⁸⁸."""
LATE, NEAR = 1.5, 1024
"""From so many times the predicted r of the collapse, only so many neighbours are looked at."""


@dataclass(frozen=True)
class Twin:
    """The mean curves of a twin's pairs over r = α/σ."""

    points: float
    ratio: Tensor
    """r, float64 [T]."""
    information: Tensor
    """Nats known of which point it is, float64 [T]."""
    self_weight: Tensor
    """The posterior weight of the pair's own point [T]."""
    max_weight: Tensor
    """The largest posterior weight [T]: Fig. 2b and 3 of the paper."""
    path: ProbabilityPath = LINEAR

    @cached_property
    def centre(self) -> float | None:
        """The time at which half of log N is known; None where it is not reached."""
        return self.time_of("information", math.log(self.points) / 2)

    @cached_property
    def collapse(self) -> float | None:
        """The time at which the pair's own point has half of the weight."""
        return self.time_of("self_weight", 0.5)

    @cached_property
    def end(self) -> float | None:
        """The time at which the largest weight is .99."""
        return self.time_of("max_weight", END)

    def time_of(self, curve: str, level: float) -> float | None:
        """The time at which `information`, `own` or `top` first reaches a level."""
        ratio = self.ratio_of(curve, level)
        return None if ratio is None else time_at(self.path, ratio)

    def ratio_of(self, curve: str, level: float) -> float | None:
        """The same as r = α/σ; before the first r that was looked at, curves go as r²."""
        values, start = getattr(self, curve), 0.0 if curve == "information" else 1 / self.points
        if level <= start:
            return 0.0
        if level < values[0]:
            return float(self.ratio[0] * ((level - start) / (values[0] - start)).sqrt())
        crossed, _ = MeasuredTimes(self.ratio.log()).reached(values[None], [level])
        return None if np.isnan(crossed[0]) else float(np.exp(crossed[0]))

    def at(self, curve: str, t: Tensor) -> Tensor:
        """A curve at times t [...], held at its ends beyond what was followed."""
        c = self.path.coefficients(t.double().flatten())
        logs = c.signal_to_noise.clamp(min=float(self.ratio[0])).log()
        values = MeasuredTimes(self.ratio.log()).values(getattr(self, curve), logs)
        return torch.from_numpy(values).view(t.shape)


def twin(
    profile: Profile,
    points: float | None = None,
    *,
    path: ProbabilityPath = LINEAR,
    seed: int = 0,
    pairs: int | None = None,
) -> Twin:
    """The stages to expect of `points` points with a profile; by default of as many as it has.

    For other numbers, distances are taken at equal shares of the points that are nearer, and
    continued as a power law below the nearest. Of more than four times as many as the profile
    has, or than 32,768, that many are drawn, and r is multiplied by what it is multiplied with
    for the Gaussian bound. `pairs` are followed, by default 256 to 2,048: landmarks scatter by
    about 1 %.
    """
    count = profile.points if points is None else points
    if not 2 <= count < math.inf:
        raise InputError(f"a twin has at least 2 points, got {count:g}")
    most = min(MOST_NEIGHBOURS, FARTHEST * profile.seen)
    drawn = min(round(count), most if len(profile.distances) else MOST_NEIGHBOURS)
    # in units of the class's spread, so that any scale of the data gives the same digits
    curves = _drawn(profile.standardized, drawn, seed, pairs)
    if drawn < round(count):
        curves = _stretched(profile.standardized, curves, drawn, count)
    return Twin(count, curves.ratio / math.sqrt(profile.variance), *curves[1:], path)


def quick_pairs(points: float) -> int:
    """Pairs of a twin of so many points that is drawn in a fraction of a second: ± 2 %."""
    return max(FEWEST_QUICK, min(MOST_QUICK, QUICK_LOGITS // round(points)))


def time_at(path: ProbabilityPath, ratio: float) -> float:
    """The time of a path at which α/σ is `ratio`."""
    return float(path_time(path, torch.tensor([ratio / (1 + ratio)], dtype=torch.float64)))


class _Curves(NamedTuple):
    """The r [T], and curves over them."""

    ratio: Tensor
    information: Tensor
    own: Tensor
    top: Tensor


def _stretched(profile: Profile, curves: _Curves, drawn: int, points: float) -> _Curves:
    """Curves of more points than were drawn: as far beyond as the bound is, as shares of log N."""
    some, every = (np.log(_bound_ratios(profile, count)) for count in (drawn, points))
    logs = curves.ratio.log()
    moved = (logs + torch.from_numpy(np.interp(logs, some, every - some))).exp()
    share = math.log(points) / math.log(drawn)
    return _Curves(moved, curves.information * share, curves.own, curves.top)


def _bound_ratios(profile: Profile, points: float) -> tuple[float, float]:
    """The r where the Gaussian bound knows half of log N, and all of it."""
    values, counts = profile.eigenvalues
    times = PredictedStages(points, values, counts=counts).times_of(
        torch.tensor([0.5, 1.0], dtype=torch.float64) * math.log(points)
    )
    centre, collapse = (times / (1 - times)).tolist()
    return centre, collapse


@lru_cache(maxsize=64)
def _drawn(profile: Profile, points: int, seed: int, pairs: int | None) -> _Curves:
    """The r and the mean curves of a few sets of so many points, by a standardized profile."""
    centre, collapse = _bound_ratios(profile, points)
    first, last = math.log(EARLIEST * centre), math.log(LATEST * collapse)
    if len(profile.distances):
        last = max(last, math.log(APART) - float(profile.distances[0, 0]) / 2)
    count = min(MOST_RATIOS, math.ceil((last - first) / STEP))
    ratio = torch.linspace(first, last, count, dtype=torch.float64).exp()
    random = generator(seed)
    total = pairs or max(FEWEST_PAIRS, min(MOST_PAIRS, LOGITS // points))
    each = min(points, total, PAIRS_OF_SET)
    late = LATE * collapse
    count = min(total // each, MOST_SETS)
    sets = [_curves(profile, points, each, (ratio, late), random) for _ in range(count)]
    return _Curves(ratio, *torch.stack(sets).mean(0))


def _curves(
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
    x = _points(profile, points, random).double()
    own = torch.randint(points, (pairs,), generator=random)
    noise = torch.randn(pairs, x.shape[1], generator=random).double()
    norms = x.square().sum(1)

    def neighbours() -> Iterator[tuple[Tensor, Tensor]]:
        """Of some pairs, nearest first: squared distances and ε·(x_j − x_i), [p, N]."""
        for chunk in torch.arange(pairs).split(max(1, CHUNK_LOGITS // points)):
            rows, index = own[chunk], torch.arange(len(chunk))
            squared = (norms[rows, None] + norms - 2 * x[rows] @ x.T).clamp(min=0)
            squared[index, rows] = -1  # itself comes first
            pull = noise[chunk] @ x.T
            pull -= pull[index, rows].clone()[:, None]
            squared, order = squared.sort(1)
            yield squared.clamp(min=0).float(), pull.gather(1, order).float()

    factors, chunks = None, list(neighbours())
    if len(profile.distances):
        factors = _factors(profile, points, [near[:, ranks(points)] for near, _ in chunks])
    sums, start = torch.zeros(3, len(ratio), dtype=torch.float64), 0
    for squared, pull in chunks:
        if factors is not None:
            log = factors(start, len(squared)).clamp(max=MOST_FACTOR)
            squared[:, 1:] *= log.exp()
            pull[:, 1:] *= (log / 2).exp()
        start += len(squared)
        for near, some in ((points, ratio < late), (NEAR, ratio >= late)):
            sums[:, some] += _followed(squared[:, :near], pull[:, :near], ratio[some].float())
    sums /= 2 * pairs
    sums[0] += math.log(points)
    return sums


def _followed(squared: Tensor, pull: Tensor, ratio: Tensor) -> Tensor:
    """Of pairs [p, n] at r [T], with both signs of their noise: sums over them, float64 [3, T]."""
    size, sums = max(1, CHUNK_LOGITS // squared.numel()), []
    for some in ratio[:, None, None].split(size):
        away = squared * (-some.square() / 2)
        sums.append(_sums(away + some * pull) + _sums(away - some * pull))
    return torch.cat(sums, 1)


def _sums(logits: Tensor) -> Tensor:
    """−H, own weight (the first) and largest weight of [T, p, n], summed over p; [3, T]."""
    top = logits.amax(2, keepdim=True)
    logits -= top
    own = logits[..., 0].exp()
    weights = logits.exp()
    total = weights.sum(2)
    # H = log Σ e^ℓ − Σ γ ℓ
    entropy = total.log() - torch.linalg.vecdot(weights, logits) / total
    return torch.stack([-entropy, own / total, 1 / total]).double().sum(2)


def _points(profile: Profile, points: int, random: torch.Generator) -> Tensor:
    """A set of points, float32 [N, k]: directions are Gaussian, lengths by band as the class's."""
    total, squares = profile.rest
    bands = [profile.leading[low:high].sqrt().float() for low, high in pairwise(BANDS)]
    if squares:
        numbers = POINT_NUMBERS if len(profile.distances) else FREE_NUMBERS
        room = max(1, numbers // points - BANDS[-1])
        dims = min(room, max(1, round(total**2 / squares)))
        bands.append(torch.full((dims,), math.sqrt(total / dims)))
    rows = torch.arange(points)
    if len(profile.energies):
        some = len(profile.energies)
        rows = torch.randperm(math.ceil(points / some) * some, generator=random)[:points] % some
    drawn = []
    for number, scales in enumerate(bands):
        if not len(scales):
            continue
        z = torch.randn(points, len(scales), generator=random) * scales
        if len(profile.energies):
            # a point keeps the lengths of one of the class in every band, in other directions
            shares = profile.energies[rows, -1 if number == len(BANDS) - 1 else number]
            energies = shares.float() * scales.square().sum()
            z *= (energies / z.square().sum(1).clamp(min=1e-30)).sqrt()[:, None]
            z += JITTER * scales * torch.randn(z.shape, generator=random)
        drawn.append(z)
    return torch.cat(drawn, 1) * math.sqrt(points / (points - 1))


def _factors(profile: Profile, points: int, squared: list[Tensor]) -> Callable[[int, int], Tensor]:
    """What multiplies distances so that their quantiles are the class's, as logs by pair [p, N].

    `squared` are those of pairs at `ranks(points)`.
    """
    logs = torch.cat(squared).double().clamp(min=1e-30).log()
    quantiles = _quantiles(profile, points)
    place = (logs.argsort(0).argsort(0).double() + 0.5) / len(logs)
    levels = (np.arange(len(quantiles)) + 0.5) / len(quantiles)
    target = np.stack(
        [np.interp(place[:, k], levels, column) for k, column in enumerate(quantiles.T)], 1
    )
    at_ranks = (torch.from_numpy(target) - logs).float()  # log d²(class) / d²(twin), [p, R]
    at, every = ranks(points).double().log(), torch.arange(1, points).double().log()
    right = torch.searchsorted(at, every).clamp(max=len(at) - 1)
    left = (right - 1).clamp(min=0)
    share = ((every - at[left]) / (at[right] - at[left]).clamp(min=1e-30)).clamp(0, 1).float()

    def factors(start: int, count: int) -> Tensor:
        rows = at_ranks[start : start + count]
        return rows[:, left].lerp(rows[:, right], share)

    return factors


def _quantiles(profile: Profile, points: int) -> np.ndarray:
    """The log squared distances to expect of so many points, [256, R]: at equal shares of them."""
    values = profile.distances.numpy()
    if points == profile.seen:
        return values
    # log k/n: the share of the points that are nearer
    logs = (ranks(profile.seen).double() / profile.seen).log().numpy()
    x = (ranks(points).double() / points).log().numpy()
    within = np.stack([np.interp(x, logs, row) for row in values])
    last = min(2, len(logs) - 1)
    # the median: near-duplicates are no power law
    slope = float(np.median(values[:, last] - values[:, 0]) / max(logs[last] - logs[0], 1e-30))
    return within + slope * np.minimum(x - logs[0], 0)
