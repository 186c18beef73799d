"""How far a field is from the oracle, and how it does on data it has not seen, by time.

On pairs x_t = α data + σ noise, with c = α' data + σ' noise and u* = E[c | x_t],

    ‖v − c‖² = ‖v − u*‖² + ‖u* − c‖² + 2 ⟨v − u*, u* − c⟩,

and the last term vanishes on average. So the *oracle loss* E‖v − u*‖² is measured twice: directly,
and as the conditional loss less the gap of the same pairs, which is what a training log allows.

The oracle is the training set's own field, not the best field for new data: a field without oracle
loss has memorized. Hence the conditional loss of held-out data at the same noise and times, beside
it: where it is larger, the field knows its training samples from others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.analysis.forward_pairs import ForwardPairs, asked_times, forward_pairs
from floracle.core.fields import VelocityField
from floracle.core.point_set import NO_LABEL, PointSet, classes, mass
from floracle.core.seeds import generator, noise
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError, suggestion
from floracle.run.results import provenance
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import trajectory

from .baselines import per_dimension
from .results import PAIRED, ClassLoss, OracleLoss

Along = Literal["path", "own"]
AT_ONCE = 256
"""Samples that a field is asked about together at most."""
SAME = 1e-4
"""Distances this close, relative to themselves, are the same."""
ORACLE = "oracle"
FOLLOWS = "to "
"""How the names of distances to yardsticks begin among the curves."""


def oracle_loss(
    field: VelocityField,
    oracle: Oracle,
    *,
    times: Tensor,
    pairs: int = 256,
    classes: Sequence[int] | None = None,
    held_out: PointSet | None = None,
    yardsticks: Mapping[str, VelocityField] | None = None,
    along: Along = "path",
    steps: int = 50,
    seed: int = 0,
) -> OracleLoss:
    """Measure a field against the oracle at increasing times [T] in [0, 1).

    All fields live on the oracle's path. `classes` are labels to draw `pairs` of and to ask the
    fields with; −1, the default, is the whole set. `along="own"` follows the field itself from
    fresh noise, by `steps` Euler steps over [0, 1] to which the times are added.
    Errors of held-out curves are those of the mean over the held-out set that was given.
    """
    found = oracle_losses(
        {"": field},
        oracle,
        times=times,
        pairs=pairs,
        classes=classes,
        held_out=held_out,
        yardsticks=yardsticks,
        along=along,
        steps=steps,
        seed=seed,
    )
    return found[""]


@torch.no_grad()
def oracle_losses(
    fields: Mapping[str, VelocityField],
    oracle: Oracle,
    *,
    times: Tensor,
    pairs: int = 256,
    classes: Sequence[int] | None = None,
    held_out: PointSet | None = None,
    yardsticks: Mapping[str, VelocityField] | None = None,
    along: Along = "path",
    steps: int = 50,
    seed: int = 0,
) -> dict[str, OracleLoss]:
    """Measure several fields on the same pairs and noise, by name; see `oracle_loss`.

    The oracle is asked once for all of them. What they differ by is told by `loss.apart`.
    """
    if not fields:
        raise InputError("there is no field to measure; name at least one")
    if along not in get_args(Along):
        raise InputError(f"along={along!r} is unknown; {suggestion(str(along), get_args(Along))}")
    labels, yardsticks = _labels(oracle.data, classes), dict(yardsticks or {})
    if ORACLE in yardsticks:
        raise InputError("the oracle is among the yardsticks already; give this one another name")
    _check_held_out(oracle.data, held_out, along, labels)
    times = asked_times(times)
    asking = _Asking(dict(fields), oracle, yardsticks)
    groups = {name: [] for name in fields}
    for label in labels:
        first = _first_seed(seed, label)
        if along == "own":
            columns = _on_own(asking, times, label, pairs=pairs, steps=steps, seed=first)
        else:
            drawn = forward_pairs(oracle.data, pairs, label=label, seed=first)
            columns = _on_path(asking, times, drawn)
            if held_out is not None:
                _add_held_out(asking, times, _matched(held_out, drawn, first), columns)
        for name, measured in columns.items():
            groups[name].append(_loss(measured, label, mass(oracle.data, label)))
    settings = {
        "classes": list(labels),
        "pairs": pairs,
        "along": along,
        "seed": seed,
        "path": oracle.path.name,
        "yardsticks": list(yardsticks),
        **({"steps": steps} if along == "own" else {}),
        **({"held_out": held_out.fingerprint} if held_out is not None else {}),
    }
    known = provenance(data=oracle.data.fingerprint)
    return {
        name: OracleLoss(times, tuple(found), settings, known) for name, found in groups.items()
    }


@dataclass(frozen=True)
class _Asking:
    """The fields, and those that they are compared with."""

    fields: Mapping[str, VelocityField]
    oracle: Oracle
    yardsticks: Mapping[str, VelocityField]

    def known(self, *asked: Tensor) -> dict[str, Tensor]:
        """The velocities of the oracle and of the yardsticks, float64 [p, *shape] each."""
        others = {FOLLOWS + name: each for name, each in self.yardsticks.items()}
        return {
            name: velocity_of(each, *asked)
            for name, each in {ORACLE: self.oracle, **others}.items()
        }


def _on_path(asking: _Asking, times: Tensor, drawn: ForwardPairs) -> dict[str, dict[str, Tensor]]:
    """What is measured of pairs at all times, by field and curve, [p, T] each."""
    rows = {name: [] for name in asking.fields}
    for t in times.tolist():
        asked, path = drawn.at(t, asking.oracle.path), asking.oracle.path
        c = path.velocity(drawn.data.double(), drawn.noise.double(), asked[1])
        known = asking.known(*asked)
        gap = per_dimension(known[ORACLE] - c)
        for name, field in asking.fields.items():
            v = velocity_of(field, *asked)
            row = {each: per_dimension(v - w) for each, w in known.items()}
            row["conditional"], row["gap"] = per_dimension(v - c), gap
            row["less_gap"] = row["conditional"] - gap
            row["disagreement"] = row["less_gap"] - row[ORACLE]
            rows[name].append(row)
    return {name: _columns(found) for name, found in rows.items()}


def _add_held_out(
    asking: _Asking, times: Tensor, others: ForwardPairs, columns: dict[str, dict[str, Tensor]]
) -> None:
    """The conditional loss of held-out pairs, and how much more it is than in training."""
    path, found = asking.oracle.path, {name: [] for name in asking.fields}
    for t in times.tolist():
        asked = others.at(t, path)
        c = path.velocity(others.data.double(), others.noise.double(), asked[1])
        for name, field in asking.fields.items():
            found[name].append(per_dimension(velocity_of(field, *asked) - c))
    for name, rows in found.items():
        held_out = torch.stack(rows, 1)
        more = held_out - columns[name]["conditional"]
        columns[name] |= {"held_out": held_out, "difference": more}


def _on_own(
    asking: _Asking, times: Tensor, label: int, *, pairs: int, steps: int, seed: int
) -> dict[str, dict[str, Tensor]]:
    """Distances along each field's own trajectories, by field and curve, [p, T] each."""
    if pairs < 2:
        raise InputError(f"errors need at least 2 trajectories, got pairs = {pairs}")
    grid = torch.cat([time_grid(steps), times]).unique()
    grid = grid[grid <= times[-1]]
    # one point more, so that the velocity is known at the last time too
    onward = torch.cat([grid, grid.new_ones(1)])
    start = noise(range(seed, seed + pairs), asking.oracle.data.shape)
    labels, wanted = torch.full((pairs,), label), set(times.tolist())
    found = {}
    for name, field in asking.fields.items():
        rows = []
        for state in trajectory(
            partial(velocity_of, field), start, onward, labels=label, path=asking.oracle.path
        ):
            if state.t in wanted and state.velocity is not None:
                t = torch.full((pairs,), state.t, dtype=torch.float64)
                known = asking.known(state.x, t, labels)
                rows.append({each: per_dimension(state.velocity - w) for each, w in known.items()})
        found[name] = _columns(rows)
    return found


