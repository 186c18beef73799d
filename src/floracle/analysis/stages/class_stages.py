"""The measured stages of one class, of the whole set, or of all classes pooled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import ndtr, stdtrit
from torch import Tensor

from floracle.analysis.curves import (
    MIN_PAIRS_FOR_INTERVAL,
    Curve,
    Estimate,
    Landmark,
    find_landmarks,
)

from .curve_table import LANDMARKS

POOLED = -2
"""The label under which the average over classes is saved."""
LAW_STANDARD_ERRORS = 4.0
"""By how many standard errors the I-MMSE check may be off before it counts as broken. With few
pairs the bound is the quantile of Student's distribution that is exceeded as rarely."""
LAW_MAX_RELATIVE_ERROR = 0.05
"""The standard error of the area, as a share of H(w), beyond which the check says nothing."""
LAW_QUADRATURE_TOLERANCE = 0.005
"""The share of H(w) by which the area may be off besides: the error of the quadrature."""
NOT_REACHED = Landmark(None)

NUMBERS = (
    *("label", "points", "pairs", "share", "max_information", "predicted_centre"),
    *("predicted_collapse", "remaining_information", "max_class_information"),
)
"""The fields of `ClassStages` that are plain numbers."""
NAMES_OF_0_1 = {
    "knowable": "max_information",
    "classes_knowable": "max_class_information",
    "unknown": "remaining_information",
    "separation": "speciation",
    "own": "self_weight",
    "top": "max_weight",
    "concentration": "participation",
    "held_out_top": "held_out_max_weight",
    # of the plan of an unfinished run
    "sizes": "entropy_nats",
    "within": "within_variance",
}
"""What floracle 0.1 called values and curves; results that it saved are read by these names."""


