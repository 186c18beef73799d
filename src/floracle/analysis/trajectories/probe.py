"""The predictions of a field along its own trajectories; no data set is needed.

From noise x(0) a field is followed to x(1). At every time of the grid it predicts its end by one
step straight to t = 1 (Fig 4 and 8, appendix H; on other paths the data that v implies),

    x̂(t) = x + (1 − t) v(x, t),        and along an exact trajectory      dx̂/dt = (1 − t) dv/dt:

a prediction stands still where the velocity does. Its distance from that of a late time u, as a
share of the whole way, is its *remaining share*

    ρ(t) = ‖x̂(t) − x̂(u)‖² / ‖x̂(0) − x̂(u)‖²,

taken as 0 where x̂(0) is x̂(u) up to rounding. A trajectory *settles* at the time from which on ρ
stays below a threshold until u. ρ(u) itself is 0 by definition, so where ρ is not below the
threshold one time earlier, the trajectory has not settled. At u = 1 stands the sample x(1), which
the last step predicts whatever the field is. For an exact field that is the best reference. A
network that errs as t → 1 moves its samples by the error over 1 − t, more on every finer grid, and
settling times with them: so u is earlier, and `late_movement` is how far x̂ still moves after it.

The same measures of the oracle, from the same noise on the same grid, give the lag; see `lag`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate, standard_error
from floracle.analysis.serialization import (
    check_kind,
    check_number,
    check_shapes,
    damage_is_reported,
)
from floracle.core.fields import VelocityField
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.core.point_set import NO_LABEL
from floracle.core.seeds import noise
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance
from floracle.sampling.grid import check_grid, time_grid
from floracle.sampling.sample import evaluations, expand_labels, trajectory

from .frequency_bands import COARSE_CYCLES, radial_bands
from .settling import Settling, check_threshold, mean_settling, settling_times
from .trajectory_measures import measure_trajectories

UNTIL = 0.9  # u, before networks err as t → 1
THRESHOLD = 0.1
PREDICTION_TIMES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
BATCH_BYTES = 2**28  # of the predictions of a batch
KEPT_VALUES = 2**24  # numbers of the predictions in a result, 64 MiB

SAVED_ARRAYS = {  # field: name in the file, shape
    "grid": ("grid", "G"),
    "seeds": ("seeds", "b"),
    "labels": ("labels", "b"),
    "detours": ("detours", "b"),
    "prediction_times": ("shown", "K"),
    "predictions": ("predictions", "k K …"),
}
SAVED_NUMBERS = ("evaluations", "threshold", "until")
BETWEEN_TIMES = ("change", "turning")
REQUIRED_COLUMNS = ("remaining", "speed", *BETWEEN_TIMES)  # `layout` is there for pictures only
COLUMN_PREFIX = "columns/"


@dataclass(frozen=True)
class ProbeResult:
    """Measures of a field along its own trajectories from b seeds; made by `probe`."""

    kind: ClassVar[str] = "probe"
    grid: Tensor
    """Times float64 [T + 1]; the field is evaluated at all but the last."""
    seeds: Tensor
    """int64 [b]."""
    labels: Tensor
    """int64 [b], −1 for none."""
    columns: Mapping[str, Tensor]
    """By trajectory, float64. At the times of the field [b, T]: `remaining`, the share ρ;
    `layout`, that of the coarse structure alone, where samples are [C, H, W]; `speed` ‖v‖/√D. From
    one time to the next [b, T − 1]: `change`, ‖Δx̂‖ / Δt per √D; `turning`, the part of Δv / Δt
    across v per √D."""
    detours: Tensor
    """The length of the trajectory over that of its chord, float64 [b]."""
    prediction_times: Tensor
    """The times of the grid at which predictions are kept, float64 [K]; the last is 1."""
    predictions: Tensor
    """x̂ at these times, of the first k seeds, float32 [k, K, *shape]; the sample itself at 1."""
    evaluations: int
    """Evaluations of the field for each sample; two where it is guided."""
    threshold: float
    until: float
    """u, the time of the grid whose prediction the others are compared with."""
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def times(self, name: str) -> Tensor:
        """The times of a column, float64: those of the field, or the middles between them."""
        times = self.grid[:-1]
        return (times[1:] + times[:-1]) / 2 if name in BETWEEN_TIMES else times

    def curve(self, name: str, label: int | None = None) -> Curve:
        """The mean of a column over trajectories, of all labels or of one."""
        return Curve.of(self.columns[name][self.has_label(label)])

    def has_label(self, label: int | None) -> Tensor:
        """Which trajectories have a label, bool [b]; all of them for None."""
        mask = torch.ones_like(self.labels, dtype=torch.bool)
        if label is not None:
            mask = self.labels == label
        if not mask.any():
            raise InputError(f"no trajectory has the label {label}; take one of {self.classes}")
        return mask

    @property
    def classes(self) -> list[int]:
        """The labels that occur."""
        return self.labels.unique().tolist()

    def settling_times(self, name: str = "remaining", threshold: float | None = None) -> Tensor:
        """The times from which on shares stay below the threshold, float64 [b].

        `name` is `remaining` or `layout`. NaN where a trajectory does not settle before `until`.
        """
        level = self.threshold if threshold is None else check_threshold(threshold)
        early = self.grid < self.until
        return settling_times(self.grid[early], self.columns[name][:, early[:-1]], level)

    def settling(self, name: str = "remaining", label: int | None = None) -> Settling:
        """The mean of `settling_times`, of all labels or of one."""
        return mean_settling(self.settling_times(name)[self.has_label(label)])

    def peak(self) -> tuple[float, float]:
        """The time and the height of the highest mean speed: (t, ‖v‖/√D)."""
        mean = self.curve("speed").mean
        highest = int(mean.argmax())
        return float(self.grid[highest]), float(mean[highest])

    def detour(self) -> Estimate:
        """The mean of `detours` and its standard error."""
        return Estimate(float(self.detours.mean()), float(standard_error(self.detours)))

    def late_movement(self) -> Estimate:
        """How far predictions move after `until`, as a share like ρ."""
        shares = self.columns["remaining"][:, -1]
        return Estimate(float(shares.mean()), float(standard_error(shares)))

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        arrays = {name: getattr(self, field) for field, (name, _) in SAVED_ARRAYS.items()}
        arrays |= {COLUMN_PREFIX + name: column for name, column in self.columns.items()}
        values = {name: getattr(self, name) for name in SAVED_NUMBERS}
        return Results(self.kind, self.settings, values, arrays, self.provenance)

    @classmethod
    def of_results(cls, results: Results) -> ProbeResult:
        """The inverse of `to_results`."""
        with damage_is_reported(cls.kind):
            check_kind(cls.kind, results)
            arrays, steps = results.arrays, len(results.arrays["grid"]) - 1
            names = [n[len(COLUMN_PREFIX) :] for n in arrays if n.startswith(COLUMN_PREFIX)]
            shapes = {
                COLUMN_PREFIX + name: f"b {steps - (name in BETWEEN_TIMES)}"
                for name in {*REQUIRED_COLUMNS, *names}
            }
            check_shapes(arrays, dict(SAVED_ARRAYS.values()) | shapes)
            return cls(
                **{field: arrays[name] for field, (name, _) in SAVED_ARRAYS.items()},
                **{name: check_number(results.values[name]) for name in SAVED_NUMBERS},
                columns={name: arrays[COLUMN_PREFIX + name] for name in names},
                settings=results.settings,
                provenance=results.provenance,
            )


@torch.no_grad()
def probe(
    field: VelocityField,
    seeds: Sequence[int],
    shape: Sequence[int],
    *,
    grid: Tensor | None = None,
    labels: Tensor | int | None = None,
    solver: str = "euler",
    threshold: float = THRESHOLD,
    until: float = UNTIL,
    prediction_times: Sequence[float] = PREDICTION_TIMES,
    path: ProbabilityPath = LINEAR,
) -> ProbeResult:
    """Follow a field from the noise of each seed, and measure its predictions on the way.

    - `shape`: Of a sample.
    - `grid`: Times from 0 to 1, float64 [T + 1], of `path` like the field; 50 equal steps by
      default.
    - `labels`: Classes int64 [b], or one for all.
    - `threshold`: The remaining share below which a prediction has settled.
    - `until`: u, moved to the nearest time of the grid; predictions are compared with its own.
    - `prediction_times`: Predictions are kept at the times of the grid nearest to these, and at 1.
    """
    # 1. What is asked for, in terms of the grid
    if not len(seeds):
        raise InputError("no seeds given; pass at least one")
    grid = _check_grid(time_grid(50) if grid is None else grid)
    classes = expand_labels(torch.empty(len(seeds)), labels)
    threshold, prediction_indices = (
        check_threshold(threshold),
        _nearest_indices(grid, prediction_times),
    )
    late = _reference_index(grid, until)
    bands = None
    if len(shape) == 3 and min(shape[1:]) >= 4:
        bands = radial_bands(shape, (COARSE_CYCLES,))

    # 2. Trajectories, as many at a time as memory for all their predictions allows
    dims, batches = max(1, torch.Size(shape).numel()), []
    size = max(1, BATCH_BYTES // (4 * dims * len(grid)))
    for start in range(0, len(seeds), size):
        batch = slice(start, start + size)
        x = noise(seeds[batch], shape)
        batch_labels = None if classes is None else classes[batch]
        states = trajectory(field, x, grid, labels=batch_labels, solver=solver, path=path)
        measures = measure_trajectories(
            x,
            states,
            grid,
            late=late,
            prediction_indices=prediction_indices,
            bands=bands,
            path=path,
        )
        batches.append(measures)

    # 3. All batches as one; predictions of as many seeds as a result may hold
    limit = KEPT_VALUES // (dims * len(prediction_indices)) or 1
    columns = {n: torch.cat([b.columns[n] for b in batches]) for n in batches[0].columns}
    return ProbeResult(
        grid=grid,
        seeds=torch.tensor(list(seeds)),
        labels=torch.full((len(seeds),), NO_LABEL) if classes is None else classes,
        columns=columns,
        detours=torch.cat([batch.detours for batch in batches]),
        prediction_times=grid[prediction_indices],
        predictions=torch.cat([batch.predictions for batch in batches])[:limit],
        evaluations=evaluations(grid, solver, field=field),
        threshold=threshold,
        until=float(grid[late]),
        settings={
            "seeds": list(seeds),
            "labels": None if classes is None else classes.tolist(),
            "steps": len(grid) - 1,
            "solver": solver,
            "threshold": threshold,
            "until": until,
            "layout": COARSE_CYCLES,
            **({} if path == LINEAR else {"path": path.name}),
        },
        provenance=provenance(),
    )


def check_probe(
    grid: Tensor, *, threshold: float, until: float, prediction_times: Sequence[float]
) -> None:
    """Refuse what `probe` would refuse, before anything is loaded."""
    grid = _check_grid(grid)
    check_threshold(threshold)
    _reference_index(grid, until)
    _nearest_indices(grid, prediction_times)


def _check_grid(grid: Tensor) -> Tensor:
    """A grid from 0 to 1 with a time before the last step."""
    grid = check_grid(grid)
    if grid[0] != 0 or grid[-1] != 1 or len(grid) < 4:
        raise InputError(
            f"a probe goes from 0 to 1 in 3 steps at least, got {grid[0]:g} to {grid[-1]:g} in"
            f" {len(grid) - 1}"
        )
    return grid


def _reference_index(grid: Tensor, until: float) -> int:
    """The index of the time next to `until`; for 1 the last step's, which predicts the sample."""
    index = min(int((grid - until).abs().argmin()), len(grid) - 2)
    if not 0 < until <= 1 or index < 2:
        raise InputError(
            f"until is a late time, with two times of the grid before it, got {until:g}; 1 is"
            f" the sample itself"
        )
    return index


def _nearest_indices(grid: Tensor, prediction_times: Sequence[float]) -> list[int]:
    """The indices of the grid's times nearest to the given ones, each once, and of its last."""
    times = torch.as_tensor(prediction_times, dtype=torch.float64)
    if times.ndim != 1 or not len(times) or not ((times >= 0) & (times <= 1)).all():
        raise InputError(f"prediction times lie in [0, 1], got {list(prediction_times)}")
    nearest = (grid - times[:, None]).abs().argmin(1).tolist()
    return sorted({*nearest, len(grid) - 1})
