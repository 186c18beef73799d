"""The time grids of other projects: what N steps really are.

"50 steps" are 49 evaluations in SiT, 50 in REPA, and end at different places. Each preset repeats
one project's grid in float64 (several compute it in float32), with its own number of steps N:

    sit, lightningdit   linspace(0, 1, N), LightningDiT then shifts t by s         N − 1 steps
    repa                linspace(1, 0, N + 1) in s = 1 − t                         N
    repa-sde            linspace(1, .04, N) and 0, in s                            N
    rae                 1 − linspace(0, .999, N) in s, then shifted by k           N − 1
    flux                linspace(1, 1/N, N) in σ, shifted by k, and 0              N
    sd3                 from σ = 1 to the shifted 1/1000, shifted again, and 0     N
                        with mu: linspace(1, 1/1000, N) in σ, shifted once, and 0  N
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from floracle.core.time_conventions import OUR_TIME, SIGMA, Shift, TimeConvention, flux_mu
from floracle.run.errors import InputError, suggestion

from .grid import check_grid, shift_times
from .solvers import SOLVERS

LIGHTNINGDIT_SHIFT = 0.3  # in all its configurations; its code alone has 0, which is off
RAE_DIMS = 16 * 16 * 768  # of its latents; it shifts by √(dims / 4096)
RAE_LAST = 0.999
SD3_SHIFT, SD3_TIMESTEPS = 3.0, 1000
SDE_LAST = 0.04


@dataclass(frozen=True)
class Preset:
    """The grid that a project really follows."""

    name: str
    grid: Tensor
    """t, float64 [steps + 1], increasing; ends below 1 where the project's does."""
    clock_times: Tensor
    """The same on the project's own clock, float64 [steps + 1], in its own order."""
    clock: TimeConvention
    clock_name: str
    """The project's name for its clock."""
    evaluations: dict[str, int]
    """Evaluations of the network by solver, as that project counts; only solvers that it has."""
    shift: Shift
    note: str

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.grid) - 1


@dataclass(frozen=True)
class GridRecipe:
    """How a project makes its grid from its number of steps and the number it shifts by."""

    clock_times: Callable[[int, float], Tensor]
    note: str
    evaluations: Callable[[int], dict[str, int]]
    clock: TimeConvention = SIGMA
    clock_name: str = "s"
    shift: float | None = None
    """The default of the number it shifts by; None where it has no shift."""
    min_steps: int = 1
    dynamic_times: Callable[[int, float], Tensor] | None = None
    """The times where it is given mu = log k; None where it takes none."""
    dynamic_note: str = ""
    """The note of these times, where it is another."""


def preset_grid(
    name: str,
    steps: int,
    *,
    project_shift: float | None = None,
    mu: float | None = None,
    shift: float | None = None,
) -> Preset:
    """The grid of a project for its own number of steps and its own notation of the shift.

    Parameters
    ----------
    name, steps
        A project, and its number of steps as it counts them.
    project_shift
        As the project's files write it: s for lightningdit (0 is off), k = 1/s for flux, sd3 and
        rae; by default that of the publication: .3, exp(1.15) for a picture of 4096 tokens, 3, and
        √(196608 / 4096) = 6.93.
    mu
        For flux and sd3, instead: log k, as diffusers' dynamic shifting takes it. For sd3 that is
        another grid than the same k: its ends are shifted once, not twice.
    shift
        The old name of `project_shift`, until 0.3.
    """
    if shift is not None:
        message = "preset_grid(shift=…) is now project_shift=…, since s is meant elsewhere"
        warnings.warn(f"{message}; the old name ends with 0.3", DeprecationWarning, stacklevel=2)
        project_shift = shift if project_shift is None else project_shift
    recipe = find_grid_recipe(name)
    if mu is not None:
        return _dynamic_grid(name, recipe, steps, mu, project_shift)
    if steps < recipe.min_steps:
        raise InputError(f"{name} takes at least {recipe.min_steps} steps, got {steps}")
    number = check_shift(name, recipe, project_shift)
    return _preset(name, recipe, steps, recipe.clock_times(steps, number), number)


