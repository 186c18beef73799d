"""The advice as arguments of other tools: what to paste, and what it will not do there.

Each tool has its own clock, its own direction of the shift and its own idea of an interval:

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

from .advice import LAG, shift_for, short
from .stages.result import Stages

MOST_STEPS = 5000
FIRST_CHANNELS = "guidance moves the first 3 channels only, whatever their number"
EDM_STEPS, EDM_HIGHEST, EDM_LOWEST, EDM_BEND = 32, 80.0, 0.002, 7.0


class Arguments(NamedTuple):
    """The advice for one tool."""

    tool: str
    text: str
    """To paste: options, a part of a configuration, or lines of Python."""
    caveat: str
    values: dict[str, float]
    """The numbers in the text, not rounded."""


class Recommended(NamedTuple):
    """The numbers of `advise`."""

    shift: float
    """s, at most 1."""
    transition: float
    """The t at which a model's navigation is expected to end."""
    low: float
    """Guidance from this t …"""
    high: float
    """… to this."""


def recommended(stages: Stages) -> Recommended | None:
    """What `advise` recommends, as numbers; None where navigation does not end, or begin."""
    end = stages.main.end.value
    if not end:
        return None
    transition = min(LAG * end, (1 + end) / 2)
    return Recommended(min(1.0, shift_for(transition)), transition, end, (1 + end) / 2)


def arguments(stages: Stages, *, steps: int = 50) -> tuple[Arguments, ...]:
    """The advice in the notation of each tool that was told to take so many steps.

    Empty where there is no advice, because navigation does not end, or has ended at t = 0.
    """
    if not 2 <= steps <= MOST_STEPS:
        raise InputError(f"arguments are for 2 to {MOST_STEPS} steps, got {steps}")
    advice = recommended(stages)
    if advice is None:
        return ()
    makers = (_lightningdit, _sit, _repa, _rae, _sd3, _flux, _edm2)
    return tuple(make(advice, steps) for make in makers)


def _lightningdit(advice: Recommended, steps: int) -> Arguments:
    preset = preset_grid("lightningdit", steps, shift=advice.shift)
    return Arguments(
        "LightningDiT",
        f"sample:\n  num_sampling_steps: {steps}  # {_in_navigation(preset.grid, advice)}\n"
        f"  timestep_shift: {digits(advice.shift)}\n"
        f"  cfg_interval_start: {digits(advice.low)}",
        f"the interval has no upper end (t = {short(advice.high)} is advised); {FIRST_CHANNELS};"
        " demo sampling sets both to 0",
        {"timestep_shift": advice.shift, "cfg_interval_start": advice.low},
    )


def _sit(advice: Recommended, steps: int) -> Arguments:
    preset = preset_grid("lightningdit", steps, shift=advice.shift)  # SiT's grid with that line
    s = digits(advice.shift)
    return Arguments(
        "SiT",
        f"# transport/integrators.py, class ode, after self.t = th.linspace(…);"
        f" {_in_navigation(preset.grid, advice)}\n"
        f"self.t = {s} * self.t / (1 + ({s} - 1) * self.t)",
        f"SiT has no option for a shift, hence a line of code, and none for a guidance interval;"
        f" {FIRST_CHANNELS}",
        {"shift": advice.shift},
    )


def _repa(advice: Recommended, steps: int) -> Arguments:
    low, high = _turned(advice, "s")
    preset = preset_grid("repa", steps)
    return Arguments(
        "REPA",
        f"--num-steps {steps} --mode ode --guidance-low {digits(low)}"
        f" --guidance-high {digits(high)}",
        f"REPA has no shift ({_in_navigation(preset.grid, advice)}); its interval is closed and in"
        " s = 1 − t, and does nothing unless --cfg-scale is above 1",
        {"guidance_low": low, "guidance_high": high},
    )


def _rae(advice: Recommended, steps: int) -> Arguments:
    low, high = _turned(advice, "s")
    preset = preset_grid("rae", steps)
    return Arguments(
        "RAE",
        f"guidance:\n  t_min: {digits(low)}\n  t_max: {digits(high)}",
        "write t_min and t_max: src/sample.py silently ignores the t-min and t-max of RAE's own"
        " files; both are in s = 1 − t; the shift √(dims / 4096) was also trained with,"
        f" so it stays ({_in_navigation(preset.grid, advice)} with 196608 dims)",
        {"t_min": low, "t_max": high},
    )


