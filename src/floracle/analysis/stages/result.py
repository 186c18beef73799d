"""The measured stages of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate
from floracle.analysis.interpolation import MeasuredTimes
from floracle.core.paths import PATHS, ProbabilityPath
from floracle.core.point_set import NO_LABEL
from floracle.run.errors import InputError
from floracle.run.results import Results, setting_of

from .class_stages import POOLED, ClassStages


@dataclass(frozen=True)
class Stages:
    """The stages of a data set: every class, the whole set, and the classes pooled."""

    kind: ClassVar[str] = "stages"

    times: Tensor
    groups: tuple[ClassStages, ...]
    dims: int
    names: tuple[str, ...]
    """Class names by label; empty where there are none."""
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def group(self, label: int) -> ClassStages:
        """One class; −1 is the whole set, −2 the classes pooled."""
        for group in self.groups:
            if group.label == label:
                return group
        raise KeyError(f"label {label} was not measured")

    @property
    def main(self) -> ClassStages:
        """The group of the headline: the classes pooled, or the whole set without classes.

        A group with a single point gives way to one with several.
        """
        return min(self.groups, key=lambda group: (group.single_point, group.label != POOLED))

    @property
    def typical(self) -> ClassStages:
        """The class with the median predicted collapse; the whole set where there are no classes.

        A class with a single point gives way to one with several. It is never the pool, which is
        no class that a field could be evaluated with.
        """
        groups = [group for group in self.groups if group.label != POOLED]
        groups = [group for group in groups if not group.single_point] or groups
        groups = [group for group in groups if group.label >= 0] or groups
        return sorted(groups, key=lambda group: group.predicted_collapse)[len(groups) // 2]

    @property
    def single_points(self) -> tuple[ClassStages, ...]:
        """The classes that have a single distinct point each."""
        return tuple(group for group in self.groups if group.label >= 0 and group.single_point)

    @property
    def landmarks(self) -> ClassStages:
        """The main group: its `centre`, `collapse`, `end` and their predictions."""
        return self.main

    @property
    def curves(self) -> dict[str, Curve]:
        """The main group's curves."""
        return self.main.curves

    @property
    def area(self) -> Estimate:
        """The main group's measured information, nats."""
        return self.main.area

    @property
    def path(self) -> ProbabilityPath:
        """The path on which they were measured."""
        return PATHS[setting_of(self.settings, "path")]

    def gap_at(self, times: Tensor, *, label: int | None = None) -> Curve:
        """The gap of the main group, or of a class, at any times [...]; summed over dimensions."""
        group = self.main if label is None else self.group(label)
        curve, nodes = group.curves["gap"], MeasuredTimes(self.times, group.predicted_information)
        inside = times.clamp(float(self.times[0]), float(self.times[-1]))
        # gap / A² is a variance: it bends least in I_G, so it is what is interpolated
        variance = torch.stack([curve.mean, curve.error]) / self.squared_amplification(self.times)
        values = torch.from_numpy(nodes.values(variance, inside))
        return Curve(*(values * self.squared_amplification(inside)))

    def squared_amplification(self, times: Tensor) -> Tensor:
        """A² at times [...]: the gap is A² tr Cov(data | x_t)."""
        return self.path.coefficients(times.flatten()).amplification.square().view(times.shape)

    def name(self, label: int) -> str:
        """The display name of a group."""
        if label in (POOLED, NO_LABEL):
            return "classes pooled" if label == POOLED else "whole set"
        return self.names[label] if label < len(self.names) else str(label)

    def to_results(self) -> Results:
        """As values and arrays; those of a group are named LABEL/curve."""
        values = {"dims": self.dims, "names": list(self.names)}
        values |= {"groups": [group.to_values() for group in self.groups]}
        arrays = {"times": self.times}
        for group in self.groups:
            arrays |= group.to_arrays(f"{group.label}/")
        return Results(self.kind, self.settings, values, arrays, self.provenance)

    @classmethod
    def of_results(cls, results: Results) -> Stages:
        """From `to_results`."""
        try:
            return cls(
                times=results.arrays["times"],
                groups=tuple(groups_of_results(results)),
                dims=results.values["dims"],
                names=tuple(results.values["names"]),
                settings=dict(results.settings),
                provenance=dict(results.provenance),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the saved stages are damaged ({error}); compute them again"
            ) from error


def groups_of_results(results: Results) -> list[ClassStages]:
    """Saved groups, whose arrays are named LABEL/curve."""
    by_label: dict[str, dict[str, Tensor]] = {}
    for name, array in results.arrays.items():
        label, _, curve = name.partition("/")
        by_label.setdefault(label, {})[curve] = array
    groups: list[Mapping[str, Any]] = results.values["groups"]
    return [
        ClassStages.of_saved(values, by_label.get(str(values["label"]), {})) for values in groups
    ]
