"""The --deep part of `stages`: closed-form fields, oracle trajectories and frequency bands.

Which closed-form field stays close to the oracle, and until when (`baseline_distances`); how fast
and how straight oracle trajectories run and where they end (`oracle_trajectories`); and when the
coarse structure of x̂ is settled, and when its details are (`settled_by_band`). It takes many
queries of the whole set, so it is an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
from .oracle_trajectories import OracleTrajectories, oracle_trajectories

PAIRS, TIMES, SEEDS, STEPS = 64, 20, 32, 50
PATCH_SIDES = (3, 7)  # pixels
MAX_PATCH_OPERATIONS = 3e9  # queries × points × pixels of patch-local fields: about a minute
MAX_GAUSSIAN_DIMS = 16_384  # beyond, no covariance is fitted
LAST_TIME = 0.97

TRAJECTORY_ARRAYS = ("times", "rows", "weights", "misses", "ends")


@dataclass(frozen=True)
class TrajectoryAnalysis:
    """The --deep part of `stages`, of the class `label` or the whole set."""

    label: int
    shape: tuple[int, ...]
    distances: BaselineDistances | None
    """None where no closed-form field can be afforded."""
    trajectories: OracleTrajectories
    bands: SettledBands | None
    """None where points are no pictures or latents [C, H, W] that vary in every band."""

    def to_results(self) -> Results:
        """As values and arrays."""
        trajectories, distances, bands = self.trajectories, self.distances, self.bands
        arrays = {f"followed/{name}": getattr(trajectories, name) for name in TRAJECTORY_ARRAYS}
        curves = {f"along/{name}": curve for name, curve in trajectories.curves.items()}
        values = {
            "along": list(trajectories.curves),
            "energy": list(trajectories.energy),
            "straightness": list(trajectories.straightness),
            "label": self.label,
            "shape": list(self.shape),
        }
        if distances is not None:
            values |= {"fields": list(distances.curves), "pairs": distances.pairs}
            arrays["distances/times"] = distances.times
            curves["distances/size"] = distances.oracle_square
            for name, curve in distances.curves.items():
                curves[f"distances/{name}"] = curve
                curves[f"relative/{name}"] = distances.relative[name]
        if bands is not None:
            values["half"] = [[mark.value, mark.low, mark.high] for mark in bands.half]
            values["shares"] = list(bands.shares)
            arrays["settled/times"] = bands.times
            for i, explained in enumerate(bands.explained):
                curves |= {f"explained/{i}": explained, f"held/{i}": bands.captured[i]}
        for name, curve in curves.items():
            arrays |= {name: curve.mean, f"{name}_error": curve.error}
        return Results("deep", {}, values, arrays)


def analyse_trajectories(oracle: Oracle, stages: Stages, *, seed: int = 0) -> TrajectoryAnalysis:
    """Measure baselines, trajectories and bands of the whole set, or else of a typical class.

    `stages` have measured it too, so that figures can show its landmarks.
    """
    measured_whole = any(group.label == NO_LABEL for group in stages.groups)
    label = NO_LABEL if measured_whole else stages.typical.label
    times, fields = _choose_times(stages), _affordable_fields(oracle, label)
    distances = bands = None
    if fields:
        distances = baseline_distances(
            oracle, fields, times=times, pairs=PAIRS, label=label, seed=seed
        )
    trajectories = oracle_trajectories(oracle, range(seed, seed + SEEDS), time_grid(STEPS), label)
    if varies_in_bands(oracle.data, pairs=PAIRS, label=label, seed=seed):
        bands = settled_by_band(oracle, times=times, pairs=PAIRS, label=label, seed=seed)
    return TrajectoryAnalysis(label, tuple(oracle.data.shape), distances, trajectories, bands)


def read_trajectory_analysis(results: Results) -> TrajectoryAnalysis:
    """The inverse of `TrajectoryAnalysis.to_results`."""
    if results.kind != "deep":
        raise InputError(f"these are {results.kind}, not the --deep part of stages")
    arrays, values = results.arrays, results.values
    label, shape = int(values["label"]), tuple(values["shape"])
    distances = bands = None
    if "fields" in values:
        distances = BaselineDistances(
            arrays["distances/times"],
            label,
            values["pairs"],
            {name: _curve(arrays, f"distances/{name}") for name in values["fields"]},
            {name: _curve(arrays, f"relative/{name}") for name in values["fields"]},
            _curve(arrays, "distances/size"),
        )
    if "half" in values:
        count = range(len(values["half"]))
        bands = SettledBands(
            arrays["settled/times"],
            label,
            radial_bands(shape),
            tuple(_curve(arrays, f"explained/{i}") for i in count),
            tuple(_curve(arrays, f"held/{i}") for i in count),
            tuple(Landmark(*mark) for mark in values["half"]),
            tuple(values["shares"]),
        )
    trajectories = OracleTrajectories(
        curves={name: _curve(arrays, f"along/{name}") for name in values["along"]},
        energy=Estimate(*values["energy"]),
        straightness=Estimate(*values["straightness"]),
        **{name: arrays[f"followed/{name}"] for name in TRAJECTORY_ARRAYS},
    )
    return TrajectoryAnalysis(label, shape, distances, trajectories, bands)


def _affordable_fields(oracle: Oracle, label: int) -> dict[str, VelocityField]:
    """The closed-form fields that can be afforded beside this oracle, by name."""
    data, dims = oracle.data, torch.Size(oracle.data.shape).numel()
    fields: dict[str, VelocityField] = {}
    if dims <= MAX_GAUSSIAN_DIMS:
        fit = gaussian_field if label == NO_LABEL else class_gaussians
        fields["one Gaussian"] = fit(data, path=oracle.path)
        if label == NO_LABEL and len(classes(data)) > 1 and not (data.labels < 0).any():
            fields["a Gaussian per class"] = class_gaussians(data, path=oracle.path)
    if len(data.shape) == 3:
        pixels, points = dims // data.shape[0], len(data.atoms(label).rows)
        if PAIRS * TIMES * points * pixels * len(PATCH_SIDES) <= MAX_PATCH_OPERATIONS:
            for side in PATCH_SIDES:
                if side < 2 * max(data.shape[1:]) - 1:  # otherwise a patch holds the whole picture
                    fields[f"patches of {side}"] = local_oracle(data, patch=side, path=oracle.path)
    return fields


def _choose_times(stages: Stages) -> Tensor:
    """Times float64 [TIMES]: half of them up to the collapse (.5 without one), half beyond."""
    main = stages.main
    collapse = min(main.collapse.value or main.predicted_collapse or 0.5, 0.9)
    fractions = torch.arange(1, TIMES // 2 + 1, dtype=torch.float64) / (TIMES // 2)
    return torch.cat([collapse * fractions, collapse + (LAST_TIME - collapse) * fractions])


def _curve(arrays: Mapping[str, Tensor], name: str) -> Curve:
    return Curve(arrays[name], arrays[f"{name}_error"])