def _sd3(advice: Recommended, steps: int) -> Arguments:
    k = Shift(advice.shift).k
    line = f"scheduler = FlowMatchEulerDiscreteScheduler(shift={digits(k)})"
    caveat = (
        "start and stop are shares of the steps and hold for this shift and number of steps only;"
        " the guider is that of modular pipelines; the last σ is shifted twice (#13243)"
    )
    return _diffusers("SD3 (diffusers)", line, caveat, advice=advice, preset=("sd3", steps, k))


def _flux(advice: Recommended, steps: int) -> Arguments:
    k = Shift(advice.shift).k
    line = (
        f"scheduler = FlowMatchEulerDiscreteScheduler(shift={digits(k)},"
        " use_dynamic_shifting=False)"
    )
    caveat = (
        "with use_dynamic_shifting, as Flux.1-dev ships, shift is ignored and mu rules; the"
        " pipeline's guidance_scale is an embedding, true_cfg_scale is the real one; start and"
        " stop are shares of the steps and hold for this shift and number of steps only"
    )
    return _diffusers("Flux (diffusers)", line, caveat, advice=advice, preset=("flux", steps, k))


def _diffusers(
    tool: str, line: str, caveat: str, *, advice: Recommended, preset: tuple[str, int, float]
) -> Arguments:
    name, steps, k = preset
    grid = preset_grid(name, steps, shift=k).grid
    comment = f"  # {_in_navigation(grid, advice)}"
    values = {"shift": k}
    chosen = guided_steps(grid[:-1], advice.low, advice.high)
    if chosen is None:
        guider = f"# none of {steps} steps starts inside the guidance interval; take more"
    else:
        values["start"] = _share_reaching(chosen[0], steps)
        values["stop"] = _share_reaching(chosen[1] + 1, steps)
        guider = (
            "guider = ClassifierFreeGuidance(guidance_scale=scale,"
            f" start={values['start']:.4f}, stop={values['stop']:.4f})"
        )
    return Arguments(tool, f"{line}{comment}\n{guider}", caveat, values)


def _edm2(advice: Recommended, _: int) -> Arguments:
    low, high = _turned(advice, "edm2")
    sigmas = edm_sigmas()
    chosen = guided_steps(TIME_CONVENTIONS["edm2"].to_t(sigmas), advice.low, advice.high)
    option = "" if chosen is None else f'\n--guidance_interval="[{chosen[0]}, {chosen[1]}]"'
    values = {"low": low, "high": high}
    if chosen is not None:
        values |= {"first": chosen[0], "last": chosen[1]}
    return Arguments(
        "EDM2",
        f"guidance for σ in ({digits(low)}, {digits(high)}]{option}",
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
    first, last = EDM_HIGHEST ** (1 / EDM_BEND), EDM_LOWEST ** (1 / EDM_BEND)
    return (first + ramp * (last - first)) ** EDM_BEND


def digits(value: float) -> str:
    """Four decimals to paste; more digits of what these would round to 0 or to 1."""
    fixed = f"{value:.4f}"
    return f"{value:.10g}" if float(fixed) in (0.0, 1.0) and float(fixed) != value else fixed


def _turned(advice: Recommended, name: str) -> tuple[float, float]:
    """The guidance interval on a clock that runs towards noise."""
    clock = TIME_CONVENTIONS[name]
    return clock.float_from_t(advice.high), clock.float_from_t(advice.low)


def _share_reaching(step: int, steps: int) -> float:
    """A share of four decimals that int(share · steps) turns into the step again."""
    if step == 0:
        return 0.0
    # a little more than the quotient: 29 / 50 = .58 would become int(28.999…) = 28
    return min(1.0, (step * 10_000 // steps + 1) / 10_000)


def _in_navigation(grid: Tensor, advice: Recommended) -> str:
    """How many steps of a grid start in a model's navigation."""
    steps = len(grid) - 1
    count = round(share_of_steps(grid, advice.transition) * steps)
    return f"{count} of {steps} steps start before t = {short(advice.transition)}"
