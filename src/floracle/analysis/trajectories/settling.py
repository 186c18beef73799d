"""When predictions settle, and how much later those of a field do than those of the oracle.

The lag is a number of pairs: the same seed, label and grid for both. Its interval is Student's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

from floracle.analysis.curves import COVERED, Estimate, standard_error
from floracle.run.errors import InputError

from .denoised import SAME

if TYPE_CHECKING:
    from .probe import ProbeResult


class Settling(NamedTuple):
    """When the predictions of some trajectories have settled, on average."""

    value: float | None
    """None where some never do: the mean of the others would be too early."""
    error: float
    reached: int
    """Trajectories that do."""
    samples: int

    def __str__(self) -> str:
        if self.value is None:
            return f"not reached by {self.samples - self.reached} of {self.samples}"
        return f"{self.value:.3f}" + (f" ± {self.error:.3f}" if self.samples > 1 else "")


class Lag(NamedTuple):
    """How much later a field settles than the oracle: means over pairs with a 95 % interval."""

    value: float | None
    """None where some trajectory of a pair never settles."""
    error: float
    low: float
    high: float
    samples: int

    @property
    def verdict(self) -> str:
        """What can be said: "later", "earlier" or "cannot say"."""
        if self.value is None or not (self.low > 0 or self.high < 0):
            return "cannot say"
        return "later" if self.low > 0 else "earlier"

    def __str__(self) -> str:
        if self.value is None:
            return "cannot say: not reached"
        if self.samples < 2:
            return f"{self.value:+.3f}, one pair: cannot say"
        told = f"{self.value:+.3f} ± {self.error:.3f}".replace("-", "−")
        return told if self.verdict != "cannot say" else f"{told}, cannot say"


def lag(
    field: ProbeResult,
    reference: ProbeResult | float,
    name: str = "remaining",
    *,
    label: int | None = None,
    threshold: float | None = None,
) -> Lag:
    """How much later a field's predictions settle than its `reference` does.

    That is the oracle from the same noise, pair by pair: how far behind a perfect fit it is. Or it
    is a time at which the target parts, the collapse or the end of `stages`: what Sec. 4.1 of the
    paper compares models with. Trajectories of the oracle itself settle between the two.
    """
    level = field.threshold if threshold is None else threshold
    settled = field.transitions(name, level)
    if not isinstance(reference, int | float):
        _check_pairs(field, reference)
        settled = settled - reference.transitions(name, level)
    elif 0 <= reference <= 1:
        settled = settled - reference
    else:
        raise InputError(f"a target parts at a time in [0, 1], got {reference:g}")
    return lag_of(settled[field.of(label)])


def lag_of(apart: Tensor) -> Lag:
    """The lag from how much later each trajectory of a field settles, [b]; NaN if never."""
    if apart.isnan().any():
        return Lag(None, float("nan"), float("nan"), float("nan"), len(apart))
    mean, error = float(apart.mean()), float(standard_error(apart))
    reach = error * float(stdtrit(max(len(apart) - 1, 1), (1 + COVERED) / 2))
    return Lag(mean, error, mean - reach, mean + reach, len(apart))


def start_apart(field: ProbeResult, oracle: ProbeResult) -> Estimate:
    """How far x̂(0) is from the oracle's, which is the mean of the data or of the class.

    As a share of the way from that mean to where the oracle ends; over the predictions kept that
    have a way to go; NaN where none has, since the data is one point and that its mean.
    """
    _check_pairs(field, oracle)
    count = min(len(field.predictions), len(oracle.predictions))
    if field.shown[0] != 0 or oracle.shown[0] != 0:
        raise InputError("the predictions at t = 0 were not kept; let `shown` begin with 0")
    own, mean, end = (
        values[:count].double().flatten(1)
        for values in (
            field.predictions[:, 0],
            oracle.predictions[:, 0],
            oracle.predictions[:, -1],
        )
    )
    way, dims = (end - mean).norm(dim=1), own.shape[1]
    rounding = SAME * (end.norm(dim=1) + dims**0.5)  # a noise is about √D long
    going = way > rounding
    if not going.any():
        return Estimate(float("nan"), float("nan"))
    shares = (own - mean).norm(dim=1)[going] / way[going]
    return Estimate(float(shares.mean()), float(standard_error(shares)))


def settled_at(times: Tensor, shares: Tensor, threshold: float) -> Tensor:
    """From when on shares [b, T] stay below a threshold, linear between times; NaN if never."""
    above = shares >= threshold
    last = above.shape[1] - 1 - above.flip(1).int().argmax(1)
    after = (last + 1).clamp(max=len(times) - 1)
    rows = torch.arange(len(shares))
    high, low = shares[rows, last], shares[rows, after]
    part = (high - threshold) / (high - low).clamp(min=1e-300)
    found = times[last] + part * (times[after] - times[last])
    found = torch.where(last < len(times) - 1, found, torch.nan)
    return torch.where(above.any(1), found, times[0])


def settling_of(times: Tensor) -> Settling:
    """The mean of the times [b] at which trajectories settle; NaN where one never does."""
    reached = int((~times.isnan()).sum())
    if reached < len(times):
        return Settling(None, float("nan"), reached, len(times))
    return Settling(float(times.mean()), float(standard_error(times)), reached, len(times))


def checked_threshold(threshold: float) -> float:
    """A share in (0, 1)."""
    if not 0 < threshold < 1:
        raise InputError(f"the threshold is a share between 0 and 1, got {threshold:g}")
    return float(threshold)


def _check_pairs(field: ProbeResult, oracle: ProbeResult) -> None:
    """Refuse probes that are not paired."""
    for name in ("seeds", "labels", "grid"):
        one, other = getattr(field, name), getattr(oracle, name)
        if one.shape != other.shape or not torch.equal(one, other):
            raise InputError(
                f"a lag compares pairs, but the {name} of both differ; probe both alike"
            )
    if field.until != oracle.until:
        raise InputError(
            f"a lag compares pairs, but until is {field.until:g} and {oracle.until:g}"
        )
    one, other = (each.settings.get("path", "linear") for each in (field, oracle))
    if one != other:
        raise InputError(
            f"a lag compares pairs, but one is on the {one} path, the other on {other}"
        )
    one, other = (each.settings.get("solver") for each in (field, oracle))
    if one != other:
        raise InputError(
            f"a lag compares pairs, but one was followed by {one}, the other by {other}"
        )
