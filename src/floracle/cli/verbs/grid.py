"""`floracle grid`: the times a project really follows, and how often it asks its network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from floracle.cli.counts import Whole

if TYPE_CHECKING:
    from floracle.sampling.presets import Preset


def grid(
    name: str,
    /,
    *,
    steps: Whole = 50,
    shift: float | None = None,
    mu: float | None = None,
    tokens: Whole | None = None,
    json_: bool = False,
) -> None:
    """Print the time grid of a project: what its number of steps really means.

    Parameters
    ----------
    name
        sit, lightningdit, repa, repa-sde, rae, flux or sd3.
    steps
        The number of steps as you give it to that project.
    shift
        Its shift as that project writes it: s on t for lightningdit, k = 1/s for rae, flux, sd3.
    mu
        For flux and sd3: log k.
    tokens
        For flux: the number of image tokens, which gives mu; 4096 for 1024 × 1024.
    json_
        Print it as JSON.
    """
    from floracle.run.errors import InputError
    from floracle.sampling.presets import find_grid_recipe, preset_grid

    find_grid_recipe(name)
    try:
        shift = _shift(name, shift, mu, tokens=tokens)
    except ValueError as error:
        raise InputError(str(error)) from error
    preset = preset_grid(name, steps, shift=shift)
    if json_:
        _print_json(preset, steps)
    else:
        _show(preset, steps)


def _shift(
    name: str, shift: float | None, mu: float | None, *, tokens: int | None
) -> float | None:
    """The number that the project shifts by."""
    from floracle.core.time_conventions import Shift, flux_mu
    from floracle.run.errors import InputError

    if sum(given is not None for given in (shift, mu, tokens)) > 1:
        raise InputError("give one of --shift, --mu and --tokens")
    if mu is not None and name not in ("flux", "sd3"):
        raise InputError(f"--mu is for flux and sd3; {name} has its own notation, --shift")
    if tokens is not None:
        if name != "flux":
            raise InputError(f"--tokens is for flux; {name} has --shift")
        mu = flux_mu(tokens)
    return shift if mu is None else Shift.of(mu=mu).k


def _print_json(preset: Preset, steps: int) -> None:
    from floracle.cli.console import say

    found = {
        "name": preset.name,
        "asked": steps,
        "steps": preset.steps,
        "evaluations": preset.evaluations,
        "shift": {"s": preset.shift.s, "k": preset.shift.k, "mu": preset.shift.mu + 0.0},
        "clock": preset.clock_name,
        "readings": preset.clock_times.tolist(),
        "t": preset.grid.tolist(),
        "note": preset.note,
    }
    say(json.dumps(found, indent=2, ensure_ascii=False))


def _show(preset: Preset, steps: int) -> None:
    from floracle.cli.console import say, show_table

    asked = " · ".join(f"{name} {count}" for name, count in preset.evaluations.items())
    own, shift = preset.clock_name if preset.clock_name != "t" else "its t", preset.shift
    pairs = zip(preset.grid.tolist(), preset.clock_times.tolist(), strict=True)
    rows = [(str(i), f"{t:.6f}", f"{reading:.6f}") for i, (t, reading) in enumerate(pairs)]
    title = f"{preset.name} told {steps} takes {preset.steps} steps"
    show_table(("point", "t", own), rows, title)
    say(f"evaluations: {asked}")
    if shift.s != 1:
        say(f"shift: s = {shift.s:.6g}, k = {shift.k:.6g}, mu = {shift.mu:.6g}")
    say(f"note: {preset.note}")
