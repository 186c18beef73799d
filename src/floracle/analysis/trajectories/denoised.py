"""Along the trajectories of a field: its predictions, how fast it moves, how it turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.run.errors import InputError
from floracle.sampling.sample import State
from floracle.sampling.solvers import implied_data

from .frequency_bands import Bands

SAME = 1e-5
"""Predictions this close, relative to the norms of noise and sample, differ by rounding."""


class DenoisedMarks(NamedTuple):
    """Which times of the grid matter, and which frequencies."""

    late: int
    """The time whose prediction the others are compared with."""
    places: list[int]
    """The times whose predictions are kept."""
    bands: Bands | None
    """The lowest of them is layout; None where samples are no pictures."""
    path: ProbabilityPath = LINEAR


class Part(NamedTuple):
    """What was measured of some of the trajectories."""

    columns: dict[str, Tensor]
    """By name, [b, T] or [b, T − 1]; see `Probe`."""
    detours: Tensor
    kept: Tensor
    """x̂ at the places, float32 [b, K, *shape]; the sample itself at the last."""


def measure_denoised(
    x: Tensor, states: Iterable[State], grid: Tensor, marks: DenoisedMarks
) -> Part:
    """Follow states from x [b, *shape], the noise, and measure."""
    before, end, scale = None, x, x[0].numel() ** 0.5
    predictions, speeds, turning, length = [], [], [], torch.zeros(len(x)).double()
    for state in states:
        length += _norms(state.x - end)
        end = state.x
        if state.velocity is None:
            break
        if not state.velocity.isfinite().all():
            raise InputError(f"the field's velocity at t = {state.t:g} is not finite")
        velocity = state.velocity.double()
        predictions.append(implied_data(end.double(), velocity, state.t, marks.path).float())
        speeds.append(_norms(velocity) / scale)
        if before is not None:
            turning.append(_across(before, velocity) / scale)
        before = velocity
    steps, rounding = grid[:-1].diff(), (SAME * (_norms(x) + _norms(end))).square()
    moves = [_norms(after - first) for first, after in pairwise(predictions)]
    columns = {
        "remaining": _shares(predictions, marks.late, rounding),
        "speed": torch.stack(speeds, 1),
        "change": torch.stack(moves, 1) / (scale * steps),
        "turning": torch.stack(turning, 1) / steps,
    }
    if marks.bands is not None:
        columns["layout"] = _shares(predictions, marks.late, rounding, marks.bands)
    chord = _norms(end - x)
    kept = [*(predictions[k] for k in marks.places[:-1]), end.float()]
    detours = torch.where(chord > 0, length / chord, 1.0)  # what stands still is straight
    return Part(columns, detours, torch.stack(kept, 1))


def _shares(
    predictions: Sequence[Tensor], late: int, rounding: Tensor, bands: Bands | None = None
) -> Tensor:
    """‖x̂ − x̂(u)‖² as shares of the first, by time [b, T]; of the lowest band where there are."""
    apart = (mean - predictions[late] for mean in predictions)
    left = [_norms(d).square() if bands is None else bands.energies(d)[:, 0] for d in apart]
    whole = left[0][:, None]
    return torch.where(whole > rounding[:, None], torch.stack(left, 1) / whole, 0.0)


def _across(first: Tensor, then: Tensor) -> Tensor:
    """The part of a change of velocity across the mean of both, [b]."""
    change, mean = (then - first).flatten(1), (then + first).flatten(1)
    along = (change * mean).sum(1) / mean.square().sum(1).clamp(min=1e-300)
    return (change - along[:, None] * mean).norm(dim=1)


def _norms(values: Tensor) -> Tensor:
    return values.double().flatten(1).norm(dim=1)
