"""A deeper look at a data set: simple fields beside its oracle, its trajectories, its layout.

Which closed-form field stays close to the oracle, and until when (`yardsticks`); how fast and how
straight pure-oracle trajectories run and where they land (`trajectories`); and when the layout of
x̂ is settled, and when its details are (`bands`). Costs many queries of the whole set, so it is
asked for by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate, Landmark
from floracle.analysis.loss.baselines import BaselineDistances, baseline_distances
from floracle.analysis.stages.result import Stages
from floracle.core.fields import VelocityField
from floracle.core.point_set import NO_LABEL, classes
from floracle.oracle.baselines.gaussian import class_gaussians, gaussian_field
from floracle.oracle.baselines.patch_local import local_oracle
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.run.results import Results
from floracle.sampling.grid import time_grid

from .frequency_bands import SettledBands, radial_bands, settled_by_band, varies_in_bands
from .oracle import OracleTrajectories, oracle_trajectories

PAIRS, TIMES, SEEDS, STEPS = 64, 20, 32, 50
PATCHES = (3, 7)
AFFORDABLE = 3e9
"""Queries × atoms × pixels that patches may cost: about a minute."""
LARGEST = 16_384
"""Dimensions beyond which no covariance is fitted."""


@dataclass(frozen=True)
class DeepAnalysis:
    """What the deeper look found, of the class `label` or the whole set."""

    label: int
    shape: tuple[int, ...]
    distances: BaselineDistances | None
    followed: OracleTrajectories
    settled: SettledBands | None
    """None where points are no pictures or latents [C, H, W] that vary in every band."""

    def to_results(self) -> Results:
        """As values and arrays."""
        arrays, values = _followed_saved(self.followed)
        values |= {"label": self.label, "shape": list(self.shape)}
        if self.distances is not None:
            values["fields"] = list(self.distances.curves)
            values["pairs"] = self.distances.pairs
            arrays["distances/times"] = self.distances.times
            arrays |= _saved("distances/size", self.distances.size)
            for name in self.distances.curves:
                arrays |= _saved(f"distances/{name}", self.distances.curves[name])
                arrays |= _saved(f"relative/{name}", self.distances.relative[name])
        if self.settled is not None:
            values["half"] = [[mark.value, mark.low, mark.high] for mark in self.settled.half]
            values["shares"] = list(self.settled.shares)
            arrays["settled/times"] = self.settled.times
            for i, (one, other) in enumerate(
                zip(self.settled.explained, self.settled.held, strict=True)
            ):
                arrays |= _saved(f"explained/{i}", one) | _saved(f"held/{i}", other)
        return Results("deep", {}, values, arrays)


def analyse_trajectories(oracle: Oracle, stages: Stages, *, seed: int = 0) -> DeepAnalysis:
    """Measure yardsticks, trajectories and bands of the whole set, or else of a typical class.

    Both are of those that were measured, so that figures can show their landmarks.
    """
    whole = any(group.label == NO_LABEL for group in stages.groups)
    label = NO_LABEL if whole else stages.typical.label
    times = _spread(stages)
    fields = _fields(oracle, label)
    return DeepAnalysis(
        label,
        tuple(oracle.data.shape),
        baseline_distances(oracle, fields, times=times, pairs=PAIRS, label=label, seed=seed)
        if fields
        else None,
        oracle_trajectories(oracle, range(seed, seed + SEEDS), time_grid(STEPS), label),
        settled_by_band(oracle, times=times, pairs=PAIRS, label=label, seed=seed)
        if varies_in_bands(oracle.data, pairs=PAIRS, label=label, seed=seed)
        else None,
    )


def deep_of(found: Results) -> DeepAnalysis:
    """What was saved of a deeper look."""
    if found.kind != "deep":
        raise InputError(f"these are {found.kind}, not a deeper look at stages")
    arrays, values = found.arrays, found.values
    label, shape = int(values["label"]), tuple(values["shape"])
    distance = None
    if "fields" in values:
        distance = BaselineDistances(
            arrays["distances/times"],
            label,
            values["pairs"],
            {name: _curve(arrays, f"distances/{name}") for name in values["fields"]},
            {name: _curve(arrays, f"relative/{name}") for name in values["fields"]},
            _curve(arrays, "distances/size"),
        )
    settled = None
    if "half" in values:
        count = range(len(values["half"]))
        settled = SettledBands(
            arrays["settled/times"],
            label,
            radial_bands(shape),
            tuple(_curve(arrays, f"explained/{i}") for i in count),
            tuple(_curve(arrays, f"held/{i}") for i in count),
            tuple(Landmark(*mark) for mark in values["half"]),
            tuple(values["shares"]),
        )
    return DeepAnalysis(label, shape, distance, _followed_of(arrays, values), settled)


def _fields(oracle: Oracle, label: int) -> dict[str, VelocityField]:
    """The fields that can be afforded beside this oracle."""
    data, dims = oracle.data, torch.Size(oracle.data.shape).numel()
    fields: dict[str, VelocityField] = {}
    if dims <= LARGEST:
        one = gaussian_field if label == NO_LABEL else class_gaussians
        fields["one Gaussian"] = one(data, path=oracle.path)
        if label == NO_LABEL and len(classes(data)) > 1 and not (data.labels < 0).any():
            fields["a Gaussian per class"] = class_gaussians(data, path=oracle.path)
    pixels = dims // data.shape[0] if len(data.shape) == 3 else dims
    work = PAIRS * TIMES * len(data.atoms(label).rows) * pixels * len(PATCHES)
    if len(data.shape) == 3 and work <= AFFORDABLE:
        for patch in PATCHES:
            if patch < 2 * max(data.shape[1:]) - 1:
                fields[f"patches of {patch}"] = local_oracle(data, patch=patch, path=oracle.path)
    return fields


def _spread(stages: Stages, last: float = 0.97) -> Tensor:
    """Times float64 [TIMES]: half of them up to the collapse (.5 without), half beyond."""
    main = stages.main
    collapse = min(main.collapse.value or main.predicted_collapse or 0.5, 0.9)
    along = torch.arange(1, TIMES // 2 + 1, dtype=torch.float64) / (TIMES // 2)
    return torch.cat([collapse * along, collapse + (last - collapse) * along])


def _saved(name: str, curve: Curve) -> dict[str, Tensor]:
    return {name: curve.mean, f"{name}_error": curve.error}


def _curve(arrays: Any, name: str) -> Curve:
    return Curve(arrays[name], arrays[f"{name}_error"])


def _followed_saved(one: OracleTrajectories) -> tuple[dict[str, Tensor], dict[str, Any]]:
    arrays = {f"followed/{name}": getattr(one, name) for name in TENSORS}
    for name, curve in one.curves.items():
        arrays |= _saved(f"along/{name}", curve)
    return arrays, {
        "along": list(one.curves),
        "energy": list(one.energy),
        "straightness": list(one.straightness),
    }


TENSORS = ("times", "rows", "weights", "misses", "ends")


def _followed_of(arrays: Any, values: Any) -> OracleTrajectories:
    return OracleTrajectories(
        curves={name: _curve(arrays, f"along/{name}") for name in values["along"]},
        energy=Estimate(*values["energy"]),
        straightness=Estimate(*values["straightness"]),
        **{name: arrays[f"followed/{name}"] for name in TENSORS},
    )
