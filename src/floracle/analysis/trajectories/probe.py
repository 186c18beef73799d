"""What a field predicts along its own trajectories: with a data set or without one.

From noise x(0) a field is followed to x(1). At every time of the grid it predicts where it will
end, by one step straight to t = 1 (Fig 4 and 8, appendix H; on other paths the data v implies),

    x̂(t) = x + (1 − t) v(x, t),        and along an exact trajectory      dx̂/dt = (1 − t) dv/dt:

a prediction stands still where the velocity does. How far it is from that of a late time u, as a
share of the whole way, is its *remaining share*

    ρ(t) = ‖x̂(t) − x̂(u)‖² / ‖x̂(0) − x̂(u)‖²,

taken as 0 where x̂(0) is x̂(u) up to rounding. A trajectory's *transition* is the time from which
on ρ stays below a threshold until u; x̂(u) itself tells nothing, so where ρ is not below it one
time earlier, the transition is not reached. At u = 1 stands the sample x(1), which the last step
predicts whatever the field is. For an exact field that is the best reference. A network that errs
as t → 1 moves its samples by the error over 1 − t, more on every finer grid, and transitions with
them: so u is earlier, and how far x̂ still moves after it is told beside.

The same measured of the oracle, from the same noise on the same grid, makes the lag between the
two a number; see `lag`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate, standard_error
from floracle.analysis.serialization import check_kind, check_shapes, number, reading
from floracle.core.fields import VelocityField
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.core.point_set import NO_LABEL
from floracle.core.seeds import noise
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance
from floracle.sampling.grid import check_grid, time_grid
from floracle.sampling.sample import evaluations, labels_of, trajectory

from .denoised import DenoisedMarks, measure_denoised
from .frequency_bands import LAYOUT, radial_bands
from .settling import Settling, checked_threshold, settled_at, settling_of

UNTIL = 0.9
"""The time whose prediction the others are compared with."""
THRESHOLD = 0.1
"""The remaining share below which a prediction has settled."""
SHOWN = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
"""Times at which predictions are kept, to be looked at."""
HELD = 2**28
"""Bytes of predictions that are held at once."""
KEPT = 2**24
"""Numbers of predictions that are kept."""


@dataclass(frozen=True)
class ProbeResult:
    """A field along its own trajectories from b seeds; made by `probe`."""

    kind: ClassVar[str] = "probe"
    grid: Tensor
    """Times float64 [T + 1]; the field is asked at all but the last."""
    seeds: Tensor
    """int64 [b]."""
    labels: Tensor
    """int64 [b], −1 for none."""
    columns: Mapping[str, Tensor]
    """Trajectory by trajectory, float64. At the times asked [b, T]: `remaining`, the share ρ;
    `layout`, the same of low frequencies alone, where samples are [C, H, W]; `speed` ‖v‖/√D.
    From one time to the next [b, T − 1]: `change`, ‖Δx̂‖ / Δt per √D; `turning`, the part of
    Δv / Δt across v per √D."""
    detours: Tensor
    """The length of the trajectory over that of the straight line to its end, float64 [b]."""
    shown: Tensor
    """The times of the grid at which predictions were kept, float64 [K]; the last is 1."""
    predictions: Tensor
    """x̂ at these times, of the first seeds, float32 [k, K, *shape]; the sample itself at 1."""
    evaluations: int
    """How often the field was asked about each sample; twice where it is guided."""
    threshold: float
    until: float
    """The time of the grid whose prediction the others are compared with."""
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def times(self, name: str) -> Tensor:
        """The times of a curve: those asked, or the middles between them; float64."""
        asked = self.grid[:-1]
        return (asked[1:] + asked[:-1]) / 2 if name in BETWEEN else asked

    def curve(self, name: str, label: int | None = None) -> Curve:
        """The mean over trajectories, of all labels or of one."""
        return Curve.of(self.columns[name][self.of(label)])

    def of(self, label: int | None) -> Tensor:
        """Which trajectories have a label, bool [b]; all of them for None."""
        found = torch.ones_like(self.labels, dtype=torch.bool)
        if label is not None:
            found = self.labels == label
        if not found.any():
            raise InputError(f"no trajectory has the label {label}; take one of {self.classes}")
        return found

    @property
    def classes(self) -> list[int]:
        """The labels that occur."""
        return self.labels.unique().tolist()

    def transitions(self, name: str = "remaining", threshold: float | None = None) -> Tensor:
        """From when on each trajectory's share, or that of its layout, is below the threshold.

        float64 [b], NaN where that is not reached before `until`.
        """
        level = self.threshold if threshold is None else checked_threshold(threshold)
        early = self.grid < self.until
        return settled_at(self.grid[early], self.columns[name][:, early[:-1]], level)

    def transition(self, name: str = "remaining", label: int | None = None) -> Settling:
        """The mean of `transitions`, of all labels or of one."""
        return settling_of(self.transitions(name)[self.of(label)])

    def peak(self) -> tuple[float, float]:
        """When the mean speed is highest, and how high: (t, ‖v‖/√D)."""
        mean = self.curve("speed").mean
        highest = int(mean.argmax())
        return float(self.grid[highest]), float(mean[highest])

    def detour(self) -> Estimate:
        """The mean of `detours` and its standard error."""
        return Estimate(float(self.detours.mean()), float(standard_error(self.detours)))

    def later(self) -> Estimate:
        """How far predictions move after `until`, as a share like ρ."""
        left = self.columns["remaining"][:, -1]
        return Estimate(float(left.mean()), float(standard_error(left)))

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        arrays = {name: getattr(self, name) for name in SHAPES}
        arrays |= {OF + name: values for name, values in self.columns.items()}
        values = {name: getattr(self, name) for name in NUMBERS}
        return Results(self.kind, self.settings, values, arrays, self.provenance)

    @classmethod
    def of_results(cls, found: Results) -> ProbeResult:
        """The probe that was saved."""
        with reading(cls.kind):
            check_kind(cls.kind, found)
            names = [name.removeprefix(OF) for name in found.arrays if name.startswith(OF)]
            steps = len(found.arrays["grid"]) - 1
            shapes = {OF + name: f"b {steps - (name in BETWEEN)}" for name in {*NEEDED, *names}}
            check_shapes(found.arrays, SHAPES | shapes)
            columns = {name: found.arrays[OF + name] for name in names}
            return cls(
                **{name: found.arrays[name] for name in SHAPES},
                **{name: number(found.values[name]) for name in NUMBERS},
                columns=columns,
                settings=found.settings,
                provenance=found.provenance,
            )


SHAPES = {
    "grid": "G",
    "seeds": "b",
    "labels": "b",
    "detours": "b",
    "shown": "K",
    "predictions": "k K …",
}
NUMBERS = ("evaluations", "threshold", "until")
BETWEEN = ("change", "turning")
"""Columns that lie between the times asked."""
NEEDED = ("remaining", "speed", *BETWEEN)
"""Columns that every probe has."""
OF = "columns/"


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
    shown: Sequence[float] = SHOWN,
    path: ProbabilityPath = LINEAR,
) -> ProbeResult:
    """Follow a field from the noise of each seed, and measure what it predicts on the way.

    The field and all times are those of `path`; see `on_path`.

    The grid (50 steps unless given) runs from 0 to 1. Predictions are compared with that at the
    time of the grid next to `until`, and kept at those next to `shown`.
    """
    if not len(seeds):
        raise InputError("there is nothing to follow; give at least one seed")
    grid = _checked(time_grid(50) if grid is None else grid)
    given = labels_of(torch.empty(len(seeds)), labels)
    threshold, places = checked_threshold(threshold), _places(grid, shown)
    late = _late(grid, until)
    bands = radial_bands(shape, (LAYOUT,)) if len(shape) == 3 and min(shape[1:]) >= 4 else None
    dims, parts = max(1, torch.Size(shape).numel()), []
    together = max(1, HELD // (4 * dims * len(grid)))
    for start in range(0, len(seeds), together):
        some = slice(start, start + together)
        voting = None if given is None else given[some]
        x = noise(seeds[some], shape)
        states = trajectory(field, x, grid, labels=voting, solver=solver, path=path)
        parts.append(measure_denoised(x, states, grid, DenoisedMarks(late, places, bands, path)))
    return ProbeResult(
        grid=grid,
        seeds=torch.tensor(list(seeds)),
        labels=torch.full((len(seeds),), NO_LABEL) if given is None else given,
        columns={name: torch.cat([part.columns[name] for part in parts]) for name in parts[0][0]},
        detours=torch.cat([part.detours for part in parts]),
        shown=grid[places],
        predictions=torch.cat([part.kept for part in parts])[: KEPT // (dims * len(places)) or 1],
        evaluations=evaluations(grid, solver, field=field),
        threshold=threshold,
        until=float(grid[late]),
        settings={
            "seeds": list(seeds),
            "labels": None if given is None else given.tolist(),
            "steps": len(grid) - 1,
            "solver": solver,
            "threshold": threshold,
            "until": until,
            "layout": LAYOUT,
            **({} if path == LINEAR else {"path": path.name}),
        },
        provenance=provenance(),
    )


def check_asked(grid: Tensor, *, threshold: float, until: float, shown: Sequence[float]) -> None:
    """Refuse what `probe` would, before anything is loaded."""
    grid = _checked(grid)
    checked_threshold(threshold)
    _late(grid, until)
    _places(grid, shown)


def _checked(grid: Tensor) -> Tensor:
    """A grid from noise to data, with a time before the last step."""
    grid = check_grid(grid)
    if grid[0] != 0 or grid[-1] != 1 or len(grid) < 4:
        raise InputError(
            f"a probe goes from 0 to 1 in 3 steps at least, got {grid[0]:g} to {grid[-1]:g} in"
            f" {len(grid) - 1}"
        )
    return grid


def _late(grid: Tensor, until: float) -> int:
    """The time of the grid next to `until`; the last prediction, of the sample itself, for 1."""
    found = min(int((grid - until).abs().argmin()), len(grid) - 2)
    if not 0 < until <= 1 or found < 2:
        raise InputError(
            f"until is a late time, with two times of the grid before it, got {until:g}; 1 is"
            f" the sample itself"
        )
    return found


def _places(grid: Tensor, shown: Sequence[float]) -> list[int]:
    """Which times of the grid are next to those to be shown, each once; the end is the last."""
    times = torch.as_tensor(shown, dtype=torch.float64)
    if times.ndim != 1 or not len(times) or not ((times >= 0) & (times <= 1)).all():
        raise InputError(f"times to show lie in [0, 1], got {list(shown)}")
    near = (grid - times[:, None]).abs().argmin(1).tolist()
    return sorted({*near, len(grid) - 1})