def _dynamic_grid(
    name: str, recipe: GridRecipe, steps: int, mu: float, project_shift: float | None
) -> Preset:
    """The grid of a project that is given mu."""
    if recipe.dynamic_times is None:
        known = [other for other, row in GRID_RECIPES.items() if row.dynamic_times is not None]
        raise InputError(f"mu is for {' and '.join(known)}; {name} has a shift of its own")
    if project_shift is not None:
        raise InputError("give one of the project's shift and mu")
    if steps < recipe.min_steps:
        raise InputError(f"{name} takes at least {recipe.min_steps} steps, got {steps}")
    try:
        number = check_shift(name, recipe, Shift.of(mu=mu).k)
    except ValueError as error:
        raise InputError(str(error)) from error
    dynamic = replace(recipe, note=recipe.dynamic_note or recipe.note)
    return _preset(name, dynamic, steps, recipe.dynamic_times(steps, number), number)


def _preset(name: str, recipe: GridRecipe, steps: int, readings: Tensor, number: float) -> Preset:
    """The grid at readings of a project's clock; `number` is what it shifts by."""
    times = recipe.clock.to_t(readings) + 0.0  # which turns −0 into 0
    return Preset(
        name,
        check_grid(times),
        readings,
        recipe.clock,
        recipe.clock_name,
        recipe.evaluations(steps),
        Shift.of(s=number) if recipe.clock.towards_data else Shift.of(k=number),
        recipe.note,
    )


def find_grid_recipe(name: str) -> GridRecipe:
    """A project's recipe by its name."""
    if name not in GRID_RECIPES:
        raise InputError(f"there is no grid {name!r}; {suggestion(name, GRID_RECIPES)}")
    return GRID_RECIPES[name]


def check_shift(name: str, recipe: GridRecipe, shift: float | None) -> float:
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


_linspace = partial(torch.linspace, dtype=torch.float64)


def _append_zero(clock_times: Tensor) -> Tensor:
    return torch.cat([clock_times, clock_times.new_zeros(1)])


def _sd3_times(steps: int, k: float) -> Tensor:
    last = shift_times(torch.tensor(1 / SD3_TIMESTEPS, dtype=torch.float64), k).item()
    return _append_zero(shift_times(_linspace(1, last, steps), k))


def _dynamic_sd3_times(steps: int, k: float) -> Tensor:
    # with dynamic shifting the scheduler keeps its unshifted ends, 1 and 1/1000
    return _append_zero(shift_times(_linspace(1, 1 / SD3_TIMESTEPS, steps), k))


def _flux_times(steps: int, k: float) -> Tensor:
    return _append_zero(shift_times(_linspace(1, 1 / steps, steps), k))


def _count_torchdiffeq(steps: int) -> dict[str, int]:
    return {name: len(solver.nodes) * (steps - 1) for name, solver in SOLVERS.items()}


_from_data_side = partial(
    GridRecipe,
    lambda steps, s: shift_times(_linspace(0, 1, steps), s),
    evaluations=_count_torchdiffeq,
    clock=OUR_TIME,
    clock_name="t",
    min_steps=2,
)

GRID_RECIPES = {
    "sit": _from_data_side(note="num_steps are times, not steps; heun is torchdiffeq's heun2"),
    "lightningdit": _from_data_side(
        note="num_sampling_steps are times, not steps; timestep_shift 0 is off",
        shift=LIGHTNINGDIT_SHIFT,
    ),
    "repa": GridRecipe(
        lambda steps, _: _linspace(1, 0, steps + 1),
        "Heun ends with an Euler step",
        lambda steps: {"euler": steps, "heun": 2 * steps - 1},
    ),
    "repa-sde": GridRecipe(
        lambda steps, _: _append_zero(_linspace(1, SDE_LAST, steps)),
        "Euler–Maruyama, the last step of .04 without noise; uneven at its end",
        lambda steps: {"euler": steps},
    ),
    "rae": GridRecipe(
        lambda steps, k: shift_times(1 - _linspace(0, RAE_LAST, steps), k),
        "stops short of data: s = .001 before the shift, .0069 after one of 6.93",
        _count_torchdiffeq,
        shift=math.sqrt(RAE_DIMS / 4096),
        min_steps=2,
    ),
    "flux": GridRecipe(
        _flux_times,
        "the same in BFL's code and in diffusers; k = exp(mu), mu from the number of image tokens",
        lambda steps: {"euler": steps},
        clock_name="σ",
        shift=math.exp(flux_mu(4096)),
        dynamic_times=_flux_times,
    ),
    "sd3": GridRecipe(
        _sd3_times,
        "diffusers' default set_timesteps shifts its last σ twice (huggingface/diffusers#13243);"
        " the network is passed 1000 σ",
        lambda steps: {"euler": steps},
        clock_name="σ",
        shift=SD3_SHIFT,
        dynamic_times=_dynamic_sd3_times,
        dynamic_note="diffusers with use_dynamic_shifting; the network is passed 1000 σ",
    ),
}
