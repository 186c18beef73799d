"""The oracle loss of fields by time, and their loss on held-out data.

On pairs x_t = α data + σ noise, with c = α' data + σ' noise and u* = E[c | x_t],

    ‖v − c‖² = ‖v − u*‖² + ‖u* − c‖² + 2 ⟨v − u*, u* − c⟩,

and the last term is 0 on average. So the *oracle loss* E‖v − u*‖² is measured twice: directly, and
as the conditional loss less the gap (the irreducible loss) of the same pairs, which is what a
training log allows.

The oracle is the exact field of the training set, not the best field for new data: a field without
oracle loss has memorized. Hence the conditional loss of held-out data at the same noise and times,
beside it: where it is larger, the field knows its training points from others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.analysis.forward_pairs import ForwardPairs, check_field_times, forward_pairs
from floracle.core.fields import VelocityField
from floracle.core.point_set import NO_LABEL, PointSet, classes, mass
from floracle.core.seeds import generator, noise
from floracle.data.held_out import join_and_warn
from floracle.data.training_points import check_all_points
from floracle.models.field import check_fit
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError, suggestion
from floracle.run.results import provenance
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import trajectory
from floracle.sampling.solvers import checked_velocity

from .baselines import per_dimension
from .results import PAIRED, ClassLoss, OracleLoss

Along = Literal["path", "own"]
Columns = dict[str, Tensor]
"""Losses of a field by name, float64 [p, T] each."""

SAMPLES_PER_BATCH = 256
SAME_DISTANCE = 1e-4  # distances this close, relative to themselves, are the same
ORACLE = "oracle"
BASELINE_PREFIX = "to "  # of the names of distances to baselines among the curves


def oracle_loss(field: VelocityField, oracle: Oracle, **options: Any) -> OracleLoss:
    """Measure one field against the oracle; the options are those of `oracle_losses`."""
    return oracle_losses({"": field}, oracle, **options)[""]


@torch.no_grad()
def oracle_losses(
    fields: Mapping[str, VelocityField],
    oracle: Oracle,
    *,
    times: Tensor,
    pairs: int = 256,
    classes: Sequence[int] | None = None,
    held_out: PointSet | None = None,
    baselines: Mapping[str, VelocityField] | None = None,
    along: Along = "path",
    steps: int = 50,
    seed: int = 0,
) -> dict[str, OracleLoss]:
    """Measure fields against the oracle on the same pairs and noise, by name.

    The oracle is evaluated once for all fields. Compare them with `loss_difference`.

    - `fields`: Fields on the oracle's path, by name.
    - `times`: Increasing times [T] in [0, 1).
    - `pairs`: Pairs of each class; at least 2.
    - `classes`: Labels that pairs are drawn of and that fields get; −1, the default, is the whole
      set.
    - `held_out`: Data that was not trained on. Errors of its curves are those of the mean over
      this set.
    - `baselines`: Closed-form fields that the fields are compared with, by name.
    - `along`: "path" measures on forward-path pairs; "own" on the field's own trajectories from
      fresh noise, by `steps` Euler steps over [0, 1] and the times.
    """
    # 1. What is asked for
    if not fields:
        raise InputError("there is no field to measure; name at least one")
    if along not in get_args(Along):
        raise InputError(f"along={along!r} is unknown; {suggestion(str(along), get_args(Along))}")
    check_all_points(fields.values(), oracle.data)
    for field in fields.values():
        check_fit(field, oracle.data)
    labels, baselines = _check_classes(oracle.data, classes), dict(baselines or {})
    if ORACLE in baselines:
        raise InputError("the oracle is among the baselines already; give this one another name")
    if held_out is not None:
        held_out = _check_held_out(oracle.data, held_out, along, labels)
    times = check_field_times(times)
    references = {ORACLE: oracle, **{BASELINE_PREFIX + n: v for n, v in baselines.items()}}

    # 2. Losses class by class, pair by pair
    by_field = {name: [] for name in fields}
    for label in labels:
        first_seed = class_seed(seed, label)
        if along == "own":
            seeds = range(first_seed, first_seed + pairs)
            columns = _measure_on_trajectories(
                fields, references, oracle, times, seeds=seeds, label=label, steps=steps
            )
        else:
            drawn = forward_pairs(oracle.data, pairs, label=label, seed=first_seed)
            columns = _measure_on_path(fields, references, oracle, times, drawn)
            if held_out is not None:
                other = _draw_held_out(held_out, drawn, first_seed)
                conditional = _measure_on_path(fields, {}, oracle, times, other)
                for name, column in columns.items():
                    column["held_out"] = conditional[name]["conditional"]
                    column["difference"] = column["held_out"] - column["conditional"]
        for name, column in columns.items():
            by_field[name].append(_average(column, label, mass(oracle.data, label)))

    # 3. Results
    settings = {
        "classes": list(labels),
        "pairs": pairs,
        "along": along,
        "seed": seed,
        "path": oracle.path.name,
        "yardsticks": list(baselines),  # the name in files
        **({"steps": steps} if along == "own" else {}),
        **({"held_out": held_out.fingerprint} if held_out is not None else {}),
    }
    origin = provenance(data=oracle.data.fingerprint)
    return {
        name: OracleLoss(times, tuple(by_class), settings, origin)
        for name, by_class in by_field.items()
    }


def _measure_on_path(
    fields: Mapping[str, VelocityField],
    references: Mapping[str, VelocityField],
    oracle: Oracle,
    times: Tensor,
    pairs: ForwardPairs,
) -> dict[str, Columns]:
    """The losses of fields on forward-path pairs; without references the conditional one alone."""
    rows, path = {name: [] for name in fields}, oracle.path
    for t in times.tolist():
        query = pairs.at(t, path)
        c = path.velocity(pairs.data.double(), pairs.noise.double(), query[1])
        velocities = {
            name: evaluate_in_batches(other, *query) for name, other in references.items()
        }
        gap = per_dimension(velocities[ORACLE] - c) if velocities else None  # ‖u* − c‖² [p]
        for name, field in fields.items():
            v = evaluate_in_batches(field, *query)
            row = {reference: per_dimension(v - w) for reference, w in velocities.items()}
            row["conditional"] = per_dimension(v - c)
            if gap is not None:
                row["gap"], row["less_gap"] = gap, row["conditional"] - gap
                row["disagreement"] = row["less_gap"] - row[ORACLE]
            rows[name].append(row)
    return {name: _stack_times(by_time) for name, by_time in rows.items()}


def _measure_on_trajectories(
    fields: Mapping[str, VelocityField],
    references: Mapping[str, VelocityField],
    oracle: Oracle,
    times: Tensor,
    *,
    seeds: range,
    label: int,
    steps: int,
) -> dict[str, Columns]:
    """The distances of fields to references on each field's own trajectories."""
    pairs = len(seeds)
    if pairs < 2:
        raise InputError(f"errors need at least 2 trajectories, got pairs = {pairs}")
    grid = torch.cat([time_grid(steps), times]).unique()
    grid = grid[grid <= times[-1]]
    # one point more, so that the last time has a velocity too
    grid = torch.cat([grid, grid.new_ones(1)])
    start, labels = noise(seeds, oracle.data.shape), torch.full((pairs,), label)
    measured_times, columns = set(times.tolist()), {}
    for name, field in fields.items():
        evaluate: Callable[..., Tensor] = partial(evaluate_in_batches, field)
        rows = []
        for state in trajectory(evaluate, start, grid, labels=labels, path=oracle.path):
            if state.t in measured_times and state.velocity is not None:
                query = state.x, torch.full((pairs,), state.t, dtype=torch.float64), labels
                velocities = {
                    n: evaluate_in_batches(other, *query) for n, other in references.items()
                }
                rows.append({n: per_dimension(state.velocity - w) for n, w in velocities.items()})
        columns[name] = _stack_times(rows)
    return columns


