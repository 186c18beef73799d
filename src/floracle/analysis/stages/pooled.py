"""The average over classes, each with its share of the mass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate
from floracle.analysis.prediction.closed_form import PredictedStages

from .class_stages import POOLED, ClassStages, find_class_landmarks
from .curve_table import LANDMARKS

RESAMPLED = tuple(row.curve for row in LANDMARKS if row.name != "speciation")
"""Curves whose resamples are pooled: those with landmarks, but for speciation, which only the
whole set has."""
MAX_RIVALS = 20


@dataclass(frozen=True)
class Pool:
    """Σ share · bootstrap means over classes, by curve: the resamples of the average.

    It is summed class by class, because those of a thousand classes would fill the memory.
    """

    sums: Mapping[str, Tensor]

    @classmethod
    def of(cls, group: ClassStages) -> Pool:
        """Of one class; empty for what is no class."""
        resamples = group.resamples if group.label >= 0 else None
        return cls(
            {name: group.share * resamples[name] for name in RESAMPLED} if resamples else {}
        )

    def merge(self, other: Pool) -> Pool:
        """Of the classes of both."""
        if not (self.sums and other.sums):
            return self if self.sums else other
        return Pool({name: self.sums[name] + other.sums[name] for name in RESAMPLED})


def pool_classes(
    times: Tensor, groups: list[ClassStages], predicted: list[PredictedStages], pool: Pool
) -> ClassStages:
    """All classes as one."""
    mass = sum(group.share for group in groups)
    shares = torch.tensor([group.share for group in groups], dtype=torch.float64)
    shares = shares / shares.sum()

    def average(values: list[float]) -> float:
        return float(shares @ torch.tensor(values, dtype=torch.float64))

    # classes are independent, so the squares of their errors add: SE² = Σ share² SE_c²
    def pooled_error(errors: Tensor) -> Tensor:
        return (shares.square() @ errors.square()).sqrt()

    curves = {
        name: Curve(
            shares @ torch.stack([group.curves[name].mean for group in groups]),
            pooled_error(torch.stack([group.curves[name].error for group in groups])),
        )
        for name in groups[0].curves
    }
    area_errors = torch.tensor([group.area.error for group in groups], dtype=torch.float64)
    area = Estimate(
        average([group.area.value for group in groups]), float(pooled_error(area_errors))
    )
    resamples = {name: values / mass for name, values in pool.sums.items()}
    max_information = average([group.max_information for group in groups])
    bound = shares @ torch.stack([group.predicted_information for group in groups])
    centre, collapse = _times_of_average(predicted, shares, [max_information / 2, max_information])
    return ClassStages(
        label=POOLED,
        points=sum(group.points for group in groups),
        pairs=sum(group.pairs for group in groups),
        share=1.0,
        max_information=max_information,
        curves=curves,
        predicted_centre=centre,
        predicted_collapse=collapse,
        predicted_information=bound,
        area=area,
        remaining_information=average([group.remaining_information for group in groups]),
        max_class_information=0.0,
        rivals=tuple(pair for group in groups for pair in group.rivals)[:MAX_RIVALS],
        resamples=resamples,
        **find_class_landmarks(
            times,
            curves,
            resamples,
            along=bound,
            pairs=min(group.pairs for group in groups),
            max_information=max_information,
        ),
    )


def _times_of_average(
    predicted: list[PredictedStages], shares: Tensor, information: list[float]
) -> list[float]:
    """The times at which Σ share · I_G over classes reaches so many nats."""
    if any(stages.within_variance for stages in predicted):
        return [_bisect_average(predicted, shares, nats) for nats in information]
    # Σ_c share_c ½ Σ_k log(1 + r² λ_ck) is I_G of all spectra together, with shares as
    # multiplicities, so one root search serves
    spectra = [stages.spectrum for stages in predicted]
    counts = shares.repeat_interleave(torch.tensor([len(values) for values in spectra]))
    average = replace(predicted[0], spectrum=torch.cat(spectra), multiplicities=counts)
    return average.times_of(torch.tensor(information, dtype=torch.float64)).tolist()


def _bisect_average(predicted: list[PredictedStages], shares: Tensor, nats: float) -> float:
    """The same by bisection in t, where the variance within points differs between classes."""
    if nats <= 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = torch.tensor([(low + high) / 2], dtype=torch.float64)
        bound = shares @ torch.cat([stages.information(middle) for stages in predicted])
        low, high = (float(middle), high) if bound < nats else (low, float(middle))
    return (low + high) / 2
