"""What this machine does in a second, measured in some hundredths of a second for each speed.

Each speed is that of the code that a run spends its time in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from floracle.core.point_set import Block
from floracle.core.seeds import generator, noise
from floracle.core.spectrum import PASS_BYTES, Moments
from floracle.data.store import Store
from floracle.oracle.pairs.pair_posteriors import ProductRows, pair_posteriors

MIN_TIMING_SECONDS = 0.06
"""Spent on measuring each speed, at least."""
MIN_RUNS, MAX_RUNS = 3, 50


class Speeds(NamedTuple):
    """What this machine does in a second."""

    product: float
    """Operations of a float32 product."""
    moments: float
    """Values of points of which moments are taken."""
    weights: float
    """Posterior weights that are computed at one time of a pair."""
    noise: float
    """Values of noise that are drawn."""
    fresh: float
    """Float64 values that are written to memory that was not used before."""
    reading: float
    """Values of points that are read from where they are stored; infinite where they are held."""


def measure_speeds(store: Store) -> Speeds:
    """The speeds of this machine now."""
    return Speeds(
        _product_speed(),
        _moment_speed(),
        _weight_speed(),
        _noise_speed(),
        _fresh_speed(),
        _reading_speed(store),
    )


def _product_speed(side: int = 768) -> float:
    a = torch.ones(side, side)
    product = torch.empty_like(a)
    return 2 * side**3 / _shortest(lambda: torch.mm(a, a, out=product))


def _moment_speed() -> float:
    rows = PASS_BYTES // (8 * 1024)
    weights = torch.full((rows,), 1 / rows, dtype=torch.float64)
    block = Block(torch.arange(rows), weights, torch.ones(rows, 1024))
    return block.points.numel() / _shortest(lambda: Moments.of_block(block))


def _weight_speed(pairs: int = 64, points: int = 2048, times: int = 50, dims: int = 16) -> float:
    """Of pairs of a Gaussian cloud, from noise to long past the end of navigation."""
    x = torch.randn(points, dims, generator=generator(0))
    eps = torch.randn(pairs, dims, generator=generator(1))
    half_norms, own = x.square().sum(1) / 2, x[:pairs]
    # ½ ‖x_j − x_o‖² and ε·(x_j − x_o), [p, n]
    half = (half_norms + half_norms[:pairs, None] - own @ x.T).clamp(min=0)
    pull = eps @ x.T - torch.linalg.vecdot(eps, own)[:, None]
    rows = ProductRows.of(pull, half, half_norms - half_norms[:pairs, None], dtype=pull.dtype)
    ratio = torch.expm1(torch.linspace(0, 4, times, dtype=torch.float64)).sqrt()
    near, none = half.amin(1), torch.full((pairs,), -1)
    seconds = _shortest(lambda: pair_posteriors(rows, near, none, ratio, mirrored=True, classes=0))
    return 2 * pairs * times * points / seconds


def _noise_speed(count: int = 8, dims: int = 2**15) -> float:
    return count * dims / _shortest(lambda: noise(range(count), (dims,)))


def _fresh_speed(count: int = 2**23) -> float:
    return count / _shortest(lambda: torch.empty(count, dtype=torch.float64).fill_(1.0))


def _reading_speed(store: Store, values: int = 2**20) -> float:
    """From a few rows one after the other."""
    if store.resident:
        return float("inf")
    dims = torch.Size(store.shape).numel()
    rows = torch.arange(max(1, min(len(store), values // dims)))
    return len(rows) * dims / _shortest(lambda: store.take(rows), runs=1)


def _shortest(run: Callable[[], object], *, runs: int = MIN_RUNS) -> float:
    """The shortest of several runs, in seconds; on a busy machine most of them are disturbed."""
    seconds: list[float] = []
    while len(seconds) < runs or (sum(seconds) < MIN_TIMING_SECONDS and len(seconds) < MAX_RUNS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return max(min(seconds), 1e-9)
