"""Numbers as reports and the command line write them: times, nats, shares, sizes, durations."""

from __future__ import annotations

from floracle.analysis.curves import MIN_PAIRS_FOR_INTERVAL, Curve, Landmark
from floracle.analysis.stages.result import ClassStages

ROUNDING = 1e-9
"""Means below this are rounding, and written as 0."""


def format_time(value: float | None) -> str:
    """A time to three significant digits; near 0 and near 1 that takes more decimals."""
    if value is None:
        return "not reached"
    # A time that is not exactly 0 or 1 must not be rounded to it: 0 and 1 mean "at the end".
    if 0 < value < 5e-4:
        return f"{value:.2e}"
    if 0 < 1 - value < 5e-5:
        return f"1 − {1 - value:.2e}"
    # Below .1 the third digit is the fourth decimal; from .9995 on three decimals would say 1.
    return f"{value:.4f}" if 0 < value < 0.1 or 0.9995 <= value < 1 else f"{value:.3f}"


def format_landmark(group: ClassStages, name: str) -> str:
    """When a group reaches a landmark. A single point has no centre: nothing is unknown."""
    mark: Landmark = getattr(group, name)
    if mark.value is None and group.single_point:
        return "nothing to know"
    return format_time(mark.value)


def format_prediction(group: ClassStages, name: str) -> str:
    """When a group is predicted to reach a landmark; a single point has no prediction."""
    return "–" if group.single_point else format_time(getattr(group, f"predicted_{name}"))


def format_interval(mark: Landmark) -> str:
    """The 95 % interval of a landmark."""
    if mark.value is None:
        return "–"
    if mark.low is None or mark.high is None:
        return f"takes {MIN_PAIRS_FOR_INTERVAL} pairs"
    return f"{format_time(mark.low)} – {format_time(mark.high)}"


def format_deviation(predicted: float, mark: Landmark) -> str:
    """The relative deviation of a prediction from the measured time, in percent."""
    if mark.value is None or not mark.value:
        return "–"
    return f"{100 * (predicted / mark.value - 1):+.1f} %".replace("-", "−")


def format_nats(value: float) -> str:
    """An amount of information: three decimals, or two digits where these would all be 0."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 5e-4 else f"{value:.1e}"


def format_means(curve: Curve) -> list[str]:
    """Mean ± standard error at each time."""
    return [
        "0" if abs(mean) < ROUNDING else f"{mean:.3g} ± {error:.1g}".replace("-", "−")
        for mean, error in zip(curve.mean.tolist(), curve.error.tolist(), strict=True)
    ]


def format_count(value: float) -> str:
    """A number of things that need not be whole, such as an effective number of samples."""
    # From 9.95 on a decimal would make three digits, as in 10.0, where two are meant.
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def format_percent(share: float, decimals: int = 0) -> str:
    """A share in percent; a no-break space keeps the sign with its number."""
    return f"{100 * share:.{decimals}f}\u00a0%".replace("-", "−")


def format_weight(weight: float) -> str:
    """A posterior weight in percent, with a decimal where it is below a tenth."""
    if weight < 0.001:
        return "≈ 0"
    return format_percent(weight, 0 if weight >= 0.1 else 1)


def format_bytes(size: float) -> str:
    """A number of bytes in the largest binary unit that leaves at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_duration(seconds: float) -> str:
    """A time span in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
