"""Figure 3: how the dimension D and the number N of unit Gaussian points move the collapse.

Forward pairs are measured by Monte Carlo beside the closed form of the posterior weight of their
source (`predict`), and the collapse beside r = √(N^(2/D) − 1). Given a pair, the other points are
independent draws, so the sum S of their weights relative to that of the source has the mean
(N − 1) e^{−i}, i the pair's information; the closed form is the mean of 1 / (1 + E S). It lies
below the truth, 1 / (1 + S) being convex, except that i is taken as Gaussian: measured curves are
earlier by what the deviation shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce

import torch

from floracle.analysis.curves import Curve, bootstrap_means, find_landmark, first_crossings
from floracle.analysis.prediction.closed_form import predict
from floracle.analysis.stages.information import choose_times
from floracle.core.seeds import generator, noise
from floracle.data.store import open_store
from floracle.oracle.oracle import Oracle
from floracle.oracle.pairs.forward_pairs import PairCurves
from floracle.run.results import Results, provenance

from .figure_3_figures import cloud_name, draw_figure_3, isotropic_collapse
from .recipe import Parts, Recipe, RecipePlan, table_of

COLUMNS = (
    "collapse",
    "low",
    "high",
    "closed form",
    "isotropic",
    "top-1 from .25 to .75",
    "worst deviation",
    "its error",
    "at t",
)
"""The measured collapse with its 95 % interval; where the closed form is ½; r = √(N^(2/D) − 1);
how long the top-1 weight takes; how far the source's weight is from its closed form at most."""


@dataclass(frozen=True)
class Figure3Settings:
    """Which clouds are measured, and how precisely."""

    dims: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    points: tuple[int, ...] = (100, 1000, 10_000)
    clouds: int = 4
    """Clouds drawn of every size, so that no single one decides."""
    pairs: int = 256
    """Pairs a cloud, each averaged with the one of opposite noise."""
    times: int = 48
    seed: int = 0


def plan_figure_3(settings: Figure3Settings) -> RecipePlan:
    """A part for every size of cloud."""
    saved = {"item": "figure-3", **asdict(settings)}
    saved |= {"dims": list(settings.dims), "points": list(settings.points)}
    parts: dict[str, Callable[[Parts], Results]] = {
        cloud_name(dims, points): partial(_measure_size, settings, dims, points)
        for dims in settings.dims
        for points in settings.points
    }

    def join(parts: Parts) -> Results:
        rows = [{"": name} | {c: size.values[c] for c in COLUMNS} for name, size in parts.items()]
        arrays = {
            f"{name}/{key}": array
            for name, size in parts.items()
            for key, array in size.arrays.items()
        }
        return Results("figure-3", saved, {"table": table_of(rows)}, arrays, provenance())

    return RecipePlan(saved, parts, join)


def _measure_size(settings: Figure3Settings, dims: int, points: int, _: Parts) -> Results:
    """The weights of pairs of a few clouds of one size, beside their closed form."""
    predicted = predict(points, dims=dims)
    times = choose_times([predicted], settings.times)
    pairs = _measure_pairs(settings, dims, points, times)
    self_weight, max_weight = Curve.of(pairs.self_weight), Curve.of(pairs.max_weight)
    closed = predicted.self_weight(times)  # E[1 / (1 + E S)], [T]
    deviation = self_weight.mean - closed
    worst = int(deviation.abs().argmax())
    resampled = bootstrap_means(pairs.self_weight, settings.seed)
    mark = find_landmark(times, self_weight.mean, resampled, 0.5)  # the collapse, where it is ½
    quarter, three_quarters = (
        float(first_crossings(times, max_weight.mean[None], level)[0]) for level in (0.25, 0.75)
    )
    values = {
        "collapse": mark.value,
        "low": mark.low,
        "high": mark.high,
        "closed form": float(first_crossings(times, closed[None], 0.5)[0]),
        "isotropic": isotropic_collapse(dims, points),
        "top-1 from .25 to .75": three_quarters - quarter,
        "worst deviation": float(deviation[worst]),
        "its error": float(self_weight.error[worst]),
        "at t": float(times[worst]),
    }
    arrays = {
        "t": times,
        "self_weight": self_weight.mean,
        "self_weight_error": self_weight.error,
        "max_weight": max_weight.mean,
        "max_weight_error": max_weight.error,
        "closed": closed,
    }
    return Results("part", {}, values, arrays)


def _measure_pairs(
    settings: Figure3Settings, dims: int, points: int, times: torch.Tensor
) -> PairCurves:
    """Pairs of every cloud. Noise and clouds never share a seed, which would tie them together."""
    clouds = []
    for cloud in range(settings.clouds):
        # Of consecutive seeds the first is the cloud's, the second the rows', the others the
        # noise's.
        seed = _first_seed(settings.seed, dims, points) + cloud * (settings.pairs + 2)
        data = open_store(f"gaussian:{points}x{dims}:{seed}")
        rows = torch.randint(points, (settings.pairs,), generator=generator(seed + 1))
        noises = noise(range(seed + 2, seed + 2 + settings.pairs), data.shape)
        # Mirrored: the odd part of each curve in the noise cancels between ε and −ε.
        clouds.append(Oracle(data).pairs(rows, noises, times, mirrored=True))
    return reduce(PairCurves.joined, clouds)


def _first_seed(seed: int, dims: int, points: int) -> int:
    """The first of the seeds of a size, scattered over [0, 2³² − 2²¹) by hash multipliers."""
    # 2²¹ seeds are left above: the clouds × (pairs + 2) of a size are far fewer.
    scattered = seed * 0x9E3779B1 + dims * 0x85EBCA6B + points * 0xC2B2AE35
    return scattered % (2**32 - 2**21)


FIGURE_3 = Recipe(
    "figure-3",
    "Top-1 weight by time for synthetic unit Gaussians, D and N varied",
    Figure3Settings(),
    plan_figure_3,
    draw_figure_3,
    expected={
        cloud_name(16, 1000): {"collapse": 0.5233, "isotropic": 0.5394},
        cloud_name(256, 100): {"collapse": 0.1525, "isotropic": 0.1606},
        cloud_name(256, 1000): {"collapse": 0.1839, "isotropic": 0.1906},
        cloud_name(4096, 10_000): {"collapse": 0.06115, "isotropic": 0.06291},
    },
    quick=replace(Figure3Settings(), dims=(16, 64, 256), points=(100, 1000), clouds=2, pairs=32),
    figures=("figure-3", "figure-3-collapse"),
)
