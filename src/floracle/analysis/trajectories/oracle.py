"""What happens along oracle trajectories: how fast they move, how they turn, when they decide.

A trajectory starts from noise and follows the oracle by Euler steps, so with velocities v_k and
steps h_k it ends at x_0 + Σ h_k v_k. Its energy ½ Σ h_k ‖v_k‖² is at least that of the straight
line between its ends, ½ ‖Σ h_k v_k‖² / Σ h_k, by Cauchy and Schwarz; the ratio of the two is 1 for
a straight line at constant speed alone (Liu et al. 2023 call the difference straightness).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate, standard_error
from floracle.core.paths import convert
from floracle.core.seeds import noise
from floracle.oracle.oracle import Oracle
from floracle.oracle.posterior import Posterior
from floracle.run.errors import InputError
from floracle.sampling.grid import check_grid
from floracle.sampling.sample import labels_of
from floracle.sampling.solvers import step


@dataclass(frozen=True)
class OracleTrajectories:
    """Oracle trajectories, averaged by time; every curve is over the times it names."""

    times: Tensor
    """The times at which the oracle was asked: the grid without its end, float64 [T]."""
    curves: dict[str, Curve]
    """By time [T]: `speed` ‖v‖/√D, `top` the largest weight, `log_density` log p_t(x_t) / D.

    Between a time and the next [T − 1]: `curvature`, the angle between their velocities in radians
    over the length of the step in units of √D; `change` of x̂, as a share of how far x̂ moves from
    its first value to its last.
    """
    energy: Estimate
    """½ ∫ ‖v‖² dt per dimension."""
    straightness: Estimate
    """The energy over that of the straight line between the ends; 1 at the least."""
    rows: Tensor
    """The training row each trajectory ends on, int64 [b]."""
    weights: Tensor
    """The weight of that row at the last time, float64 [b]."""
    misses: Tensor
    """How far from that row it ends, per √D, float64 [b]."""
    ends: Tensor
    """Where the trajectories end, float64 [b, *shape]."""


@dataclass(frozen=True)
class _Moment:
    """One time of the trajectories: states [b, D], velocities, predictions x̂ and the votes."""

    t: float
    h: float
    x: Tensor
    velocity: Tensor
    votes: Posterior


@torch.no_grad()
def oracle_trajectories(
    oracle: Oracle, seeds: Sequence[int], grid: Tensor, labels: Tensor | int | None = None
) -> OracleTrajectories:
    """Follow the oracle by Euler steps from the noise of each seed, and measure on the way.

    The grid starts at t = 0; it should end at 1 for the rows to be the samples that are found.
    """
    if not len(seeds):
        raise InputError("there is no trajectory to follow; give at least one seed")
    times = check_grid(grid)
    if times[0] != 0 or len(times) < 3:
        raise InputError(
            f"trajectories start from noise and take 2 steps, got {times.tolist()[:3]}"
        )
    x = noise(seeds, oracle.data.shape).double()
    moments, end = _moments(oracle, x, times, labels_of(x, labels))
    return _measured(oracle, moments, end)


def _moments(
    oracle: Oracle, x: Tensor, times: Tensor, labels: Tensor | None
) -> tuple[list[_Moment], Tensor]:
    found = []
    for t, s in pairwise(times.tolist()):
        asked = torch.full((len(x),), t, dtype=torch.float64)
        votes = oracle.posterior(x, asked, labels, top=1)
        known = {"source": "data", "target": "velocity", "path": oracle.path}
        velocity = convert(votes.mean, x, asked, **known)
        found.append(_Moment(t, s - t, x, velocity, votes))
        x = step(oracle, x, t, s, labels=labels, velocity=velocity)
    return found, x


def _measured(oracle: Oracle, moments: list[_Moment], end: Tensor) -> OracleTrajectories:
    last = moments[-1].votes
    rows = last.top_rows[:, 0]
    dims = end[0].numel()
    lengths = torch.tensor([moment.h for moment in moments], dtype=torch.float64)
    speeds = torch.stack([_norms(moment.velocity) for moment in moments], 1) / dims**0.5
    energy = (speeds.square() @ lengths) / 2
    straight = _norms(end - moments[0].x).square() / (2 * dims * lengths.sum())
    straightness = torch.where(energy > 0, energy / straight, 1.0)  # what stands still is straight
    columns = {
        "speed": speeds,
        "max_weight": torch.stack([moment.votes.top_weights[:, 0] for moment in moments], 1),
        "log_density": torch.stack([_log_density(oracle, moment) for moment in moments], 1) / dims,
        "curvature": torch.stack([_curvature(a, b) for a, b in pairwise(moments)], 1),
        "change": _changes(moments),
    }
    return OracleTrajectories(
        times=torch.tensor([moment.t for moment in moments], dtype=torch.float64),
        curves={name: Curve.of(values) for name, values in columns.items()},
        energy=_estimate(energy),
        straightness=_estimate(straightness),
        rows=rows,
        weights=last.top_weights[:, 0],
        misses=_norms(end - oracle.data.take(rows).double()) / dims**0.5,
        ends=end,
    )


def _log_density(oracle: Oracle, moment: _Moment) -> Tensor:
    sigma = oracle.path.coefficients(torch.tensor([moment.t])).sigma
    normal = moment.x[0].numel() / 2 * (2 * math.pi * sigma**2).log()
    return moment.votes.log_mass - normal


def _curvature(first: _Moment, second: _Moment) -> Tensor:
    """The angle between two velocities over the length between them per √D, [b]."""
    a, b = (_directions(moment.velocity) for moment in (first, second))
    angle = 2 * torch.atan2(_norms(a - b), _norms(a + b))  # exact for small angles, unlike acos
    length = first.h * _norms(first.velocity) / first.x[0].numel() ** 0.5
    return angle / length.clamp(min=1e-300)


def _changes(moments: list[_Moment]) -> Tensor:
    """How far x̂ moves in each step, as a share of the way from its first to its last, [b, T−1]."""
    means = [moment.votes.mean for moment in moments]
    moves = torch.stack([_norms(after - before) for before, after in pairwise(means)], 1)
    return moves / _norms(means[-1] - means[0]).clamp(min=1e-300)[:, None]


def _directions(velocity: Tensor) -> Tensor:
    flat = velocity.flatten(1)
    return flat / _norms(flat).clamp(min=1e-300)[:, None]


def _norms(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


def _estimate(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(standard_error(values)))
