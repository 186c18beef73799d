"""Measures along the trajectories of a field: predictions, speed and turning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.sampling.sample import State
from floracle.sampling.solvers import implied_data

from .frequency_bands import Bands

ROUNDING = 1e-5
"""Predictions this close, relative to the norms of noise and sample, differ by rounding."""


class TrajectoryMeasures(NamedTuple):
    """Measures of a batch of trajectories."""

    columns: dict[str, Tensor]
    """By name, [b, T] or [b, T − 1]; see `ProbeResult`."""
    detours: Tensor
    predictions: Tensor
    """x̂ at the times that are kept, float32 [b, K, *shape]; the sample itself at the last."""


def measure_trajectories(
    x: Tensor,
    states: Iterable[State],
    grid: Tensor,
    *,
    late: int,
    prediction_indices: Sequence[int],
    bands: Bands | None = None,
    path: ProbabilityPath = LINEAR,
) -> TrajectoryMeasures:
    """Measure states as they come, from the noise x [b, *shape] on.

    Predictions are compared with that at index `late` of the grid, and kept at the
    `prediction_indices`, whose last is that of the sample. The lowest of `bands` is coarse
    structure.
    """
    previous, end, scale = None, x, x[0].numel() ** 0.5  # scale √D
    predictions, speeds, turning, length = [], [], [], torch.zeros(len(x)).double()
    for state in states:
        length += _norms(state.x - end)
        end = state.x
        if state.velocity is None:  # the end of the grid
            break
        velocity = state.velocity.double()
        # in float64, since (1 − t) v nearly cancels x; kept as float32, half of the memory
        predictions.append(implied_data(end.double(), velocity, state.t, path).float())
        speeds.append(_norms(velocity) / scale)
        if previous is not None:
            turning.append(_turning(previous, velocity) / scale)
        previous = velocity
    steps = grid[:-1].diff()
    tolerance = (ROUNDING * (_norms(x) + _norms(end))).square()  # [b]
    moves = [_norms(after - before) for before, after in pairwise(predictions)]
    columns = {
        "remaining": _remaining_shares(predictions, late, tolerance),
        "speed": torch.stack(speeds, 1),
        "change": torch.stack(moves, 1) / (scale * steps),
        "turning": torch.stack(turning, 1) / steps,
    }
    if bands is not None:
        columns["layout"] = _remaining_shares(predictions, late, tolerance, bands)
    chord = _norms(end - x)
    shown = [*(predictions[k] for k in prediction_indices[:-1]), end.float()]
    detours = torch.where(chord > 0, length / chord, 1.0)  # a trajectory of length 0 is straight
    return TrajectoryMeasures(columns, detours, torch.stack(shown, 1))


def _remaining_shares(
    predictions: Sequence[Tensor], late: int, tolerance: Tensor, bands: Bands | None = None
) -> Tensor:
    """ρ(t) = ‖x̂(t) − x̂(u)‖² / ‖x̂(0) − x̂(u)‖² [b, T], in the lowest band where there are bands.

    0 where x̂(0) and x̂(u) are the same up to rounding.
    """
    differences = (prediction - predictions[late] for prediction in predictions)
    squares = [
        _norms(d).square() if bands is None else bands.energies(d)[:, 0] for d in differences
    ]
    initial = squares[0][:, None]
    return torch.where(initial > tolerance[:, None], torch.stack(squares, 1) / initial, 0.0)


def _turning(first: Tensor, second: Tensor) -> Tensor:
    """The norm [b] of the change of velocity across the mean of both velocities."""
    change, mean = (second - first).flatten(1), (second + first).flatten(1)
    along = (change * mean).sum(1) / mean.square().sum(1).clamp(min=1e-300)
    return (change - along[:, None] * mean).norm(dim=1)


def _norms(values: Tensor) -> Tensor:
    return values.double().flatten(1).norm(dim=1)
