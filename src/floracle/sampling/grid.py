"""Time grids: the times at which a field is evaluated.

A grid is a float64 tensor [steps + 1] that increases from noise (t = 0) towards data (t = 1).
Its shift is the curve

    t' = s t / (1 + (s − 1) t)

applied once: s < 1 spends more steps near noise, s > 1 more near data. It is the shift of
LightningDiT; that of SD3 and Flux is 1 / s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from floracle.run.errors import InputError

SAME_TIME = 1e-12  # times this close are one time


def time_grid(steps: int, *, shift: float = 1.0, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """Times float64 [steps + 1] from `start` to `stop`, both exact, along the shift curve.

    A grid of a part of [0, 1] follows the shift curve of [0, 1], not one of its own: a grid that
    starts at point k of a full grid, with the remaining steps, is the remainder of that grid.
    """
    if steps < 1:
        raise InputError(f"a grid has at least one step, got steps = {steps}")
    if not 0 <= start < stop <= 1:
        raise InputError(f"a grid runs from 0 <= start < stop <= 1, got {start:g} to {stop:g}")
    low, high = unshift_times(torch.tensor([start, stop], dtype=torch.float64), shift)
    fractions = torch.arange(steps + 1, dtype=torch.float64) / steps
    grid = shift_times(low + (high - low) * fractions, shift)
    grid[0], grid[-1] = start, stop  # which rounding may have moved
    return check_grid(grid)


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Times t' = s t / (s t + 1 − t); 0 and 1 stay, exactly."""
    if not 0 < shift < float("inf"):
        raise InputError(f"shift must be positive, got {shift:g}; 1 leaves the steps equally long")
    return shift * t / (shift * t + (1 - t))


def unshift_times(t: Tensor, shift: float) -> Tensor:
    """The inverse of `shift_times`: the curve of s, mirrored in time, is that of 1 / s."""
    return 1 - shift_times(1 - t, shift)


def split_grid(grid: Tensor, at: float) -> tuple[Tensor, Tensor]:
    """The parts of a grid before and after a time, which is a point of both.

    A point of the grid within 1e-12 of `at` is taken for it; without one, `at` is inserted.
    """
    grid = check_grid(grid)
    if not grid[0] + SAME_TIME < at < grid[-1] - SAME_TIME:
        raise InputError(f"a grid is cut inside ({grid[0]:g}, {grid[-1]:g}), got {at:g}")
    nearest = int((grid - at).abs().argmin())
    if abs(grid[nearest].item() - at) <= SAME_TIME:
        return grid[: nearest + 1].clone(), grid[nearest:].clone()
    point = grid.new_tensor([at])
    return torch.cat([grid[grid < at], point]), torch.cat([point, grid[grid > at]])


def share_of_steps(grid: Tensor, until: float) -> float:
    """The share of steps that begin at or before the time `until` (Table 2 of the paper)."""
    starts = check_grid(grid)[:-1]
    return (starts <= until + SAME_TIME).double().mean().item()


def check_grid(grid: Tensor) -> Tensor:
    """A grid in float64 on the CPU; refused unless it increases inside [0, 1]."""
    grid = torch.as_tensor(grid).detach().to("cpu", torch.float64)
    if grid.ndim != 1 or len(grid) < 2:
        raise InputError(f"a grid is [steps + 1] with at least one step, got {list(grid.shape)}")
    outside = ~((grid >= 0) & (grid <= 1))  # NaN too
    if outside.any():
        i = int(outside.int().argmax())
        raise InputError(
            f"grid must lie in [0, 1], but its point {i} is {grid[i]:g}; t = 1 is data"
        )
    falls = grid.diff() <= 0
    if falls.any():
        i = int(falls.int().argmax()) + 1
        raise InputError(
            f"grid must increase, but {grid[i]:.6g} follows {grid[i - 1]:.6g}; t = 0 is noise"
        )
    return grid
