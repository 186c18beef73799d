"""Figure 3: how the dimension D and the number N of unit Gaussian points move the collapse.

Pairs are followed by Monte Carlo beside the closed form of their own weight (`predict`), and the
collapse beside r = √(N^(2/D) − 1). Given a pair, the other points are independent draws, so the
sum S of their weights against the own one has mean (N − 1) e^{−i}, i the pair's information; the
closed form is the mean of 1 / (1 + E S). It lies below the truth, 1 / (1 + S) being convex,
except that i is taken as Gaussian: measured curves are earlier by what the deviation shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from floracle.analysis.curves import Curve, bootstrap_means, crossing, landmark
from floracle.analysis.prediction.closed_form import predict
from floracle.analysis.stages.information import times_for
from floracle.core.seeds import generator, noise
from floracle.data.store import open_store
from floracle.oracle.oracle import Oracle
from floracle.oracle.pairs.forward_pairs import PairCurves
from floracle.run.results import Results, provenance

from .figure_3_drawing import draw
from .recipe import Parts, Recipe, RecipePlan, table

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
how long the top-1 weight takes; how far the own weight is from its closed form at most."""


@dataclass(frozen=True)
class Figure3Settings:
    """Which clouds are measured, and how well."""

    dims: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    points: tuple[int, ...] = (100, 1000, 10_000)
    clouds: int = 4
    """Clouds drawn of every size, so that no single one decides."""
    pairs: int = 256
    """Pairs a cloud, each averaged with the one of opposite noise."""
    times: int = 48
    seed: int = 0


def plan(settings: Figure3Settings) -> RecipePlan:
    """A part for every size of cloud."""
    asked = {
        "item": "figure-3",
        **asdict(settings),
        "dims": list(settings.dims),
        "points": list(settings.points),
    }
    parts: dict[str, Callable[[Parts], Results]] = {
        name_of(dims, points): partial(_measured, settings, dims, points)
        for dims in settings.dims
        for points in settings.points
    }

    def joined(found: Parts) -> Results:
        rows = [{"": name} | {c: part.values[c] for c in COLUMNS} for name, part in found.items()]
        arrays = {
            f"{name}/{key}": array
            for name, part in found.items()
            for key, array in part.arrays.items()
        }
        return Results("figure-3", asked, {"table": table(rows)}, arrays, provenance())

    return RecipePlan(asked, parts, joined)


def name_of(dims: int, points: int) -> str:
    """What a size of cloud is called in the table."""
    return f"D={dims} N={points}"


def isotropic_collapse(dims: int, points: int) -> float:
    """The time at which α/σ is √(N^(2/D) − 1): a unit Gaussian tells log N nats by then."""
    ratio = math.sqrt(math.expm1(2 * math.log(points) / dims))
    return ratio / (1 + ratio)


def _measured(settings: Figure3Settings, dims: int, points: int, _: Parts) -> Results:
    """The weights of pairs of a few clouds of one size, beside their closed form."""
    predicted = predict(points, dims=dims)
    times = times_for([predicted], settings.times)
    found = _pairs(settings, dims, points, times)
    own, top = Curve.of(found.self_weight), Curve.of(found.max_weight)
    closed = predicted.own(times)
    deviation = own.mean - closed
    worst = int(deviation.abs().argmax())
    mark = landmark(times, own.mean, bootstrap_means(found.self_weight, settings.seed), 0.5)
    levels = [float(crossing(times, top.mean[None], level)[0]) for level in (0.25, 0.75)]
    values = {
        "collapse": mark.value,
        "low": mark.low,
        "high": mark.high,
        "closed form": float(crossing(times, closed[None], 0.5)[0]),
        "isotropic": isotropic_collapse(dims, points),
        "top-1 from .25 to .75": levels[1] - levels[0],
        "worst deviation": float(deviation[worst]),
        "its error": float(own.error[worst]),
        "at t": float(times[worst]),
    }
    arrays = {
        "t": times,
        "self_weight": own.mean,
        "self_weight_error": own.error,
        "max_weight": top.mean,
        "max_weight_error": top.error,
        "closed": closed,
    }
    return Results("part", {}, values, arrays)


def _pairs(settings: Figure3Settings, dims: int, points: int, times: torch.Tensor) -> PairCurves:
    """Pairs of every cloud; noise and clouds never share a seed, which would tie them together."""
    first = _first_seed(settings.seed, dims, points)
    parts = []
    for cloud in range(settings.clouds):
        start = first + cloud * (settings.pairs + 2)
        data = open_store(f"gaussian:{points}x{dims}:{start}")
        rows = torch.randint(points, (settings.pairs,), generator=generator(start + 1))
        drawn = noise(range(start + 2, start + 2 + settings.pairs), data.shape)
        parts.append(Oracle(data).pairs(rows, drawn, times, mirrored=True))
    found = parts[0]
    for part in parts[1:]:
        found = found.joined(part)
    return found


def _first_seed(seed: int, dims: int, points: int) -> int:
    """The first of the seeds of a size, scattered over [0, 2³² − 2²¹)."""
    scattered = seed * 0x9E3779B1 + dims * 0x85EBCA6B + points * 0xC2B2AE35
    return scattered % (2**32 - 2**21)


FIGURE_3 = Recipe(
    "figure-3",
    "Top-1 weight by time for synthetic unit Gaussians, D and N varied",
    Figure3Settings(),
    plan,
    draw,
    expected={
        name_of(16, 1000): {"collapse": 0.5233, "isotropic": 0.5394},
        name_of(256, 100): {"collapse": 0.1525, "isotropic": 0.1606},
        name_of(256, 1000): {"collapse": 0.1839, "isotropic": 0.1906},
        name_of(4096, 10_000): {"collapse": 0.06115, "isotropic": 0.06291},
    },
    quick=replace(Figure3Settings(), dims=(16, 64, 256), points=(100, 1000), clouds=2, pairs=32),
    figures=("figure-3", "figure-3-collapse"),
)
