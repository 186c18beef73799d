"""Measures along oracle trajectories: speed, curvature, weights, energy and where they end.

A trajectory starts from noise and follows the oracle by Euler steps, so with velocities v_k and
steps h_k it ends at x_0 + Σ h_k v_k. Its energy ½ Σ h_k ‖v_k‖² is at least that of the straight
line between its ends, ½ ‖Σ h_k v_k‖² / Σ h_k, by Cauchy and Schwarz; the ratio of the two is 1
for a straight line at constant speed alone (Liu et al. 2023 call the difference straightness).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate, standard_error
from floracle.core.paths import convert
from floracle.core.seeds import noise
from floracle.oracle.oracle import Oracle
from floracle.oracle.posterior import Posterior
from floracle.run.errors import InputError
from floracle.sampling.grid import check_grid
from floracle.sampling.sample import expand_labels
from floracle.sampling.solvers import step


@dataclass(frozen=True)
class OracleTrajectories:
    """Oracle trajectories, averaged by time."""

    times: Tensor
    """Times of the oracle: the grid without its end, float64 [T]."""
    curves: dict[str, Curve]
    """By time [T]: `speed` ‖v‖/√D; `max_weight`, the largest posterior weight; `log_density`,
    log p_t(x_t) / D. From a time to the next [T − 1]: `curvature`, the angle between velocities in
    radians over the length of the step in units of √D; `change` of x̂, as a share of the distance
    between its first and last values."""
    energy: Estimate
    """½ ∫ ‖v‖² dt per dimension."""
    straightness: Estimate
    """The energy over that of the straight line between the ends; at least 1."""
    rows: Tensor
    """The training row of the largest weight at the last time, int64 [b]."""
    weights: Tensor
    """That weight, float64 [b]."""
    misses: Tensor
    """The distance of the end from that row, per √D, float64 [b]."""
    ends: Tensor
    """float64 [b, *shape]."""


class _State(NamedTuple):
    """Trajectories at one time: x and the velocity [b, *shape], and the posterior."""

    t: float
    step: float
    x: Tensor
    velocity: Tensor
    posterior: Posterior


@torch.no_grad()
def oracle_trajectories(
    oracle: Oracle, seeds: Sequence[int], grid: Tensor, labels: Tensor | int | None = None
) -> OracleTrajectories:
    """Follow the oracle by Euler steps from the noise of each seed, and measure on the way.

    The grid [T + 1] starts at t = 0; it should end at 1 for the ends to be training points.
    """
    if not len(seeds):
        raise InputError("no seeds given; pass at least one")
    times = check_grid(grid)
    if times[0] != 0 or len(times) < 3:
        raise InputError(
            f"trajectories start from noise and take 2 steps, got {times.tolist()[:3]}"
        )
    x, states = noise(seeds, oracle.data.shape).double(), []
    classes = expand_labels(x, labels)
    for t, s in pairwise(times.tolist()):
        t_all = torch.full((len(x),), t, dtype=torch.float64)
        # one query gives weights and mean; the velocity follows from the mean
        posterior = oracle.posterior(x, t_all, classes, top=1)
        velocity = convert(
            posterior.mean, x, t_all, source="data", target="velocity", path=oracle.path
        )
        states.append(_State(t, s - t, x, velocity, posterior))
        x = step(oracle, x, t, s, labels=classes, velocity=velocity)
    return _average(oracle, states, end=x)


def _average(oracle: Oracle, states: list[_State], end: Tensor) -> OracleTrajectories:
    last, dims = states[-1].posterior, end[0].numel()
    rows = last.top_rows[:, 0]
    steps = torch.tensor([state.step for state in states], dtype=torch.float64)  # h_k [T]
    speeds = torch.stack([_norms(state.velocity) for state in states], 1) / dims**0.5  # [b, T]
    energy = (speeds.square() @ steps) / 2  # ½ Σ h_k ‖v_k‖² / D
    straight = _norms(end - states[0].x).square() / (2 * dims * steps.sum())
    straightness = torch.where(energy > 0, energy / straight, 1.0)  # a point at rest is straight
    columns = {
        "speed": speeds,
        "max_weight": torch.stack([state.posterior.top_weights[:, 0] for state in states], 1),
        "log_density": torch.stack([_log_density(oracle, state) for state in states], 1) / dims,
        "curvature": torch.stack([_curvature(a, b) for a, b in pairwise(states)], 1),
        "change": _prediction_changes([state.posterior.mean for state in states]),
    }
    return OracleTrajectories(
        times=torch.tensor([state.t for state in states], dtype=torch.float64),
        curves={name: Curve.of(values) for name, values in columns.items()},
        energy=_estimate(energy),
        straightness=_estimate(straightness),
        rows=rows,
        weights=last.top_weights[:, 0],
        misses=_norms(end - oracle.data.take(rows).double()) / dims**0.5,
        ends=end,
    )


def _log_density(oracle: Oracle, state: _State) -> Tensor:
    """Log p_t(x) [b] = log Σ w_i exp(−‖x − α data_i‖² / 2σ²) − D/2 log 2πσ²."""
    sigma = oracle.path.coefficients(torch.tensor([state.t])).sigma
    normal = state.x[0].numel() / 2 * (2 * math.pi * sigma**2).log()
    return state.posterior.log_mass - normal


def _curvature(first: _State, second: _State) -> Tensor:
    """The angle between two velocities over the length of the step per √D, [b]."""
    a, b = (_directions(state.velocity) for state in (first, second))
    # exact for small angles, unlike acos ⟨a, b⟩, whose error is the root of rounding there
    angle = 2 * torch.atan2(_norms(a - b), _norms(a + b))
    length = first.step * _norms(first.velocity) / first.x[0].numel() ** 0.5
    return angle / length.clamp(min=1e-300)


def _prediction_changes(means: list[Tensor]) -> Tensor:
    """‖Δx̂‖ of each step, as a share of the distance between first and last x̂, [b, T − 1]."""
    moves = torch.stack([_norms(after - before) for before, after in pairwise(means)], 1)
    return moves / _norms(means[-1] - means[0]).clamp(min=1e-300)[:, None]


def _directions(velocity: Tensor) -> Tensor:
    flat = velocity.flatten(1)
    return flat / _norms(flat).clamp(min=1e-300)[:, None]


def _norms(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


def _estimate(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(standard_error(values)))
