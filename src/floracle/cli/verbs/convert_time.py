"""`floracle convert-time`: one moment, or an interval, as every project calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from floracle.cli.counts import Whole

if TYPE_CHECKING:
    from floracle.core.time_conventions import Shift, TimeConvention

UNSHIFTED = "share"


def convert_time(
    value: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")] = "t",
    shift: float | None = None,
    k: float | None = None,
    mu: float | None = None,
    steps: Whole | None = None,
) -> None:
    """Say what a moment between noise and data is called by other projects.

    Parameters
    ----------
    value
        A time, or an interval like 0.34:1.02; inf is possible.
    from_
        Whose time it is: t, s, sigma, timestep, edm, edm2, logsnr, alphabar or dit; with a shift
        also share (of the steps before it), with --steps also step.
    shift
        A shift s of t, as LightningDiT writes it: below 1 more steps near the noise.
    k
        The same as SD3 and Flux write it, 1/s.
    mu
        The same as Flux computes it, log k.
    steps
        The steps of a grid from noise to data with that shift.
    """
    from floracle.cli.console import show_table
    from floracle.run.errors import InputError

    try:
        times, about = _times(_shift(shift, k, mu), steps)
        moments = _moments(value, _named(from_, times))
    except ValueError as error:
        raise InputError(str(error)) from error
    head = ("clock", "value" if len(moments) == 1 else "interval", "noise → data", "whose")
    rows = [(*_row(time, moments), time.meaning) for time in times.values()]
    title = f"{value} of {from_}{about}"
    show_table(head, rows, title)
    _tell_order(times[from_], moments)


def _shift(s: float | None, k: float | None, mu: float | None) -> Shift | None:
    from floracle.core.time_conventions import Shift

    return None if s is None and k is None and mu is None else Shift.of(s=s, k=k, mu=mu)


def _times(shift: Shift | None, steps: int | None) -> tuple[dict[str, TimeConvention], str]:
    """Every clock that can be read, and what is assumed of the grid."""
    from floracle.core.time_conventions import (
        TIME_CONVENTIONS,
        TimeConvention,
        grid_step_convention,
    )
    from floracle.sampling.grid import shift_times, time_grid, unshift_times

    times, about = dict(TIME_CONVENTIONS), ""
    if shift is not None:
        times[UNSHIFTED] = TimeConvention(
            UNSHIFTED,
            lambda t: unshift_times(t, shift.s),
            lambda share: shift_times(share, shift.s),
            0.0,
            1.0,
            "how far along the shifted grid, 0 to 1",
        )
        about += f", shift s = {shift.s:.6g} (k = {shift.k:.6g}, mu = {shift.mu + 0.0:.6g})"
    if steps is not None:
        times["step"] = grid_step_convention(time_grid(steps, shift=shift.s if shift else 1.0))
        about += f", {steps} steps"
    return times, about


def _named(name: str, times: dict[str, TimeConvention]) -> TimeConvention:
    from floracle.run.errors import InputError, suggestion

    if name in times:
        return times[name]
    if name in (UNSHIFTED, "step"):
        needed = "--steps" if name == "step" else "--shift, --k or --mu"
        raise InputError(f"--from {name} needs {needed}")
    raise InputError(f"--from: there is no clock {name!r}; {suggestion(name, times)}")


def _moments(words: str, clock: TimeConvention) -> tuple[float, ...]:
    """Our times of a value or interval, in the order in which they were written."""
    from floracle.run.errors import InputError

    try:
        values = [float(word) for word in words.split(":")]
    except ValueError as error:
        raise InputError(f"VALUE {words!r} is not understood; write .3 or .34:1.02") from error
    if len(values) > 2:
        raise InputError(f"VALUE {words!r} has {len(values)} ends; an interval is .34:1.02")
    if len(values) == 2 and not values[0] < values[1]:
        raise InputError(f"VALUE {words!r} is no interval; its first end is the smaller one")
    return tuple(clock.float_to_t(value) for value in values)


def _row(time: TimeConvention, moments: tuple[float, ...]) -> tuple[str, str, str]:
    readings = [time.float_from_t(t) for t in sorted(moments, reverse=not time.towards_data)]
    found = ", ".join("none" if value != value else f"{value:.6g}" for value in readings)
    written = f"[{found}]" if len(readings) > 1 else found
    return time.name, written, f"{time.noise_time:g} → {time.data_time:g}"


def _tell_order(clock: TimeConvention, moments: tuple[float, ...]) -> None:
    from floracle.cli.console import say

    if len(moments) == 2 and not clock.towards_data:
        falls = f"{clock.name} falls from noise to data"
        say(f"The order flips: {falls}, so its smaller end is the later one.")
