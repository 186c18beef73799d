"""`floracle grid`: the times that a project uses, and how often it evaluates its network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from floracle.cli.console import say
from floracle.cli.options import Count
from floracle.cli.tables import show_table
from floracle.run.errors import InputError

if TYPE_CHECKING:
    from floracle.sampling.presets import Preset


def grid(
    name: str,
    /,
    *,
    steps: Annotated[Count, Parameter(help="Steps, as that project counts them.")] = 50,
    project_shift: float | None = None,
    mu: float | None = None,
    tokens: Annotated[
        Count | None,
        Parameter(help="Number of image tokens, for flux: gives mu. 4096 for 1024 x 1024."),
    ] = None,
    json_: bool = False,
) -> None:
    """Print the time grid that a project uses.

    Parameters
    ----------
    name
        sit, lightningdit, repa, repa-sde, rae, flux or sd3.
    project_shift
        Shift as that project writes it: s of t for lightningdit, k = 1/s for rae, flux, sd3.
        Default: as the project has it.
    mu
        For flux and sd3, instead: log k, as dynamic shifting takes it.
    json_
        Print it as JSON.
    """
    from floracle.sampling.presets import find_grid_recipe, preset_grid

    find_grid_recipe(name)
    try:
        mu = _choose_mu(name, project_shift, mu, tokens=tokens)
    except ValueError as error:
        raise InputError(str(error)) from error
    preset = preset_grid(name, steps, project_shift=project_shift, mu=mu)
    if json_:
        _print_json(preset, steps)
    else:
        _print_table(preset, steps)


def _choose_mu(
    name: str, project_shift: float | None, mu: float | None, *, tokens: int | None
) -> float | None:
    """Mu as it is given, or of a number of tokens."""
    from floracle.core.time_conventions import flux_mu

    # Three notations of one number: k = exp(mu), and tokens give mu for flux.
    if sum(value is not None for value in (project_shift, mu, tokens)) > 1:
        raise InputError("give one of --project-shift, --mu and --tokens")
    if mu is not None and name not in ("flux", "sd3"):
        raise InputError(f"--mu is for flux and sd3; {name} has --project-shift")
    if tokens is not None:
        if name != "flux":
            raise InputError(f"--tokens is for flux; {name} has --project-shift")
        mu = flux_mu(tokens)
    return mu


def _print_json(preset: Preset, steps: int) -> None:

    content = {
        "name": preset.name,
        "asked": steps,
        "steps": preset.steps,
        "evaluations": preset.evaluations,
        "shift": {"s": preset.shift.s, "k": preset.shift.k, "mu": preset.shift.mu + 0.0},  # no -0
        "clock": preset.clock_name,
        "readings": preset.clock_times.tolist(),
        "t": preset.grid.tolist(),
        "note": preset.note,
    }
    say(json.dumps(content, indent=2, ensure_ascii=False))


def _print_table(preset: Preset, steps: int) -> None:

    evaluations = " · ".join(f"{name} {count}" for name, count in preset.evaluations.items())
    own_time, shift = preset.clock_name if preset.clock_name != "t" else "its t", preset.shift
    times = zip(preset.grid.tolist(), preset.clock_times.tolist(), strict=True)
    rows = [(str(i), f"{t:.6f}", f"{reading:.6f}") for i, (t, reading) in enumerate(times)]
    title = f"{preset.name} told {steps} takes {preset.steps} steps"
    show_table(("point", "t", own_time), rows, title)
    say(f"evaluations: {evaluations}")
    if shift.s != 1:
        say(f"shift: s = {shift.s:.6g}, k = {shift.k:.6g}, mu = {shift.mu:.6g}")
    say(f"note: {preset.note}")