@dataclass(frozen=True)
class ClassStages:
    """The stages of one class, of the whole set (label −1), or pooled over classes (−2)."""

    label: int
    points: int
    """Distinct training points; pooled: their number over all classes."""
    pairs: int
    share: float
    """Its share of the whole set's mass."""
    max_information: float
    """H(w), nats: the information that identifies a training point; 0 of a single point."""
    curves: dict[str, Curve]
    """By the names of `curve_table.CURVES`."""
    centre: Landmark
    collapse: Landmark
    end: Landmark
    predicted_centre: float
    predicted_collapse: float
    predicted_information: Tensor
    """I_G [T]: an upper bound on the information."""
    area: Estimate
    """The integral of the I-MMSE check, nats; `max_information` − `remaining_information` in
    expectation."""
    remaining_information: float
    """The entropy that is left at the last time, nats."""
    speciation: Landmark = NOT_REACHED
    """Where half of the class information is reached; of the whole set alone."""
    max_class_information: float = 0.0
    """H(class), nats; 0 where classes are not told apart."""
    rivals: tuple[tuple[int, int], ...] = ()
    """Rows of pairs that no training point wins by the last time, each with its nearest rival."""
    resamples: dict[str, Tensor] | None = None
    """Bootstrap means [RESAMPLES, T] of the curves with landmarks; None once pooled."""

    @property
    def single_point(self) -> bool:
        """Whether every class in it has a single distinct point, so that H(w) = 0.

        Then γ_own = 1 at all times: collapse and end are at t = 0, and there is no centre.
        """
        return self.max_information == 0

    @property
    def law_difference(self) -> float:
        """The measured area less its expectation H(w) − H(last time), nats."""
        return self.area.value - self.max_information + self.remaining_information

    @property
    def law_deviation(self) -> float:
        """`law_difference` in standard errors; infinite where the area has no error."""
        if self.area.error == 0:
            return math.copysign(math.inf, self.law_difference) if self.law_difference else 0.0
        return self.law_difference / self.area.error

    @property
    def law_errors(self) -> float:
        """`LAW_STANDARD_ERRORS` for so few pairs: as rare by Student's distribution."""
        return float(stdtrit(max(self.pairs - 1, 1), ndtr(LAW_STANDARD_ERRORS)))

    @property
    def law_allowance(self) -> float:
        """By how many nats the measured area may be off."""
        return self.law_errors * self.area.error + LAW_QUADRATURE_TOLERANCE * self.max_information

    @property
    def law_holds(self) -> bool:
        """Whether the area agrees with its expectation, as far as its error can tell."""
        return not abs(self.law_difference) > self.law_allowance  # NaN holds: nothing is shown

    @property
    def law_checked(self) -> bool:
        """Whether the error is small enough for that to mean anything."""
        return self.area.error <= LAW_MAX_RELATIVE_ERROR * self.max_information

    def to_values(self) -> dict[str, Any]:
        """Its numbers, for JSON."""
        values: dict[str, Any] = {name: getattr(self, name) for name in NUMBERS}
        for row in LANDMARKS:
            mark: Landmark = getattr(self, row.name)
            values[row.name] = {"value": mark.value, "low": mark.low, "high": mark.high}
        values["area"] = self.area._asdict()
        values["rivals"] = [list(pair) for pair in self.rivals]
        return values

    def to_arrays(self, prefix: str = "") -> dict[str, Tensor]:
        """Its curves."""
        arrays = {f"{prefix}predicted_information": self.predicted_information}
        for name, curve in self.curves.items():
            arrays |= {f"{prefix}{name}": curve.mean, f"{prefix}{name}_error": curve.error}
        for name, values in (self.resamples or {}).items():
            arrays[f"{prefix}resamples_{name}"] = values
        return arrays

    @classmethod
    def of_saved(
        cls, values: Mapping[str, Any], arrays: Mapping[str, Tensor], prefix: str = ""
    ) -> ClassStages:
        """From `to_values` and `to_arrays`, also those of floracle 0.1."""
        values = with_current_names(values)
        arrays = with_current_names(
            {k.removeprefix(prefix): array for k, array in arrays.items() if k.startswith(prefix)}
        )
        fields: dict[str, Any] = {name: values[name] for name in NUMBERS}
        fields |= {row.name: Landmark(**values[row.name]) for row in LANDMARKS}
        return cls(
            **fields,
            curves={
                name: Curve(mean, arrays[f"{name}_error"])
                for name, mean in arrays.items()
                if f"{name}_error" in arrays
            },
            predicted_information=arrays["predicted_information"],
            area=Estimate(**values["area"]),
            rivals=tuple((int(a), int(b)) for a, b in values["rivals"]),
            resamples={
                name.removeprefix("resamples_"): array.to(torch.float64)
                for name, array in arrays.items()
                if name.startswith("resamples_")
            }
            or None,
        )


def with_current_names(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved values or arrays under the names of today; see `NAMES_OF_0_1`."""
    current: dict[str, Any] = {}
    for name, value in saved.items():
        stem = name.removeprefix("resamples_").removesuffix("_error")
        current[name.replace(stem, NAMES_OF_0_1.get(stem, stem))] = value
    return current


def find_class_landmarks(
    times: Tensor,
    curves: Mapping[str, Curve],
    resamples: Mapping[str, Tensor],
    *,
    along: Tensor,
    pairs: int,
    max_information: float,
    max_class_information: float = 0.0,
) -> dict[str, Landmark]:
    """The landmarks of mean curves by name, with intervals from their resamples.

    Between times curves are interpolated `along` the predicted information, [T]. `speciation` is
    among them where H(class) is positive. A single point has no centre.
    """
    rows = [row for row in LANDMARKS if row.name != "speciation" or max_class_information > 0]
    levels = [row.level(max_information, max_class_information) for row in rows]
    marks = find_landmarks(
        times,
        torch.stack([curves[row.curve].mean for row in rows]),
        torch.stack([resamples[row.curve] for row in rows]),
        torch.tensor(levels, dtype=torch.float64),
        along=along,
        pairs=pairs if max_information > 0 else MIN_PAIRS_FOR_INTERVAL,
    )
    by_name = {row.name: mark for row, mark in zip(rows, marks, strict=True)}
    return by_name if max_information > 0 else {**by_name, "centre": NOT_REACHED}
