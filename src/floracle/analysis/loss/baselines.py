"""The distance of fields from the oracle, time by time, on the same forward-path pairs.

The baselines (`gaussian_field`, `class_gaussians`, `local_oracle`) are fields in closed form that
know less than the oracle: moments, or patches. Where such a field is as close to the oracle as a
model is, the model need not know more than it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.analysis.forward_pairs import check_field_times, forward_pairs, ratio
from floracle.core.fields import VelocityField
from floracle.core.point_set import NO_LABEL
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.sampling.solvers import checked_velocity


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
    oracle_square: Curve
    """E‖u*‖² per dimension."""

    def nearest(self) -> list[str]:
        """The name of the field closest to the oracle at each time [T]."""
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
    reference: VelocityField | None = None,
) -> BaselineDistances:
    """Measure fields on the oracle's path against it at times [T] in [0, 1), on the same pairs.

    Pairs are drawn from the class `label`, which every field gets. With a `reference`, say a
    model, distances are from that field in place of the oracle.
    """
    if not fields:
        raise InputError("there is no field to measure; name at least one")
    times = check_field_times(times)
    drawn = forward_pairs(oracle.data, pairs, label=label, seed=seed)
    squares, distances = [], {name: [] for name in fields}
    for t in times.tolist():
        query = drawn.at(t, oracle.path)
        velocity = checked_velocity(reference or oracle, *query).double()  # u* [p, *shape]
        squares.append(per_dimension(velocity))
        for name, field in fields.items():
            answer = checked_velocity(field, *query).double()
            distances[name].append(per_dimension(answer - velocity))
    square = torch.stack(squares, 1)  # [p, T]
    by_field = {name: torch.stack(columns, 1) for name, columns in distances.items()}
    return BaselineDistances(
        times=times,
        label=label,
        pairs=pairs,
        curves={name: Curve.of(values) for name, values in by_field.items()},
        relative={name: ratio(values, square) for name, values in by_field.items()},
        oracle_square=Curve.of(square),
    )


def per_dimension(values: Tensor) -> Tensor:
    """Mean squares [b] of values [b, *shape]."""
    return values.flatten(1).square().mean(1)
