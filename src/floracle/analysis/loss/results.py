"""Losses of fields against the oracle by time, and differences between fields.

Fields that were measured on the same pairs and noise are compared pair by pair, so that what the
pairs have in common drops out of the error. An interval that holds at all T times together is that
of the chance 1 − .05 / T at each (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from scipy.special import stdtrit
from torch import Tensor

from floracle.analysis.curves import COVERAGE, MIN_PAIRS_FOR_CONTROL, Curve
from floracle.analysis.serialization import (
    check_bools,
    check_kind,
    check_number,
    check_shapes,
    check_strings,
    damage_is_reported,
)
from floracle.run.errors import InputError
from floracle.run.results import Results, differences

PAIRED = ("oracle", "held_out")  # losses that are kept pair by pair
MORE, LESS, UNKNOWN = "more", "less", "cannot say"


@dataclass(frozen=True)
class ClassLoss:
    """The losses of a field by time, over pairs of one class, per dimension."""

    label: int
    share: float
    """The share of the class in the mass of the data."""
    pairs: int
    curves: Mapping[str, Curve]
    """On the path: `oracle`, ‖v − u*‖²; `conditional`, ‖v − c‖²; `gap`, ‖u* − c‖²; `less_gap`,
    conditional − gap; `disagreement`, less_gap − oracle, 0 on average; with held-out data
    `held_out`, its conditional loss, and `difference`, held_out − conditional, at the same noise.
    On the field's own trajectories there is no c, and `oracle` is alone. `to NAME` are ‖v − w‖²
    for the baselines w."""
    closest: tuple[str, ...]
    """Which of the oracle and the baselines v is closest to, by time [T]."""
    significant: tuple[bool, ...]
    """Whether it is closer to that than to any other, by two errors of the paired difference."""
    by_pair: Mapping[str, Tensor]
    """The losses that fields are compared by, pair by pair, float64 [p, T] each."""


@dataclass(frozen=True)
class OracleLoss:
    """The losses of a field, by class and time; made by `oracle_loss`."""

    kind: ClassVar[str] = "oracle_loss"
    times: Tensor
    """float64 [T]."""
    classes: tuple[ClassLoss, ...]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """Pairs of every class."""
        return self.classes[0].pairs

    @property
    def has_enough_pairs(self) -> bool:
        """Whether all classes together have the pairs that an interval takes."""
        return sum(loss.pairs for loss in self.classes) >= MIN_PAIRS_FOR_CONTROL

    def mean_curves(self) -> dict[str, Curve]:
        """The curves averaged over the classes by their share."""
        return {
            name: self.average_classes([loss.curves[name] for loss in self.classes])
            for name in self.classes[0].curves
        }

    def average_classes(self, curves: list[Curve]) -> Curve:
        """The average of a curve of each class by their share; classes have independent pairs."""
        total = sum(loss.share for loss in self.classes)
        shares = torch.tensor([loss.share / total for loss in self.classes]).double()[:, None]
        means = torch.stack([curve.mean for curve in curves])  # [classes, T]
        errors = torch.stack([curve.error for curve in curves])
        return Curve((shares * means).sum(0), (shares * errors).square().sum(0).sqrt())

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        arrays, values = {"times": self.times}, []
        for loss in self.classes:
            for name, curve in loss.curves.items():
                arrays[f"{loss.label}/{name}"] = curve.mean
                arrays[f"{loss.label}/{name}/error"] = curve.error
            for name, pairs in loss.by_pair.items():
                arrays[f"{loss.label}/{name}/pairs"] = pairs
            values.append(
                {
                    "label": loss.label,
                    "share": loss.share,
                    "pairs": loss.pairs,
                    "closest": list(loss.closest),
                    "sure": list(loss.significant),
                    "curves": list(loss.curves),
                    "by_pair": list(loss.by_pair),
                }
            )
        return Results(self.kind, self.settings, {"groups": values}, arrays, self.provenance)

    @classmethod
    def of_results(cls, results: Results) -> OracleLoss:
        """The inverse of `to_results`."""
        with damage_is_reported(cls.kind):
            check_kind(cls.kind, results)
            check_shapes(results.arrays, {"times": "T"})
            classes = tuple(_read_class(v, results.arrays) for v in results.values["groups"])
            if not classes:
                raise ValueError("there is no class")
            return cls(results.arrays["times"], classes, results.settings, results.provenance)


def _read_class(values: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> ClassLoss:
    label, share, pairs = (check_number(values[name]) for name in ("label", "share", "pairs"))
    closest, significant = check_strings(values["closest"]), check_bools(values["sure"])
    times, curves = len(arrays["times"]), {}
    if not len(closest) == len(significant) == times:
        raise ValueError(f"class {label} does not say at every time what is closest")
    for name in check_strings(values["curves"]):
        mean, error = arrays[f"{label}/{name}"], arrays[f"{label}/{name}/error"]
        check_shapes({"mean": mean, "error": error}, dict.fromkeys(("mean", "error"), f"{times}"))
        curves[name] = Curve(mean, error)
    by_pair = {name: arrays[f"{label}/{name}/pairs"] for name in check_strings(values["by_pair"])}
    check_shapes(by_pair, dict.fromkeys(by_pair, f"{pairs} {times}"))
    return ClassLoss(label, share, pairs, curves, closest, significant, by_pair)


@dataclass(frozen=True)
class LossComparison:
    """The losses of several fields over the same pairs."""

    kind: ClassVar[str] = "losses"
    path: Mapping[str, OracleLoss]
    """On the forward path, by field; the others are compared with the first."""
    own: Mapping[str, OracleLoss]
    """On each field's own trajectories; empty where these were not measured."""
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def to_results(self) -> Results:
        """As values and arrays, for `save`; the arrays of field k are under path/k or own/k."""
        arrays, values = {}, {}
        for along, losses in (("path", self.path), ("own", self.own)):
            values[along] = []
            for k, (name, loss) in enumerate(losses.items()):
                results = loss.to_results()
                arrays |= {f"{along}/{k}/{key}": array for key, array in results.arrays.items()}
                record = {"name": name, "values": results.values, "settings": results.settings}
                values[along].append({**record, "provenance": results.provenance})
        return Results(self.kind, self.settings, values, arrays, self.provenance)

    @classmethod
    def of_results(cls, results: Results) -> LossComparison:
        """The inverse of `to_results`."""
        with damage_is_reported(cls.kind):
            check_kind(cls.kind, results)
            path, own = (_read_losses(results, along) for along in ("path", "own"))
            if not path:
                raise ValueError("there is no field")
            return cls(path, own, results.settings, results.provenance)


