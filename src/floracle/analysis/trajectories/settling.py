"""When the predictions along trajectories settle, from their remaining shares."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from floracle.analysis.curves import standard_error
from floracle.run.errors import InputError


class Settling(NamedTuple):
    """The mean time at which the predictions of some trajectories settle."""

    value: float | None
    """None where a trajectory never settles: the mean of the others would be too early."""
    error: float
    reached: int
    """Trajectories that settle."""
    samples: int

    def __str__(self) -> str:
        if self.value is None:
            return f"not reached by {self.samples - self.reached} of {self.samples}"
        return f"{self.value:.3f}" + (f" ± {self.error:.3f}" if self.samples > 1 else "")


def settling_times(times: Tensor, shares: Tensor, threshold: float) -> Tensor:
    """The times [b] from which on shares [b, T] stay below a threshold; NaN if never.

    Shares are linear between the times [T].
    """
    above = shares >= threshold
    last = above.shape[1] - 1 - above.flip(1).int().argmax(1)  # index of the last share above
    following = (last + 1).clamp(max=len(times) - 1)
    rows = torch.arange(len(shares))
    high, low = shares[rows, last], shares[rows, following]
    fraction = (high - threshold) / (high - low).clamp(min=1e-300)
    crossings = times[last] + fraction * (times[following] - times[last])
    crossings = torch.where(last < len(times) - 1, crossings, torch.nan)
    return torch.where(above.any(1), crossings, times[0])


def mean_settling(times: Tensor) -> Settling:
    """The mean of settling times [b], NaN where one never settles."""
    reached = int((~times.isnan()).sum())
    if reached < len(times):
        return Settling(None, float("nan"), reached, len(times))
    return Settling(float(times.mean()), float(standard_error(times)), reached, len(times))


def check_threshold(threshold: float) -> float:
    """A share in (0, 1)."""
    if not 0 < threshold < 1:
        raise InputError(f"the threshold is a share between 0 and 1, got {threshold:g}")
    return float(threshold)
