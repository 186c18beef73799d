"""The losses of fields against the oracle by time: what they say, and where fields differ.

Fields that were asked about the same pairs with the same noise are compared pair by pair, so that
what the pairs have in common drops out of the error. With T times an interval that is to hold at
all of them together is that of the chance 1 − .05 / T at each (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from scipy.special import stdtrit
from torch import Tensor

from floracle.analysis.curves import COVERED, ENOUGH, Curve
from floracle.analysis.serialization import (
    check_kind,
    check_shapes,
    number,
    reading,
    truths,
    words,
)
from floracle.run.errors import InputError
from floracle.run.results import Results, differences

PAIRED = ("oracle", "held_out")
"""Losses that are kept pair by pair."""
MORE, LESS, UNKNOWN = "more", "less", "cannot say"


@dataclass(frozen=True)
class ClassLoss:
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
    by_pair: Mapping[str, Tensor]
    """The losses that fields are compared by, pair by pair, float64 [p, T] each."""

    def interval(self, name: str) -> tuple[Tensor, Tensor]:
        """The 95 % interval of a curve at each time by Student's t: (low [T], high [T])."""
        return interval(self.curves[name], self.pairs)

    def memorizes(self) -> Tensor:
        """Where held-out data is surely worse than training data, bool [T]; each time alone."""
        if "difference" not in self.curves:
            raise InputError("nothing was held out, so nobody knows; give held_out=")
        return self.interval("difference")[0] > 0


@dataclass(frozen=True)
class OracleLoss:
    """The losses of a field, by class and time; made by `oracle_loss`."""

    kind: ClassVar[str] = "oracle_loss"
    times: Tensor
    """float64 [T]."""
    groups: tuple[ClassLoss, ...]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """Pairs of every class."""
        return self.groups[0].pairs

    @property
    def enough(self) -> bool:
        """Whether all classes together have the pairs that an interval takes."""
        return sum(group.pairs for group in self.groups) >= ENOUGH

    def whole(self) -> dict[str, Curve]:
        """The curves of the classes together, by their share; classes have pairs of their own."""
        return {
            name: self.together([group.curves[name] for group in self.groups])
            for name in self.groups[0].curves
        }

    def together(self, curves: list[Curve]) -> Curve:
        """Curves of the classes as one, by their share."""
        total = sum(group.share for group in self.groups)
        shares = torch.tensor([group.share / total for group in self.groups]).double()[:, None]
        means = torch.stack([curve.mean for curve in curves])
        errors = torch.stack([curve.error for curve in curves])
        return Curve((shares * means).sum(0), (shares * errors).square().sum(0).sqrt())

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        arrays, values = {"times": self.times}, []
        for group in self.groups:
            for name, curve in group.curves.items():
                arrays[f"{group.label}/{name}"] = curve.mean
                arrays[f"{group.label}/{name}/error"] = curve.error
            for name, pairs in group.by_pair.items():
                arrays[f"{group.label}/{name}/pairs"] = pairs
            numbers = {name: getattr(group, name) for name in ("label", "share", "pairs")}
            closest = {"closest": list(group.closest), "sure": list(group.sure)}
            names = {"curves": list(group.curves), "by_pair": list(group.by_pair)}
            values.append({**numbers, **closest, **names})
        return Results(self.kind, self.settings, {"groups": values}, arrays, self.provenance)

    @classmethod
    def of_results(cls, found: Results) -> OracleLoss:
        """The losses that were saved."""
        with reading(cls.kind):
            check_kind(cls.kind, found)
            check_shapes(found.arrays, {"times": "T"})
            groups = tuple(_group_of(each, found.arrays) for each in found.values["groups"])
            if not groups:
                raise ValueError("there is no class")
            return cls(found.arrays["times"], groups, found.settings, found.provenance)


