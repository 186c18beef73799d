"""The average over classes, each with its share of the mass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate
from floracle.analysis.prediction.closed_form import PredictedStages

from .result import POOLED, ClassStages, landmarks

RESAMPLED = ("information", "self_weight", "max_weight")
"""Curves whose crossings are landmarks."""


@dataclass(frozen=True)
class Pool:
    """The bootstrap means of classes by curve, each with its share, added up as they come.

    Kept instead of every class's own: those of a thousand classes would fill the memory.
    """

    sums: dict[str, Tensor]

    @classmethod
    def of(cls, group: ClassStages) -> Pool:
        """Of one group; of nothing where it is no class."""
        known = group.resamples if group.label >= 0 else None
        return cls({name: group.share * known[name] for name in RESAMPLED} if known else {})

    def merge(self, other: Pool) -> Pool:
        """Of the classes of both."""
        if not (self.sums and other.sums):
            return self if self.sums else other
        return Pool({name: self.sums[name] + other.sums[name] for name in RESAMPLED})


def pool_classes(
    times: Tensor, groups: list[ClassStages], predicted: list[PredictedStages], pool: Pool
) -> ClassStages:
    """All classes as one; their errors are independent, so squares add."""
    shares = torch.tensor([group.share for group in groups], dtype=torch.float64)
    shares = shares / shares.sum()

    def average(values: list[float]) -> float:
        return float(shares @ torch.tensor(values, dtype=torch.float64))

    curves = {
        name: Curve(
            shares @ torch.stack([group.curves[name].mean for group in groups]),
            (
                shares.square() @ torch.stack([g.curves[name].error for g in groups]).square()
            ).sqrt(),
        )
        for name in groups[0].curves
    }
    total = sum(group.share for group in groups)
    resamples = {name: values / total for name, values in pool.sums.items()}
    knowable = average([group.max_information for group in groups])
    error = float((shares.square() @ _column([g.area.error for g in groups]).square()).sqrt())
    area = Estimate(average([group.area.value for group in groups]), error)
    unknown = average([group.remaining_information for group in groups])
    bound = shares @ torch.stack([group.predicted_information for group in groups])
    centre, collapse = _times_of(predicted, shares, [knowable / 2, knowable])
    return ClassStages(
        label=POOLED,
        points=sum(group.points for group in groups),
        pairs=sum(group.pairs for group in groups),
        share=1.0,
        max_information=knowable,
        curves=curves,
        predicted_centre=centre,
        predicted_collapse=collapse,
        predicted_information=bound,
        area=area,
        remaining_information=unknown,
        max_class_information=0.0,
        rivals=tuple(pair for group in groups for pair in group.rivals)[:20],
        resamples=resamples,
        **landmarks(
            times,
            curves,
            resamples,
            along=bound,
            pairs=min(group.pairs for group in groups),
            knowable=knowable,
        ),
    )


def _times_of(
    predicted: list[PredictedStages], shares: Tensor, information: list[float]
) -> list[float]:
    """Where the average of I_G over classes reaches so many nats."""
    asked = torch.tensor(information, dtype=torch.float64)
    if any(one.within for one in predicted):
        return [_bisected(predicted, shares, nats) for nats in information]
    spectra = [one.spectrum for one in predicted]
    counts = shares.repeat_interleave(torch.tensor([len(values) for values in spectra]))
    together = replace(predicted[0], spectrum=torch.cat(spectra), counts=counts)
    return together.times_of(asked).tolist()


def _bisected(predicted: list[PredictedStages], shares: Tensor, information: float) -> float:
    """The same by bisection in t, where the variance within points differs between classes."""
    if information <= 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = torch.tensor([(low + high) / 2], dtype=torch.float64)
        bound = shares @ torch.cat([one.information(middle) for one in predicted])
        low, high = (float(middle), high) if bound < information else (low, float(middle))
    return (low + high) / 2


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