def _stack_times(rows: list[dict[str, Tensor]]) -> Columns:
    return {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}


def _average(columns: Columns, label: int, share: float) -> ClassLoss:
    """The curves over the pairs of a class, and which reference the field is closest to."""
    distances = {
        name.removeprefix(BASELINE_PREFIX): values
        for name, values in columns.items()
        if name == ORACLE or name.startswith(BASELINE_PREFIX)
    }
    names, stacked = list(distances), torch.stack(list(distances.values()))  # [references, p, T]
    closest, significant = stacked.mean(1).argmin(0).tolist(), []
    for k, best in enumerate(closest):
        excess = Curve.of((stacked[:, :, k] - stacked[best, :, k]).T)  # paired, [references]
        # the second term: where references are the same, as all are at t = 0, rounding must not
        # decide
        beaten = excess.mean > 2 * excess.error + SAME_DISTANCE * stacked[best, :, k].mean()
        significant.append(all(beaten[i] for i in range(len(names)) if i != best))
    return ClassLoss(
        label=label,
        share=share,
        pairs=len(columns[ORACLE]),
        curves={name: Curve.of(values) for name, values in columns.items()},
        closest=tuple(names[i] for i in closest),
        significant=tuple(map(bool, significant)),
        by_pair={name: columns[name] for name in PAIRED if name in columns},
    )


def evaluate_in_batches(
    field: VelocityField, x: Tensor, t: Tensor, labels: Tensor | None = None
) -> Tensor:
    """The velocity of a field, float64 [p, *shape], some samples at a time."""
    labels = torch.full((len(x),), NO_LABEL) if labels is None else labels
    batches = zip(*(values.split(SAMPLES_PER_BATCH) for values in (x, t, labels)), strict=True)
    return torch.cat([checked_velocity(field, *batch) for batch in batches]).double()


def _draw_held_out(held_out: PointSet, pairs: ForwardPairs, seed: int) -> ForwardPairs:
    """Held-out data of the same class with the noise of the training pairs."""
    rows, weights = held_out.atoms(int(pairs.labels[0]))
    # seeds from `seed` on belong to the noise of the pairs
    source, count = generator(seed + 2**20), len(pairs.data)
    draws = torch.multinomial(weights, count, replacement=True, generator=source)
    return pairs._replace(data=held_out.take(rows[draws]))


def _check_classes(data: PointSet, labels: Sequence[int] | None) -> tuple[int, ...]:
    """The classes to measure, each once."""
    unique, existing = tuple(dict.fromkeys(labels or (NO_LABEL,))), classes(data)
    for label in unique:
        if label != NO_LABEL and label not in existing:
            raise InputError(f"there is no class {label}; labels are {existing or 'all −1'}")
    return unique


def _check_held_out(data: PointSet, held_out: PointSet, along: str, labels: tuple) -> PointSet:
    """Held-out data with the labels of the data; what cannot be compared is refused."""
    if along == "own":
        raise InputError("held-out data is measured on the path alone; use along='path'")
    held_out = join_and_warn(data, held_out)
    for label in labels:
        if not len(held_out.atoms(label).rows):
            raise InputError(f"there are no held-out points of class {label}")
    return held_out


def class_seed(seed: int, label: int) -> int:
    """The first seed of a class, scattered over [0, 2³² − 2²¹) so that classes do not overlap."""
    return (seed * 0x9E3779B1 + (label + 2) * 0x85EBCA6B) % (2**32 - 2**21)
