"""The average over classes, each with its share of the mass."""

from __future__ import annotations

import torch
from torch import Tensor

from .curves import Curve, Estimate
from .groups import POOLED, Group, landmarks, law_holds
from .prediction import Predicted


def pooled(times: Tensor, groups: list[Group], predicted: list[Predicted]) -> Group:
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
    resamples = {
        name: torch.einsum("c,cbt->bt", shares, torch.stack([_resamples(g)[name] for g in groups]))
        for name in ("information", "own", "top")
    }
    knowable = average([group.knowable for group in groups])
    error = float((shares.square() @ _column([g.area.error for g in groups]).square()).sqrt())
    area = Estimate(average([group.area.value for group in groups]), error)
    unknown = average([group.unknown for group in groups])
    bound = shares @ torch.stack([group.predicted_information for group in groups])
    return Group(
        label=POOLED,
        points=sum(group.points for group in groups),
        pairs=sum(group.pairs for group in groups),
        share=1.0,
        knowable=knowable,
        curves=curves,
        predicted_centre=_time_of(predicted, shares, knowable / 2),
        predicted_collapse=_time_of(predicted, shares, knowable),
        predicted_information=bound,
        area=area,
        unknown=unknown,
        law_holds=law_holds(area, knowable, unknown),
        classes_knowable=0.0,
        rivals=tuple(pair for group in groups for pair in group.rivals)[:20],
        resamples=resamples,
        **landmarks(times, curves, resamples, knowable=knowable),
    )


def _time_of(predicted: list[Predicted], shares: Tensor, information: float) -> float:
    """Where the average of I_G over classes reaches so many nats; by bisection in t."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = torch.tensor([(low + high) / 2], dtype=torch.float64)
        bound = shares @ torch.cat([one.information(middle) for one in predicted])
        low, high = (float(middle), high) if bound < information else (low, float(middle))
    return (low + high) / 2


def _resamples(group: Group) -> dict[str, Tensor]:
    assert group.resamples is not None
    return group.resamples


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
