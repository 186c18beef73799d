"""The advice as arguments of other tools: what to paste, and what it will not do there.

Each tool has its own times, its own direction of the shift and its own kind of interval:

    LightningDiT   timestep_shift s on t, guidance from a t on           (SiT has neither)
    REPA, RAE      guidance between two s = 1 − t
    diffusers      shift k = 1/s, guidance between two shares of the steps
    EDM2           guidance between two σ = (1 − t) / (2 t)

Read in those projects' files; what was read is in `sampling.presets` and `core.foreign`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.time_conventions import TIME_CONVENTIONS, Shift
from floracle.run.errors import InputError
from floracle.sampling.grid import share_of_steps
from floracle.sampling.presets import preset_grid

from .advice import RecommendedTimes, format_time, recommend_times
from .stages.result import Stages

MAX_STEPS = 5000
FIRST_CHANNELS = "guidance moves the first 3 channels only, whatever their number"
EDM_STEPS, EDM_MAX_SIGMA, EDM_MIN_SIGMA, EDM_RHO = 32, 80.0, 0.002, 7.0


class Arguments(NamedTuple):
    """The advice for one tool."""

    tool: str
    text: str
    """To paste: options, a part of a configuration, or lines of Python."""
    caveat: str
    values: dict[str, float]
    """The numbers in the text, not rounded."""


def arguments(stages: Stages, *, steps: int = 50) -> tuple[Arguments, ...]:
    """The advice in the notation of each tool, for so many steps.

    Empty where there is no advice, because navigation does not end, or has ended at t = 0.
    """
    if not 2 <= steps <= MAX_STEPS:
        raise InputError(f"arguments are for 2 to {MAX_STEPS} steps, got {steps}")
    advice = recommend_times(stages)
    if advice is None:
        return ()
    tools = (_lightningdit, _sit, _repa, _rae, _sd3, _flux, _edm2)
    return tuple(tool(advice, steps) for tool in tools)


def _lightningdit(advice: RecommendedTimes, steps: int) -> Arguments:
    preset = preset_grid("lightningdit", steps, project_shift=advice.shift)
    return Arguments(
        "LightningDiT",
        f"sample:\n  num_sampling_steps: {steps}  # {_count_in_navigation(preset.grid, advice)}\n"
        f"  timestep_shift: {format_number(advice.shift)}\n"
        f"  cfg_interval_start: {format_number(advice.low)}",
        f"the interval has no upper end (t = {format_time(advice.high)} is advised);"
        f" {FIRST_CHANNELS}; demo sampling sets both to 0",
        {"timestep_shift": advice.shift, "cfg_interval_start": advice.low},
    )


def _sit(advice: RecommendedTimes, steps: int) -> Arguments:
    preset = preset_grid(
        "lightningdit", steps, project_shift=advice.shift
    )  # SiT's grid with that line
    s = format_number(advice.shift)
    return Arguments(
        "SiT",
        f"# transport/integrators.py, class ode, after self.t = th.linspace(…);"
        f" {_count_in_navigation(preset.grid, advice)}\n"
        f"self.t = {s} * self.t / (1 + ({s} - 1) * self.t)",
        f"SiT has no option for a shift, hence a line of code, and none for a guidance interval;"
        f" {FIRST_CHANNELS}",
        {"shift": advice.shift},
    )


def _repa(advice: RecommendedTimes, steps: int) -> Arguments:
    low, high = _noise_interval(advice, "s")
    preset = preset_grid("repa", steps)
    return Arguments(
        "REPA",
        f"--num-steps {steps} --mode ode --guidance-low {format_number(low)}"
        f" --guidance-high {format_number(high)}",
        f"REPA has no shift ({_count_in_navigation(preset.grid, advice)}); its interval is closed"
        " and in s = 1 − t, and does nothing unless --cfg-scale is above 1",
        {"guidance_low": low, "guidance_high": high},
    )


def _rae(advice: RecommendedTimes, steps: int) -> Arguments:
    low, high = _noise_interval(advice, "s")
    preset = preset_grid("rae", steps)
    return Arguments(
        "RAE",
        f"guidance:\n  t_min: {format_number(low)}\n  t_max: {format_number(high)}",
        "write t_min and t_max: src/sample.py silently ignores the t-min and t-max of RAE's own"
        " files; both are in s = 1 − t; the shift √(dims / 4096) was also trained with,"
        f" so it stays ({_count_in_navigation(preset.grid, advice)} with 196608 dims)",
        {"t_min": low, "t_max": high},
    )


def _sd3(advice: RecommendedTimes, steps: int) -> Arguments:
    k = Shift(advice.shift).k
    line = f"scheduler = FlowMatchEulerDiscreteScheduler(shift={format_number(k)})"
    caveat = (
        "start and stop are shares of the steps and hold for this shift and number of steps only;"
        " the guider is that of modular pipelines; the last σ is shifted twice (#13243)"
    )
    return _diffusers("SD3 (diffusers)", line, caveat, advice=advice, preset=("sd3", steps, k))


def _flux(advice: RecommendedTimes, steps: int) -> Arguments:
    k = Shift(advice.shift).k
    line = (
        f"scheduler = FlowMatchEulerDiscreteScheduler(shift={format_number(k)},"
        " use_dynamic_shifting=False)"
    )
    caveat = (
        "with use_dynamic_shifting, as Flux.1-dev ships, shift is ignored and mu rules; the"
        " pipeline's guidance_scale is an embedding, true_cfg_scale is the real one; start and"
        " stop are shares of the steps and hold for this shift and number of steps only"
    )
    return _diffusers("Flux (diffusers)", line, caveat, advice=advice, preset=("flux", steps, k))


def _diffusers(
    tool: str, line: str, caveat: str, *, advice: RecommendedTimes, preset: tuple[str, int, float]
) -> Arguments:
    name, steps, k = preset
    grid = preset_grid(name, steps, project_shift=k).grid
    comment = f"  # {_count_in_navigation(grid, advice)}"
    values = {"shift": k}
    guided = guided_steps(grid[:-1], advice.low, advice.high)
    if guided is None:
        guider = f"# none of {steps} steps starts inside the guidance interval; take more"
    else:
        values["start"] = _share_of_step(guided[0], steps)
        values["stop"] = _share_of_step(guided[1] + 1, steps)
        guider = (
            "guider = ClassifierFreeGuidance(guidance_scale=scale,"
            f" start={values['start']:.4f}, stop={values['stop']:.4f})"
        )
    return Arguments(tool, f"{line}{comment}\n{guider}", caveat, values)


def _edm2(advice: RecommendedTimes, _: int) -> Arguments:
    low, high = _noise_interval(advice, "edm2")
    sigmas = edm_sigmas()
    guided = guided_steps(TIME_CONVENTIONS["edm2"].to_t(sigmas), advice.low, advice.high)
    option = "" if guided is None else f'\n--guidance_interval="[{guided[0]}, {guided[1]}]"'
    values = {"low": low, "high": high}
    if guided is not None:
        values |= {"first": guided[0], "last": guided[1]}
    return Arguments(
        "EDM2",
        f"guidance for σ in ({format_number(low)}, {format_number(high)}]{option}",
        "σ is that of EDM2's own latents, whose deviation is ½; the option is that of the authors"
        " of guidance intervals (kynkaat/guidance-interval), it counts steps from 0, both ends"
        f" included, of EDM's {EDM_STEPS}, whose grid has no shift",
        values,
    )


def guided_steps(starts: Tensor, low: float, high: float) -> tuple[int, int] | None:
    """The first and the last step that starts at a time in [low, high]; None without any."""
    inside = ((starts >= low) & (starts <= high)).nonzero().flatten().tolist()
    return (inside[0], inside[-1]) if inside else None


def edm_sigmas() -> Tensor:
    """EDM's noise levels from 80 to .002 [32] (Karras et al. 2022, Eq. 5, ρ = 7)."""
    ramp = torch.linspace(0, 1, EDM_STEPS, dtype=torch.float64)
    first, last = EDM_MAX_SIGMA ** (1 / EDM_RHO), EDM_MIN_SIGMA ** (1 / EDM_RHO)
    return (first + ramp * (last - first)) ** EDM_RHO


def format_number(value: float) -> str:
    """Four decimals to paste; more digits of what these would round to 0 or to 1."""
    fixed = f"{value:.4f}"
    rounded = float(fixed) in (0.0, 1.0) and float(fixed) != value
    return f"{value:.10g}" if rounded else fixed


def _noise_interval(advice: RecommendedTimes, name: str) -> tuple[float, float]:
    """The guidance interval in times that run towards noise."""
    convention = TIME_CONVENTIONS[name]
    return convention.float_from_t(advice.high), convention.float_from_t(advice.low)


def _share_of_step(step: int, steps: int) -> float:
    """A share of four decimals that int(share · steps) turns into the step again."""
    if step == 0:
        return 0.0
    # a little more than the quotient: 29 / 50 = .58 would become int(28.999…) = 28
    return min(1.0, (step * 10_000 // steps + 1) / 10_000)


def _count_in_navigation(grid: Tensor, advice: RecommendedTimes) -> str:
    """How many steps of a grid start in a model's navigation."""
    steps = len(grid) - 1
    count = round(share_of_steps(grid, advice.transition) * steps)
    return f"{count} of {steps} steps start before t = {format_time(advice.transition)}"
