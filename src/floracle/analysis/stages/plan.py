"""The plan of a stages measurement: classes, times and spectra, chosen once for all classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from floracle.analysis.prediction.closed_form import (
    PredictedStages,
    effective_points,
    entropy_nats,
    predict,
)
from floracle.core.paths import ProbabilityPath
from floracle.core.point_set import NO_LABEL, PointSet, classes
from floracle.core.spectrum import spectra
from floracle.oracle.gaussian_data import GaussianOracle
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.run.results import Results

from .class_stages import with_current_names
from .information import choose_times

AnyOracle = Oracle | GaussianOracle
MIN_TIMES = 12
"""With fewer times, landmarks are off by more than their intervals."""


@dataclass(frozen=True)
class StagesPlan:
    """What is measured."""

    labels: tuple[int, ...]
    times: Tensor
    """float64 [T], equally spaced in predicted information, a few beyond."""
    pairs: int
    seed: int
    spectra: Mapping[int, Tensor]
    """Covariance eigenvalues by class; [0] for a single point."""
    entropy_nats: Mapping[int, float]
    """H(w) by class; 0 for a single point."""
    within_variance: Mapping[int, float] = field(default_factory=dict)
    """The mean variance of training points that are Gaussians themselves, by class."""

    def predicted(self, path: ProbabilityPath, label: int) -> PredictedStages:
        """The stages to expect of a class."""
        return predict(
            effective_points(self.entropy_nats[label]),
            spectrum=self.spectra[label],
            path=path,
            within_variance=self.within_variance.get(label, 0.0),
        )

    def first_seed(self, label: int) -> int:
        """The first of the seeds that a class draws with, scattered over [0, 2³² − 2²¹)."""
        return (self.seed * 0x9E3779B1 + (label + 2) * 0x85EBCA6B) % (2**32 - 2**21)

    def to_results(self, settings: Mapping[str, Any]) -> Results:
        """As values and arrays."""
        spectra = {f"spectrum/{label}": values for label, values in self.spectra.items()}
        values = {
            "labels": list(self.labels),
            "entropy_nats": {str(label): nats for label, nats in self.entropy_nats.items()},
            "within_variance": {str(label): v for label, v in self.within_variance.items()},
        }
        return Results("plan", settings, values, {"times": self.times, **spectra})

    @classmethod
    def of_results(cls, results: Results) -> StagesPlan:
        """From `to_results`."""
        values, arrays = with_current_names(results.values), results.arrays
        return cls(
            labels=tuple(values["labels"]),
            times=arrays["times"],
            pairs=results.settings["pairs"],
            seed=results.settings["seed"],
            spectra={int(k[9:]): v for k, v in arrays.items() if k.startswith("spectrum/")},
            entropy_nats={int(label): nats for label, nats in values["entropy_nats"].items()},
            within_variance={int(label): v for label, v in values["within_variance"].items()},
        )


def plan_stages(
    oracle: AnyOracle,
    *,
    times: int = 50,
    pairs: int = 512,
    labels: Sequence[int] | None = None,
    seed: int = 0,
) -> StagesPlan:
    """Choose classes and times; costs the covariance spectra."""
    if times < MIN_TIMES:
        raise InputError(f"a stage curve needs at least {MIN_TIMES} times, got {times}")
    if pairs < 2:
        raise InputError(f"errors need at least 2 pairs, got {pairs}")
    chosen = _choose_labels(oracle.data, labels)
    entropies = {label: _class_entropy(oracle.data, label) for label in chosen}
    within = {}
    if not isinstance(oracle, Oracle):  # training points are Gaussians themselves
        within = {label: oracle.variance(label) for label in chosen}
    spectra = _class_spectra(oracle.data, entropies)
    plan = StagesPlan(chosen, torch.empty(0), pairs, seed, spectra, entropies, within)
    predicted = [plan.predicted(oracle.path, label) for label in chosen]
    return replace(plan, times=choose_times(predicted, times))


def _choose_labels(data: PointSet, labels: Sequence[int] | None) -> tuple[int, ...]:
    present = classes(data)
    if labels is None:
        return (*present, NO_LABEL) if len(present) > 1 else (NO_LABEL,)
    for label in labels:
        if label != NO_LABEL and label not in present:
            raise InputError(
                f"class {label} does not occur in the data; its labels are {present or 'all −1'}"
            )
    return tuple(dict.fromkeys(labels))


def _class_entropy(data: PointSet, label: int) -> float:
    """H(w) in nats; 0 also where float64 cannot tell e^H, the number of points, from 1."""
    weights = data.atoms(label).weights
    nats = entropy_nats(weights) if len(weights) > 1 else 0.0
    return nats if effective_points(nats) > 1 else 0.0


def _class_spectra(data: PointSet, entropies: Mapping[int, float]) -> dict[int, Tensor]:
    """Covariance eigenvalues by class. A single point has [0], without being read."""
    several = [label for label, nats in entropies.items() if nats > 0]
    values = spectra(data, several) if several else {}
    for label in several:
        if not values[label].any():
            points = "the points" if label == NO_LABEL else f"the points of class {label}"
            raise InputError(
                f"{points} differ by so little that their squares are 0 in float32; scale the"
                " data, as with normalize='standard'"
            )
    return dict.fromkeys(entropies, torch.zeros(1, dtype=torch.float64)) | values