def _group_of(values: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> ClassLoss:
    label, share, pairs = (number(values[name]) for name in ("label", "share", "pairs"))
    names, kept = words(values["curves"]), words(values["by_pair"])
    closest, sure = words(values["closest"]), truths(values["sure"])
    for name in names:
        found = {"times": arrays["times"], "mean": arrays[f"{label}/{name}"]}
        found |= {"error": arrays[f"{label}/{name}/error"]}
        check_shapes(found, dict.fromkeys(found, "T"))
    by_pair = {name: arrays[f"{label}/{name}/pairs"] for name in kept}
    check_shapes(by_pair, dict.fromkeys(by_pair, f"{pairs} {len(arrays['times'])}"))
    if not len(closest) == len(sure) == len(arrays["times"]):
        raise ValueError(f"class {label} does not say at every time what is closest")
    curves = {
        name: Curve(arrays[f"{label}/{name}"], arrays[f"{label}/{name}/error"]) for name in names
    }
    return ClassLoss(label, share, pairs, curves, closest, sure, by_pair)


@dataclass(frozen=True)
class LossComparison:
    """The losses of several fields over the same pairs, on the path and maybe on their own."""

    kind: ClassVar[str] = "losses"
    path: Mapping[str, OracleLoss]
    """By the name of the field; the first is what the others are compared with."""
    own: Mapping[str, OracleLoss]
    """On each field's own trajectories; empty where they were not followed."""
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        arrays, values = {}, {}
        for along, losses in (("path", self.path), ("own", self.own)):
            values[along] = []
            for k, (name, loss) in enumerate(losses.items()):
                part = loss.to_results()
                arrays |= {f"{along}/{k}/{key}": array for key, array in part.arrays.items()}
                known = {"settings": part.settings, "provenance": part.provenance}
                values[along].append({"name": name, "values": part.values, **known})
        return Results(self.kind, self.settings, values, arrays, self.provenance)

    @classmethod
    def of_results(cls, found: Results) -> LossComparison:
        """The losses that were saved."""
        with reading(cls.kind):
            check_kind(cls.kind, found)
            path, own = (_losses_of(found, along) for along in ("path", "own"))
            if not path:
                raise ValueError("there is no field")
            return cls(path, own, found.settings, found.provenance)


def _losses_of(found: Results, along: str) -> dict[str, OracleLoss]:
    losses, parts = {}, found.values[along]
    if not isinstance(parts, list):
        raise TypeError(f"{along} is no list")
    for k, part in enumerate(parts):
        prefix = f"{along}/{k}/"
        arrays = {
            name.removeprefix(prefix): array
            for name, array in found.arrays.items()
            if name.startswith(prefix)
        }
        one = Results("oracle_loss", part["settings"], part["values"], arrays, part["provenance"])
        losses[words([part["name"]])[0]] = OracleLoss.of_results(one)
    return losses


@dataclass(frozen=True)
class LossDifference:
    """How much more of a loss one field has than another, on the same pairs and noise."""

    times: Tensor
    curve: Curve
    """The mean of the difference and its error, over classes by their share."""
    low: Tensor
    """The interval that holds at all times together with a chance of 95 %, float64 [T] …"""
    high: Tensor

    def verdicts(self) -> tuple[str, ...]:
        """By time: "more", "less", or "cannot say" where the interval holds 0."""
        return tuple(
            MORE if low > 0 else LESS if high < 0 else UNKNOWN
            for low, high in zip(self.low.tolist(), self.high.tolist(), strict=True)
        )


def loss_difference(one: OracleLoss, other: OracleLoss, name: str = "oracle") -> LossDifference:
    """How much more of the loss `name` (of `PAIRED`) the one field has than the other."""
    unlike = differences(one.settings, other.settings)
    unlike += differences(_data(one), _data(other))
    if unlike or not torch.equal(one.times, other.times):
        listed = "; ".join(unlike) or "the times"
        raise InputError(
            f"only losses of the same pairs can be compared, but these differ: {listed}"
        )
    curves = []
    for ours, theirs in zip(one.groups, other.groups, strict=True):
        if name not in ours.by_pair or name not in theirs.by_pair:
            raise InputError(f"{name!r} was not measured of both; there is {list(ours.by_pair)}")
        curves.append(Curve.of(ours.by_pair[name] - theirs.by_pair[name]))
    curve = one.together(curves)
    low, high = interval(curve, one.pairs, together=len(one.times))
    return LossDifference(one.times, curve, low, high)


def interval(curve: Curve, pairs: int, *, together: int = 1) -> tuple[Tensor, Tensor]:
    """The 95 % interval of means over pairs by Student's t, of so many that hold together."""
    chance = 1 - (1 - COVERED) / (2 * together)
    reach = float(stdtrit(pairs - 1, chance)) * curve.error
    return curve.mean - reach, curve.mean + reach


def _data(loss: OracleLoss) -> dict[str, Any]:
    return {"data": loss.provenance.get("data")}
