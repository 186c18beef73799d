"""Doubts about how a network is read, at a price that a run can afford."""

from __future__ import annotations

from torch import Tensor

from floracle.core.fields import VelocityField
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.run.errors import InputError

from .check import LEARNED, ConventionVerdict, by_data, check_convention, drawn

FEW, SELDOM = 8, (0.1, 0.5, 0.9)
"""Pairs and times that are enough for a clear case: numbers of many dimensions scatter little."""


def cheap_check(
    field: VelocityField,
    data: PointSet | Tensor,
    *,
    labels: Tensor | None = None,
    seed: int = 0,
) -> ConventionVerdict | None:
    """What speaks against how a field is read, if anything does; see `check_convention`.

    A few pairs settle it where the reading is right, at about 300 evaluations of one sample; that
    another one is better is confirmed with more of them before it is spoken of. A network that
    needs labels is asked with those of the data.
    """
    known = labels if isinstance(data, Tensor) else data.labels
    try:
        first = by_data(field, drawn(field, data, labels, FEW, seed), SELDOM)
    except InputError:
        if labels is not None or known is None or bool((known == NO_LABEL).any()):
            raise
        labels = known
        first = by_data(field, drawn(field, data, labels, FEW, seed), SELDOM)
    if first.as_declared or min(first.losses.values()) >= LEARNED:
        return None if first.as_declared else first
    sure = check_convention(field, data, labels=labels, seed=seed)
    return None if sure.as_declared else sure
