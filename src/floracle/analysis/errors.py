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
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from scipy.stats import t as student
from torch import Tensor

from floracle.core.fields import VelocityField
from floracle.core.seeds import generator, noise
from floracle.core.source import NO_LABEL, Source, classes, mass
from floracle.oracle.oracle import Oracle
from floracle.run.errors import Mistake, suggestion
from floracle.run.results import Results, provenance
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import trajectory

from .curves import COVERED, Curve
from .forward import ForwardPairs, asked_times, forward_pairs
from .yardsticks import per_dimension

Along = Literal["path", "own"]
AT_ONCE = 256
"""Samples that a field is asked about together at most."""
SAME = 1e-4
"""Distances this close, relative to themselves, are the same."""
ORACLE = "oracle"
FOLLOWS = "to "
"""How the names of distances to yardsticks begin among the curves."""


@dataclass(frozen=True)
class Loss:
    """The losses of a field by time, over pairs of one class and per dimension.

    On the path the curves are `oracle`, ‖v − u*‖²; `conditional`, ‖v − c‖²; `gap`, ‖u* − c‖²;
    `less_gap`, conditional − gap; `disagreement`, less_gap − oracle, which is 0 on average; and
    with held-out data `held_out`, its conditional loss, and `difference`, held_out − conditional,
    at the same noise. On own trajectories there is no c, and `oracle` is alone. `to NAME` are
    ‖v − w‖² for the yardsticks w.
    """

    label: int
    share: float
    """Of the class in the mass of the data."""
    pairs: int
    curves: Mapping[str, Curve]
    closest: tuple[str, ...]
    """Which of the oracle and the yardsticks v is closest to, by time [T]."""
    sure: tuple[bool, ...]
    """Whether it is closer to that than to any other, by two errors of the paired difference."""

    def interval(self, name: str) -> tuple[Tensor, Tensor]:
        """The 95 % interval of a curve at each time by Student's t: (low [T], high [T])."""
        curve = self.curves[name]
        reach = float(student.ppf((1 + COVERED) / 2, self.pairs - 1)) * curve.error
        return curve.mean - reach, curve.mean + reach

    def memorizes(self) -> Tensor:
        """Where held-out data is surely worse than training data, bool [T]; each time alone."""
        if "difference" not in self.curves:
            raise Mistake("nothing was held out, so nobody knows; give held_out=")
        return self.interval("difference")[0] > 0


@dataclass(frozen=True)
class OracleLoss:
    """The losses of a field, by class and time; made by `oracle_loss`."""

    times: Tensor
    """float64 [T]."""
    groups: tuple[Loss, ...]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def whole(self) -> dict[str, Curve]:
        """The curves of the classes together, by their share; classes have pairs of their own."""
        total = sum(group.share for group in self.groups)
        shares = torch.tensor([group.share / total for group in self.groups]).double()[:, None]
        found = {}
        for name in self.groups[0].curves:
            means = torch.stack([group.curves[name].mean for group in self.groups])
            errors = torch.stack([group.curves[name].error for group in self.groups])
            found[name] = Curve((shares * means).sum(0), (shares * errors).square().sum(0).sqrt())
        return found

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        arrays, values = {"times": self.times}, []
        for group in self.groups:
            for name, curve in group.curves.items():
                arrays[f"{group.label}/{name}"] = curve.mean
                arrays[f"{group.label}/{name}/error"] = curve.error
            numbers = {name: getattr(group, name) for name in ("label", "share", "pairs")}
            closest = {"closest": list(group.closest), "sure": list(group.sure)}
            values.append({**numbers, **closest, "curves": list(group.curves)})
        return Results("oracle_loss", self.settings, {"groups": values}, arrays, self.provenance)

    @classmethod
    def of_results(cls, found: Results) -> OracleLoss:
        """The losses that were saved."""
        try:
            groups = tuple(_group_of(each, found.arrays) for each in found.values["groups"])
            return cls(found.arrays["times"], groups, found.settings, found.provenance)
        except (KeyError, TypeError) as error:
            raise Mistake(f"these are not whole results of oracle_loss ({error})") from error