def _read_losses(results: Results, along: str) -> dict[str, OracleLoss]:
    losses, records = {}, results.values[along]
    if not isinstance(records, list):
        raise TypeError(f"{along} is no list")
    for k, record in enumerate(records):
        prefix, arrays = f"{along}/{k}/", results.arrays
        fields = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        settings, values = record["settings"], record["values"]
        loss = Results(OracleLoss.kind, settings, values, fields, record["provenance"])
        losses[check_strings([record["name"]])[0]] = OracleLoss.of_results(loss)
    return losses


@dataclass(frozen=True)
class LossDifference:
    """How much more of a loss one field has than another, on the same pairs and noise."""

    times: Tensor
    curve: Curve
    """The mean of the difference and its error, over classes by their share."""
    low: Tensor
    """The ends of the interval that holds at all times together with a chance of 95 %, [T]."""
    high: Tensor

    def verdicts(self) -> tuple[str, ...]:
        """By time: "more", "less", or "cannot say" where the interval holds 0."""
        return tuple(
            MORE if low > 0 else LESS if high < 0 else UNKNOWN
            for low, high in zip(self.low.tolist(), self.high.tolist(), strict=True)
        )


def loss_difference(first: OracleLoss, second: OracleLoss, name: str = "oracle") -> LossDifference:
    """The loss `name` (of `PAIRED`) of the first field less that of the second."""
    data = ({"data": loss.provenance.get("data")} for loss in (first, second))
    unlike = differences(first.settings, second.settings) + differences(*data)
    if unlike or not torch.equal(first.times, second.times):
        listed = "; ".join(unlike) or "the times"
        raise InputError(
            f"only losses of the same pairs can be compared, but these differ: {listed}"
        )
    curves = []
    for a, b in zip(first.classes, second.classes, strict=True):
        if name not in a.by_pair or name not in b.by_pair:
            raise InputError(f"{name!r} was not measured of both; there is {list(a.by_pair)}")
        curves.append(Curve.of(a.by_pair[name] - b.by_pair[name]))
    curve = first.average_classes(curves)
    low, high = confidence_interval(curve, first.pairs, simultaneous=len(first.times))
    return LossDifference(first.times, curve, low, high)


def confidence_interval(
    curve: Curve, pairs: int, *, simultaneous: int = 1
) -> tuple[Tensor, Tensor]:
    """The 95 % interval of means over pairs by Student's t, (low [T], high [T]).

    `simultaneous` is the number of intervals that hold together.
    """
    quantile = 1 - (1 - COVERAGE) / (2 * simultaneous)
    reach = float(stdtrit(pairs - 1, quantile)) * curve.error
    return curve.mean - reach, curve.mean + reach
