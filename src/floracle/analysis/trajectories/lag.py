"""How much later the predictions of a field settle than those of the oracle.

Lags are differences between pairs of trajectories with the same seed, label and grid; their
interval is Student's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

from floracle.analysis.curves import COVERAGE, Estimate, standard_error
from floracle.run.errors import InputError
from floracle.run.results import setting_of

from .probe import ProbeResult
from .trajectory_measures import ROUNDING


class Lag(NamedTuple):
    """How much later a field settles than the oracle: a mean over pairs with a 95 % interval."""

    value: float | None
    """None where some trajectory of a pair never settles."""
    error: float
    low: float
    high: float
    samples: int

    @property
    def verdict(self) -> str:
        """One of "later", "earlier" and "not significant"."""
        if self.value is None or not (self.low > 0 or self.high < 0):
            return "not significant"
        return "later" if self.low > 0 else "earlier"

    def __str__(self) -> str:
        if self.value is None:
            return "not significant: not reached"
        if self.samples < 2:
            return f"{self.value:+.3f}, one pair: not significant"
        text = f"{self.value:+.3f} ± {self.error:.3f}".replace("-", "−")
        return f"{text}, not significant" if self.verdict == "not significant" else text


def lag(
    field: ProbeResult,
    reference: ProbeResult | float,
    name: str = "remaining",
    *,
    label: int | None = None,
    threshold: float | None = None,
) -> Lag:
    """How much later the predictions of a field settle than those of a reference.

    - `reference`: The oracle, probed from the same noise: the lag behind a perfect fit, pair by
      pair. Or a time, the collapse or the end of `stages`, which Sec. 4.1 of the paper compares
      models with; the oracle's own trajectories settle between these two.
    - `name`: The share that settles, `remaining` or `layout`.
    - `label`: One class; all by default.
    - `threshold`: The share below which a prediction has settled; that of the probe by default.
    """
    level = field.threshold if threshold is None else threshold
    later = field.settling_times(name, level)
    if not isinstance(reference, int | float):
        _check_pairs(field, reference)
        later = later - reference.settling_times(name, level)
    elif 0 <= reference <= 1:
        later = later - reference
    else:
        raise InputError(f"the reference of a lag is a time in [0, 1], got {reference:g}")
    return mean_lag(later[field.has_label(label)])


def mean_lag(differences: Tensor) -> Lag:
    """The lag from differences of settling times [b]; NaN where a trajectory never settles."""
    if differences.isnan().any():
        return Lag(None, float("nan"), float("nan"), float("nan"), len(differences))
    mean, error = float(differences.mean()), float(standard_error(differences))
    reach = error * float(stdtrit(max(len(differences) - 1, 1), (1 + COVERAGE) / 2))
    return Lag(mean, error, mean - reach, mean + reach, len(differences))


def initial_error(field: ProbeResult, oracle: ProbeResult) -> Estimate:
    """How far x̂(0) is from the oracle's x̂(0), the mean of the data or of the class.

    As a share of the distance from that mean to the oracle's sample, over the predictions kept;
    NaN where no sample differs from the mean, since the data is one point.
    """
    _check_pairs(field, oracle)
    if field.prediction_times[0] != 0 or oracle.prediction_times[0] != 0:
        raise InputError(
            "the predictions at t = 0 were not kept; let `prediction_times` begin with 0"
        )
    count = min(len(field.predictions), len(oracle.predictions))
    first, mean, end = (
        values[:count].double().flatten(1)
        for values in (field.predictions[:, 0], *oracle.predictions[:, [0, -1]].unbind(1))
    )
    distance, dims = (end - mean).norm(dim=1), first.shape[1]
    differs = distance > ROUNDING * (end.norm(dim=1) + dims**0.5)  # a noise is about √D long
    if not differs.any():
        return Estimate(float("nan"), float("nan"))
    shares = (first - mean).norm(dim=1)[differs] / distance[differs]
    return Estimate(float(shares.mean()), float(standard_error(shares)))


def _check_pairs(field: ProbeResult, oracle: ProbeResult) -> None:
    """Refuse probes that are not paired."""
    for name in ("seeds", "labels", "grid"):
        first, second = getattr(field, name), getattr(oracle, name)
        if first.shape != second.shape or not torch.equal(first, second):
            raise InputError(
                f"a lag compares pairs, but the {name} of both differ; probe both alike"
            )
    settings = {
        "until": (f"{field.until:g}", f"{oracle.until:g}"),
        "path": [setting_of(probe.settings, "path") for probe in (field, oracle)],
        "solver": [probe.settings.get("solver") for probe in (field, oracle)],
    }
    for name, (first, second) in settings.items():
        if first != second:
            raise InputError(f"a lag compares pairs, but {name} is {first} and {second}")