def _loss(columns: dict[str, Tensor], label: int, share: float) -> ClassLoss:
    apart = {
        name.removeprefix(FOLLOWS): values
        for name, values in columns.items()
        if name == ORACLE or name.startswith(FOLLOWS)
    }
    names, distances = list(apart), torch.stack(list(apart.values()))  # [fields, p, T]
    closest, sure = distances.mean(1).argmin(0).tolist(), []
    for k, best in enumerate(closest):
        more = Curve.of((distances[:, :, k] - distances[best, :, k]).T)
        # where two fields are the same, as all are at t = 0, rounding must not decide
        beaten = more.mean > 2 * more.error + SAME * distances[best, :, k].mean()
        sure.append(all(beaten[i] for i in range(len(names)) if i != best))
    curves = {name: Curve.of(values) for name, values in columns.items()}
    return ClassLoss(
        label=label,
        share=share,
        pairs=len(columns[ORACLE]),
        curves=curves,
        closest=tuple(names[i] for i in closest),
        sure=tuple(map(bool, sure)),
        by_pair={name: columns[name] for name in PAIRED if name in columns},
    )


def velocity_of(
    field: VelocityField, x: Tensor, t: Tensor, labels: Tensor | None = None
) -> Tensor:
    """A field's velocity, float64 [p, *shape], a few samples at a time."""
    labels = torch.full((len(x),), NO_LABEL) if labels is None else labels
    pieces = zip(x.split(AT_ONCE), t.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
    found = torch.cat([field(*piece) for piece in pieces])
    if found.shape != x.shape:
        raise InputError(
            f"a field returns a velocity like its samples, {list(x.shape)}, but this one returned"
            f" {list(found.shape)}; take the data it was made for"
        )
    return found.double()


def _matched(held_out: PointSet, drawn: ForwardPairs, seed: int) -> ForwardPairs:
    """Held-out data of the same class with the noise of the training pairs."""
    rows, weights = held_out.atoms(int(drawn.labels[0]))
    count = len(drawn.data)
    draws = torch.multinomial(weights, count, replacement=True, generator=generator(seed + 2**20))
    return drawn._replace(data=held_out.take(rows[draws]))


def _columns(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}


def _labels(data: PointSet, asked: Sequence[int] | None) -> tuple[int, ...]:
    """The classes to measure, each once."""
    chosen, known = tuple(dict.fromkeys(asked or (NO_LABEL,))), classes(data)
    for label in chosen:
        if label != NO_LABEL and label not in known:
            raise InputError(f"there is no class {label}; labels are {known or 'all −1'}")
    return chosen


def _check_held_out(data: PointSet, held_out: PointSet | None, along: str, labels: tuple) -> None:
    """Refuse held-out data that cannot be compared."""
    if held_out is None:
        return
    if along == "own":
        raise InputError("a field's own trajectories hold nothing out; use along='path'")
    if tuple(held_out.shape) != tuple(data.shape):
        raise InputError(
            f"held-out points have shape {tuple(held_out.shape)}, those of the data"
            f" {tuple(data.shape)}"
        )
    for label in labels:
        if not len(held_out.atoms(label).rows):
            raise InputError(f"there are no held-out points of class {label}")


def _first_seed(seed: int, label: int) -> int:
    """The first of the seeds that a class draws with, scattered over [0, 2³² − 2²¹)."""
    return (seed * 0x9E3779B1 + (label + 2) * 0x85EBCA6B) % (2**32 - 2**21)
