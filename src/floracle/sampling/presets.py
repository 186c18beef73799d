"""The time grids of other projects: what N steps really are.

"50 steps" are 49 evaluations in SiT, 50 in REPA, and end at different places. Each preset repeats
one project's grid in float64 (several compute it in float32), with its own number of steps N:

    sit, lightningdit   linspace(0, 1, N), LightningDiT then shifts t by s         N − 1 steps
    repa                linspace(1, 0, N + 1) in s = 1 − t                         N
    repa-sde            linspace(1, .04, N) and 0, in s                            N
    rae                 1 − linspace(0, .999, N) in s, then shifted by k           N − 1
    flux                linspace(1, 1/N, N) in σ, shifted by k, and 0              N
    sd3                 from σ = 1 to the shifted 1/1000, shifted again, and 0     N
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.time_conventions import OUR_TIME, SIGMA, Shift, TimeConvention, flux_mu
from floracle.run.errors import InputError, suggestion

from .grid import check_grid, shift_times

LIGHTNINGDIT_SHIFT = 0.3
"""In every configuration of LightningDiT; its code alone has 0, which is off."""
RAE_DIMS = 16 * 16 * 768
RAE_END = 0.999
SD3_SHIFT = 3.0
SD3_TIMES = 1000
SDE_LAST = 0.04


@dataclass(frozen=True)
class Preset:
    """The grid that a project really follows."""

    name: str
    grid: Tensor
    """Our times, float64 [steps + 1], increasing; ends below 1 where the project's does."""
    readings: Tensor
    """The same on the project's own clock, float64 [steps + 1], in its own order."""
    clock: TimeConvention
    reads: str
    """What the project calls its clock."""
    evaluations: dict[str, int]
    """Evaluations of the network by solver, as that project counts; only solvers that it has."""
    shift: Shift
    note: str

    @property
    def steps(self) -> int:
        """The steps that are taken."""
        return len(self.grid) - 1


@dataclass(frozen=True)
class GridRecipe:
    """How a project makes its readings from its number of steps and the number it shifts by."""

    readings: Callable[[int, float], Tensor]
    note: str
    evaluations: Callable[[int], dict[str, int]]
    clock: TimeConvention = SIGMA
    reads: str = "s"
    shift: float | None = None
    """The number it shifts by unless told otherwise; None where it has no shift at all."""
    least: int = 1


def preset_grid(name: str, steps: int, *, shift: float | None = None) -> Preset:
    """The grid of a project for its own number of steps and its own notation of the shift.

    The shift is s for lightningdit (0 is off) and k = 1/s for flux, sd3 and rae; without one it is
    what the project is published with: .3, exp(1.15) for a picture of 4096 tokens, 3, and
    √(196608 / 4096) = 6.93.
    """
    recipe = named_recipe(name)
    if steps < recipe.least:
        raise InputError(f"{name} takes at least {recipe.least} steps, got {steps}")
    number = checked_shift(name, recipe, shift)
    readings = recipe.readings(steps, number)
    times = recipe.clock.to_t(readings) + 0.0  # which turns −0 into 0
    return Preset(
        name,
        check_grid(times),
        readings,
        recipe.clock,
        recipe.reads,
        recipe.evaluations(steps),
        Shift.of(s=number) if recipe.clock.towards_data else Shift.of(k=number),
        recipe.note,
    )


def named_recipe(name: str) -> GridRecipe:
    """A project's recipe by its name."""
    if name not in RECIPES:
        raise InputError(f"there is no grid {name!r}; {suggestion(name, RECIPES)}")
    return RECIPES[name]


def checked_shift(name: str, recipe: GridRecipe, shift: float | None) -> float:
    """The number a project shifts by; 1 where it does not."""
    if recipe.shift is None:
        if shift not in (None, 1):
            raise InputError(f"{name} has no shift; a shifted grid is time_grid(steps, shift=s)")
        return 1.0
    if shift is None:
        return recipe.shift
    if name == "lightningdit" and shift == 0:  # there 0 means off
        return 1.0
    if not 0 < shift < math.inf:
        raise InputError(f"shift must be positive, got {shift:g}; 1 leaves the steps equally long")
    if name == "rae" and shift < 1:
        raise InputError(f"rae refuses a shift below 1, got {shift:g}; its k is 1/s")
    return shift


def _evenly(first: float, last: float, count: int) -> Tensor:
    return torch.linspace(first, last, count, dtype=torch.float64)


def _torchdiffeq(steps: int) -> dict[str, int]:
    taken = steps - 1
    return {"euler": taken, "heun": 2 * taken, "midpoint": 2 * taken, "rk4": 4 * taken}


def _repa(steps: int) -> dict[str, int]:
    return {"euler": steps, "heun": 2 * steps - 1}


def _euler(steps: int) -> dict[str, int]:
    return {"euler": steps}


def _from_data_side(steps: int, shift: float) -> Tensor:
    return shift_times(_evenly(0, 1, steps), shift)


def _rae_readings(steps: int, k: float) -> Tensor:
    return shift_times(1 - _evenly(0, RAE_END, steps), k)


def _flux_readings(steps: int, k: float) -> Tensor:
    return _with_zero(shift_times(_evenly(1, 1 / steps, steps), k))


def _sd3_readings(steps: int, k: float) -> Tensor:
    last = shift_times(torch.tensor(1 / SD3_TIMES, dtype=torch.float64), k).item()
    return _with_zero(shift_times(_evenly(1, last, steps), k))


def _sde_readings(steps: int, _: float) -> Tensor:
    return _with_zero(_evenly(1, SDE_LAST, steps))


def _with_zero(readings: Tensor) -> Tensor:
    return torch.cat([readings, readings.new_zeros(1)])


RECIPES = {
    "sit": GridRecipe(
        _from_data_side,
        "num_steps are times, not steps; heun is torchdiffeq's heun2",
        _torchdiffeq,
        OUR_TIME,
        "t",
        least=2,
    ),
    "lightningdit": GridRecipe(
        _from_data_side,
        "num_sampling_steps are times, not steps; timestep_shift 0 is off",
        _torchdiffeq,
        OUR_TIME,
        "t",
        LIGHTNINGDIT_SHIFT,
        least=2,
    ),
    "repa": GridRecipe(
        lambda steps, _: _evenly(1, 0, steps + 1),
        "Heun ends with an Euler step",
        _repa,
    ),
    "repa-sde": GridRecipe(
        _sde_readings,
        "Euler–Maruyama, the last step of .04 without noise; uneven at its end",
        _euler,
    ),
    "rae": GridRecipe(
        _rae_readings,
        "stops short of data: s = .001 before the shift, .0069 after one of 6.93",
        _torchdiffeq,
        shift=math.sqrt(RAE_DIMS / 4096),
        least=2,
    ),
    "flux": GridRecipe(
        _flux_readings,
        "the same in BFL's code and in diffusers; k = exp(mu), mu from the number of image tokens",
        _euler,
        reads="σ",
        shift=math.exp(flux_mu(4096)),
    ),
    "sd3": GridRecipe(
        _sd3_readings,
        "diffusers' default set_timesteps shifts its last σ twice (huggingface/diffusers#13243);"
        " the network is passed 1000 σ",
        _euler,
        reads="σ",
        shift=SD3_SHIFT,
    ),
}
"""Every grid by its name."""
