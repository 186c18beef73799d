"""How far fields are from the oracle, time by time, on the same forward-path pairs.

The yardsticks (`gaussian_field`, `class_gaussians`, `local_oracle`) are fields in closed form that
know less than the oracle: moments, or patches. Where such a field is as close as a model is, the
model need not know more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.analysis.forward_pairs import asked_times, forward_pairs, ratio
from floracle.core.fields import VelocityField
from floracle.core.point_set import NO_LABEL
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError


@dataclass(frozen=True)
class BaselineDistances:
    """The distance of fields from the oracle by time, over pairs of one class."""

    times: Tensor
    """float64 [T]."""
    label: int
    pairs: int
    curves: dict[str, Curve]
    """E‖v − u*‖² per dimension of every field, by name."""
    relative: dict[str, Curve]
    """E‖v − u*‖² / E‖u*‖²."""
    size: Curve
    """E‖u*‖² per dimension."""

    def nearest(self) -> list[str]:
        """The field closest to the oracle at each time [T]."""
        names = list(self.curves)
        closest = torch.stack([self.curves[name].mean for name in names]).argmin(0)
        return [names[i] for i in closest.tolist()]


def baseline_distances(
    oracle: Oracle,
    fields: Mapping[str, VelocityField],
    *,
    times: Tensor,
    pairs: int = 256,
    label: int = NO_LABEL,
    seed: int = 0,
    to: VelocityField | None = None,
) -> BaselineDistances:
    """Measure fields against the oracle at times [T] in [0, 1), all on the same pairs.

    The fields live on the oracle's path. Pairs are drawn from the class `label`, and that label is
    what every field is asked with. With `to` a model, say, distances are from that field instead
    of the oracle: they tell which yardstick the model follows.
    """
    if not fields:
        raise InputError("there is no field to measure; name at least one")
    times = asked_times(times)
    drawn = forward_pairs(oracle.data, pairs, label=label, seed=seed)
    sizes, apart = [], {name: [] for name in fields}
    for t in times.tolist():
        asked = drawn.at(t, oracle.path)
        truth = (to or oracle)(*asked).double()
        sizes.append(per_dimension(truth))
        for name, field in fields.items():
            apart[name].append(per_dimension(field(*asked).double() - truth))
    size = torch.stack(sizes, 1)
    squared = {name: torch.stack(columns, 1) for name, columns in apart.items()}
    return BaselineDistances(
        times=times,
        label=label,
        pairs=pairs,
        curves={name: Curve.of(values) for name, values in squared.items()},
        relative={name: ratio(values, size) for name, values in squared.items()},
        size=Curve.of(size),
    )


def per_dimension(values: Tensor) -> Tensor:
    """Mean squares [b] of values [b, *shape]."""
    return values.flatten(1).square().mean(1)
