"""A few samples followed from noise to data, so that one sees navigation turn into refinement.

Each example is one forward-path pair: the same data and the same noise at every time. Kept are the
noisy sample, what the oracle makes of it, and which training samples vote; all as small pictures,
so that a report can be drawn again without the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.analysis.curves import Landmark
from floracle.analysis.groups import Group, Stages
from floracle.analysis.stages import AnyOracle
from floracle.core.paths import Path as NoisePath
from floracle.core.seeds import generator, noise
from floracle.core.source import NO_LABEL
from floracle.core.spectrum import spectrum
from floracle.data.store import Store
from floracle.run.errors import Mistake
from floracle.run.images import Display, display_for, reduced
from floracle.run.results import Results

COUNT = 4
STEPS = 12
VOTERS = 5
LARGEST = 64
"""Pixels a side at most: the page must stay small."""
FITTED = 256
"""Points that fix the projection of latents."""
OFFSET = 7919
"""Keeps the examples' draws apart from those of the curves."""


@dataclass(frozen=True)
class Examples:
    """Pairs at times `times` [T]; the last `len(moments)` of them are when votes are shown."""

    times: Tensor
    moments: tuple[str, ...]
    rows: Tensor
    """Rows of the pairs' own samples, int64 [b]."""
    labels: Tensor
    """Their classes, −1 where the whole set votes; int64 [b]."""
    voters: Tensor
    """Rows of the leading atoms, int64 [b, T, VOTERS]."""
    weights: Tensor
    """Their weights, float64 [b, T, VOTERS]."""
    effective: Tensor
    """The effective number of votes, float64 [b, T]."""
    spectrum: Tensor
    """Covariance eigenvalues of the class `typical`, float64 [k]."""
    typical: int
    noisy: Tensor | None = None
    """Pictures of x_t, bytes [b, steps, C, H, W]; None where points are no pictures."""
    means: Tensor | None = None
    """Pictures of x̂, like `noisy`."""
    faces: Tensor | None = None
    """Pictures of the voters at the moments, bytes [b, moments, VOTERS, C, H, W]."""

    @property
    def steps(self) -> int:
        """How many times the strips show."""
        return len(self.times) - len(self.moments)

    def to_results(self) -> Results:
        """As values and arrays."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        values = {"moments": list(self.moments), "typical": self.typical}
        return Results("examples", {}, values, {k: v for k, v in arrays.items() if v is not None})


ARRAYS = (
    "times",
    "rows",
    "labels",
    "voters",
    "weights",
    "effective",
    "spectrum",
    "noisy",
    "means",
    "faces",
)


def examples_of(found: Results) -> Examples:
    """Examples as they were saved."""
    if found.kind != "examples":
        raise Mistake(f"these are {found.kind}, not the examples of a report")
    values = {"moments": tuple(found.values["moments"]), "typical": found.values["typical"]}
    return Examples(**values, **{name: found.arrays.get(name) for name in ARRAYS})  # pyright: ignore


def examples(oracle: AnyOracle, stages: Stages, store: Store) -> Examples:
    """Follow a few pairs of different classes through all times."""
    groups = _chosen(stages)
    seed = stages.settings["seed"]
    drawn = [_drawn(store, group.label, seed + OFFSET + i) for i, group in enumerate(groups)]
    rows, labels = torch.tensor(drawn), torch.tensor([group.label for group in groups])
    strip, moments = strip_times(stages.main), vote_times(stages.main)
    times = torch.tensor([*strip, *moments.values()], dtype=torch.float64)
    seeds = [(seed + OFFSET + i) % 2**32 for i in range(len(rows))]
    noisy = _noisy(oracle.path, store.take(rows), noise(seeds, store.shape), times)

    count = len(rows) * len(times)
    every, flat = times.repeat(len(rows)), noisy.reshape(count, *store.shape)
    voting = None if (labels == NO_LABEL).all() else labels.repeat_interleave(len(times))
    posterior = oracle.posterior(flat, every, voting, top=VOTERS)

    def by_pair(values: Tensor) -> Tensor:
        return values.reshape(len(rows), len(times), *values.shape[1:])

    typical = _typical(stages)
    found = Examples(
        times=times,
        moments=tuple(moments),
        rows=rows,
        labels=labels,
        voters=by_pair(posterior.top_rows),
        weights=by_pair(posterior.top_weights),
        effective=by_pair(1 / posterior.concentration),
        spectrum=spectrum(store, typical.label),
        typical=typical.label,
    )
    display = display_for(store.shape, store.picture_range, _spread(store))
    return found if display is None else _drawn_as(found, display, store, noisy, posterior.mean)


def strip_times(group: Group) -> list[float]:
    """Times of the strips, from pure noise to a little past the end of navigation."""
    last = _last(group)
    return [last * step / (STEPS - 1) for step in range(STEPS)]


def vote_times(group: Group) -> dict[str, float]:
    """When the votes are shown: before the centre, at it, at the collapse and after the end."""
    centre, collapse = (
        _time(mark, other)
        for mark, other in (
            (group.centre, group.predicted_centre),
            (group.collapse, group.predicted_collapse),
        )
    )
    return {
        "before the centre": 0.6 * centre,
        "at the centre": centre,
        "at the collapse": collapse,
        "after the end" if group.end.value is not None else "well past it": _last(group),
    }


def _last(group: Group) -> float:
    """A time past the end; where there is none, well past the collapse."""
    collapse = _time(group.collapse, group.predicted_collapse)
    end = group.end.value if group.end.value is not None else min(2 * collapse, 0.95)
    return end + 0.15 * (1 - end) * min(1.0, 2 * end)


def _time(mark: Landmark, otherwise: float) -> float:
    return otherwise if mark.value is None else mark.value


def _chosen(stages: Stages) -> list[Group]:
    """Classes spread over the labels; the whole set, several times, where there are none."""
    classes = [group for group in stages.groups if group.label >= 0]
    groups = classes or [group for group in stages.groups if group.label == NO_LABEL]
    places = [i * len(groups) // COUNT for i in range(COUNT)]
    return [groups[place] for place in places]


def _drawn(store: Store, label: int, seed: int) -> int:
    rows = store.atoms(label).rows
    return int(rows[torch.randint(len(rows), (1,), generator=generator(seed % 2**32))])


def _noisy(path: NoisePath, data: Tensor, drawn: Tensor, times: Tensor) -> Tensor:
    """Noisy samples [b, T, *shape] of pairs at all times."""
    columns = [path.sample(data, drawn, time.repeat(len(data))) for time in times]
    return torch.stack(columns, 1)


def _typical(stages: Stages) -> Group:
    """The class in the middle by predicted collapse; the whole set where there are none."""
    measured = [group for group in stages.groups if group.label >= NO_LABEL]
    classes = [group for group in measured if group.label >= 0] or measured
    ordered = sorted(classes, key=lambda group: group.predicted_collapse)
    return ordered[len(ordered) // 2]


def _spread(store: Store) -> Tensor:
    """Points spread evenly over the store."""
    count = min(len(store), FITTED)
    return store.take(torch.linspace(0, len(store) - 1, count).round().long())


def _drawn_as(
    found: Examples, display: Display, store: Store, noisy: Tensor, means: Tensor
) -> Examples:
    """The same with pictures."""
    pairs, steps = len(found.rows), found.steps

    def strips(points: Tensor) -> Tensor:
        shown = points.reshape(pairs, len(found.times), *store.shape)[:, :steps]
        return _pictures(display, shown.flatten(0, 1), (pairs, steps))

    voters = found.voters[:, steps:]
    faces = _pictures(display, store.take(voters.flatten()), tuple(voters.shape))
    return Examples(
        **{name: getattr(found, name) for name in ("moments", "typical", *ARRAYS[:7])},
        noisy=strips(noisy),
        means=strips(means),
        faces=faces,
    )


def _pictures(display: Display, points: Tensor, counts: Sequence[int]) -> Tensor:
    pictures = reduced(display.pictures(points), LARGEST)
    return pictures.reshape(*counts, *pictures.shape[1:])
