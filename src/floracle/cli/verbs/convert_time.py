"""`floracle convert-time`: a time, or an interval, in the convention of every project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from floracle.cli.console import say
from floracle.cli.options import Count
from floracle.cli.tables import show_table
from floracle.run.errors import InputError, suggestion

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
    steps: Annotated[
        Count | None, Parameter(help="Steps of a grid with that shift, which allows --from step.")
    ] = None,
) -> None:
    """Convert a time or noise level between the conventions of different projects.

    Parameters
    ----------
    value
        A time, or an interval like 0.34:1.02; inf is possible.
    from_
        Convention of the time: t, s, sigma, timestep, edm, edm2, logsnr, alphabar or dit; with a
        shift also share (of the steps before it), with --steps also step.
    shift
        Shift s of t, as LightningDiT writes it: below 1 more steps near the noise. Default: none.
    k
        The same as SD3 and Flux write it, 1/s.
    mu
        The same as Flux computes it, log k.
    """
    try:
        times, assumptions = _known_times(_shift(shift, k, mu), steps)
        interval = _parse_interval(value, _time_named(from_, times))
    except ValueError as error:
        raise InputError(str(error)) from error
    head = ("clock", "value" if len(interval) == 1 else "interval", "noise → data", "whose")
    rows = [(*_row(time, interval), time.meaning) for time in times.values()]
    show_table(head, rows, f"{value} of {from_}{assumptions}")
    _say_order(times[from_], interval)


def _shift(s: float | None, k: float | None, mu: float | None) -> Shift | None:
    from floracle.core.time_conventions import Shift

    return None if s is None and k is None and mu is None else Shift.of(s=s, k=k, mu=mu)


def _known_times(shift: Shift | None, steps: int | None) -> tuple[dict[str, TimeConvention], str]:
    """The times of all conventions by name, and what is assumed of the grid, in words."""
    from floracle.core.time_conventions import (
        TIME_CONVENTIONS,
        TimeConvention,
        grid_step_convention,
    )
    from floracle.sampling.grid import shift_times, time_grid, unshift_times

    times, assumptions = dict(TIME_CONVENTIONS), ""
    if shift is not None:
        times[UNSHIFTED] = TimeConvention(
            UNSHIFTED,
            lambda t: unshift_times(t, shift.s),
            lambda share: shift_times(share, shift.s),
            0.0,
            1.0,
            "how far along the shifted grid, 0 to 1",
        )
        # + 0.0 turns −0 into 0, which is how −log s comes out at s = 1.
        assumptions += f", shift s = {shift.s:.6g} (k = {shift.k:.6g}, mu = {shift.mu + 0.0:.6g})"
    if steps is not None:
        times["step"] = grid_step_convention(time_grid(steps, shift=shift.s if shift else 1.0))
        assumptions += f", {steps} steps"
    return times, assumptions


def _time_named(name: str, times: dict[str, TimeConvention]) -> TimeConvention:

    if name in times:
        return times[name]
    if name in (UNSHIFTED, "step"):
        needed = "--steps" if name == "step" else "--shift, --k or --mu"
        raise InputError(f"--from {name} needs {needed}")
    raise InputError(f"--from: there is no clock {name!r}; {suggestion(name, times)}")


def _parse_interval(text: str, time: TimeConvention) -> tuple[float, ...]:
    """The times t of one value or of the two ends of an interval, in the order of the text."""
    try:
        values = [float(word) for word in text.split(":")]
    except ValueError as error:
        raise InputError(f"VALUE {text!r} is not understood; write .3 or .34:1.02") from error
    if len(values) > 2:
        raise InputError(f"VALUE {text!r} has {len(values)} ends; an interval is .34:1.02")
    if len(values) == 2 and not values[0] < values[1]:
        raise InputError(f"VALUE {text!r} is no interval; its first end is the smaller one")
    return tuple(time.float_to_t(value) for value in values)


def _row(time: TimeConvention, interval: tuple[float, ...]) -> tuple[str, str, str]:
    readings = [time.float_from_t(t) for t in sorted(interval, reverse=not time.towards_data)]
    # A convention without a value at this time reads NaN, which equals nothing.
    values = ", ".join("none" if value != value else f"{value:.6g}" for value in readings)
    return (
        time.name,
        f"[{values}]" if len(readings) > 1 else values,
        f"{time.noise_time:g} → {time.data_time:g}",
    )


def _say_order(time: TimeConvention, interval: tuple[float, ...]) -> None:

    if len(interval) == 2 and not time.towards_data:
        falls = f"{time.name} falls from noise to data"
        say(f"The order flips: {falls}, so its smaller end is the later one.")