def _group_of(values: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Loss:
    name = f"{values['label']}/"
    curves = {
        each: Curve(arrays[name + each], arrays[f"{name}{each}/error"])
        for each in values["curves"]
    }
    closest, sure = tuple(values["closest"]), tuple(values["sure"])
    return Loss(values["label"], values["share"], values["pairs"], curves, closest, sure)


@torch.no_grad()
def oracle_loss(
    field: VelocityField,
    oracle: Oracle,
    *,
    times: Tensor,
    pairs: int = 256,
    classes: Sequence[int] | None = None,
    held_out: Source | None = None,
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
    if along not in get_args(Along):
        raise Mistake(f"along={along!r} is unknown; {suggestion(str(along), get_args(Along))}")
    labels, yardsticks = _labels(oracle.data, classes), dict(yardsticks or {})
    if ORACLE in yardsticks:
        raise Mistake("the oracle is among the yardsticks already; give this one another name")
    _check_held_out(oracle.data, held_out, along, labels)
    times = asked_times(times)
    asking = _Asking(field, oracle, yardsticks)
    groups = []
    for label in labels:
        first = _first_seed(seed, label)
        if along == "own":
            columns = _on_own(asking, times, label, pairs=pairs, steps=steps, seed=first)
        else:
            drawn = forward_pairs(oracle.data, pairs, label=label, seed=first)
            columns = _on_path(asking, times, drawn)
            if held_out is not None:
                others = _matched(held_out, drawn, first)
                columns |= _beside(asking, times, others, columns["conditional"])
        groups.append(_loss(columns, label, mass(oracle.data, label)))
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
    return OracleLoss(times, tuple(groups), settings, provenance(data=oracle.data.fingerprint))


@dataclass(frozen=True)
class _Asking:
    """The field, and those that it is compared with."""

    field: VelocityField
    oracle: Oracle
    yardsticks: Mapping[str, VelocityField]

    def velocity(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The field's own, float64 [p, *shape]; labels int64 [p]."""
        return _asked(self.field, x, t, labels)

    def apart(self, v: Tensor, u: Tensor, *asked: Tensor) -> dict[str, Tensor]:
        """‖v − u*‖² and ‖v − w‖² per dimension, [p] each."""
        found = {ORACLE: per_dimension(v - u)}
        for name, other in self.yardsticks.items():
            found[FOLLOWS + name] = per_dimension(v - _asked(other, *asked))
        return found


def _on_path(asking: _Asking, times: Tensor, drawn: ForwardPairs) -> dict[str, Tensor]:
    """What is measured of pairs at all times, [p, T] each."""
    rows = []
    for t in times.tolist():
        asked, path = drawn.at(t, asking.oracle.path), asking.oracle.path
        c = path.velocity(drawn.data.double(), drawn.noise.double(), asked[1])
        v, u = asking.velocity(*asked), _asked(asking.oracle, *asked)
        row = asking.apart(v, u, *asked)
        row["conditional"], row["gap"] = per_dimension(v - c), per_dimension(u - c)
        row["less_gap"] = row["conditional"] - row["gap"]
        row["disagreement"] = row["less_gap"] - row[ORACLE]
        rows.append(row)
    return _columns(rows)


def _beside(
    asking: _Asking, times: Tensor, others: ForwardPairs, training: Tensor
) -> dict[str, Tensor]:
    """The conditional loss of held-out pairs, and how much more it is than in `training`."""
    path, found = asking.oracle.path, []
    for t in times.tolist():
        asked = others.at(t, path)
        c = path.velocity(others.data.double(), others.noise.double(), asked[1])
        found.append(per_dimension(asking.velocity(*asked) - c))
    held_out = torch.stack(found, 1)
    return {"held_out": held_out, "difference": held_out - training}


def _on_own(
    asking: _Asking, times: Tensor, label: int, *, pairs: int, steps: int, seed: int
) -> dict[str, Tensor]:
    """Distances along the field's own trajectories, [p, T] each."""
    if pairs < 2:
        raise Mistake(f"errors need at least 2 trajectories, got pairs = {pairs}")
    grid = torch.cat([time_grid(steps), times]).unique()
    grid = grid[grid <= times[-1]]
    start, labels = (
        noise(range(seed, seed + pairs), asking.oracle.data.shape),
        torch.full((pairs,), label),
    )
    rows, wanted = [], set(times.tolist())
    # one point more, so that the velocity is known at the last time too
    onward = torch.cat([grid, grid.new_ones(1)])
    for state in trajectory(asking.velocity, start, onward, labels=label):
        if state.t in wanted and state.velocity is not None:
            asked = state.x, torch.full((pairs,), state.t, dtype=torch.float64), labels
            rows.append(asking.apart(state.velocity, _asked(asking.oracle, *asked), *asked))
    return _columns(rows)


def _loss(columns: dict[str, Tensor], label: int, share: float) -> Loss:
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
    pairs, words = len(columns[ORACLE]), tuple(names[i] for i in closest)
    return Loss(label, share, pairs, curves, words, tuple(map(bool, sure)))


def _asked(field: VelocityField, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """A field's velocity, float64 [p, *shape], a few samples at a time."""
    labels = torch.full((len(x),), NO_LABEL) if labels is None else labels
    pieces = zip(x.split(AT_ONCE), t.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
    found = torch.cat([field(*piece) for piece in pieces])
    if found.shape != x.shape:
        raise Mistake(
            f"a field returns a velocity like its samples, {list(x.shape)}, but this one returned"
            f" {list(found.shape)}; take the data it was made for"
        )
    return found.double()


def _matched(held_out: Source, drawn: ForwardPairs, seed: int) -> ForwardPairs:
    """Held-out data of the same class with the noise of the training pairs."""
    rows, weights = held_out.atoms(int(drawn.labels[0]))
    count = len(drawn.data)
    draws = torch.multinomial(weights, count, replacement=True, generator=generator(seed + 2**20))
    return drawn._replace(data=held_out.take(rows[draws]))


def _columns(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}


def _labels(data: Source, asked: Sequence[int] | None) -> tuple[int, ...]:
    """The classes to measure, each once."""
    chosen, known = tuple(dict.fromkeys(asked or (NO_LABEL,))), classes(data)
    for label in chosen:
        if label != NO_LABEL and label not in known:
            raise Mistake(f"there is no class {label}; labels are {known or 'all −1'}")
    return chosen


def _check_held_out(data: Source, held_out: Source | None, along: str, labels: tuple) -> None:
    """Refuse held-out data that cannot be compared."""
    if held_out is None:
        return
    if along == "own":
        raise Mistake("a field's own trajectories hold nothing out; use along='path'")
    if tuple(held_out.shape) != tuple(data.shape):
        raise Mistake(
            f"held-out points have shape {tuple(held_out.shape)}, those of the data"
            f" {tuple(data.shape)}"
        )
    for label in labels:
        if not len(held_out.atoms(label).rows):
            raise Mistake(f"there are no held-out points of class {label}")


def _first_seed(seed: int, label: int) -> int:
    """The first of the seeds that a class draws with, scattered over [0, 2³² − 2²¹)."""
    return (seed * 0x9E3779B1 + (label + 2) * 0x85EBCA6B) % (2**32 - 2**21)
