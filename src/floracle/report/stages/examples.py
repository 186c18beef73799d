"""A few samples followed from noise to data, so that one sees navigation turn into refinement.

Each example is one forward-path pair: the same data and the same noise at every time. Kept are the
noisy sample, what the oracle makes of it, and which training samples vote; all as small pictures,
so that a report can be drawn again without the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from floracle.analysis.curves import Landmark
from floracle.analysis.prediction.profile import Profile, profile
from floracle.analysis.stages.measure import AnyOracle
from floracle.analysis.stages.result import ClassStages, Stages
from floracle.core.paths import ProbabilityPath as NoisePath
from floracle.core.point_set import NO_LABEL
from floracle.core.seeds import generator, noise
from floracle.core.spectrum import spectrum
from floracle.data.store import Store
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.run.images import Display, display_for, reduce_image
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
PAIR = 8
"""Bytes that a pair takes for every dimension: its point and its noise."""
SAMPLE = 72
"""The same of a noisy sample, its x̂, and what both are on the way to pictures."""


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
    profile: Profile | None = None
    """The statistics that its stages follow from; None where points are Gaussians themselves."""
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
        if self.profile is not None:
            told = self.profile.to_arrays()
            arrays |= {f"profile/{name}": array for name, array in told.items()}
        return Results("examples", {}, values, {k: v for k, v in arrays.items() if v is not None})


TOP = ("voters", "weights")
"""Columns of which a class of few atoms has fewer."""
PIXEL = 24
"""The same of a point that fixes a projection."""
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
        raise InputError(f"these are {found.kind}, not the examples of a report")
    values = {"moments": tuple(found.values["moments"]), "typical": found.values["typical"]}
    told = {k[8:]: array for k, array in found.arrays.items() if k.startswith("profile/")}
    values["profile"] = Profile.of_arrays(told) if told else None
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
    pairs = _Pairs(store.take(rows), noise(seeds, store.shape), labels, times)
    typical = stages.typical
    eigenvalues = spectrum(store, typical.label, room=oracle.room())
    display = _display(store, oracle.room())
    seen = _seen(oracle, pairs, display)
    found = Examples(
        times=times,
        moments=tuple(moments),
        rows=rows,
        labels=labels,
        **{name: pairs.by_pair(seen[name]) for name in ("voters", "weights", "effective")},
        spectrum=eigenvalues,
        typical=typical.label,
        profile=_profile(oracle, store, typical, eigenvalues),
    )
    return found if display is None else _with_pictures(found, display, store, seen)


def _profile(
    oracle: AnyOracle, store: Store, typical: ClassStages, eigenvalues: Tensor
) -> Profile | None:
    if typical.single_point or not isinstance(oracle, Oracle):
        return None
    return profile(store, typical.label, eigenvalues, room=oracle.room())


@dataclass(frozen=True)
class _Pairs:
    """Data and noise float32 [b, *shape], labels int64 [b], and the times [T] of all of them.

    Their noisy samples are numbered pair by pair, each from its first time to its last.
    """

    data: Tensor
    noise: Tensor
    labels: Tensor
    times: Tensor

    @property
    def samples(self) -> Tensor:
        """The numbers of all noisy samples, int64 [b T]."""
        return torch.arange(len(self.labels) * len(self.times))

    def at(self, samples: Tensor, path: NoisePath) -> tuple[Tensor, Tensor, Tensor | None]:
        """Some noisy samples [n, *shape], their times, and the classes that vote."""
        pair, t = samples // len(self.times), self.times[samples % len(self.times)]
        voting = None if (self.labels == NO_LABEL).all() else self.labels[pair]
        return path.sample(self.data[pair], self.noise[pair], t), t, voting

    def by_pair(self, values: Tensor) -> Tensor:
        """Values of all noisy samples as [b, T, …]."""
        return values.reshape(len(self.labels), len(self.times), *values.shape[1:])


def _seen(oracle: AnyOracle, pairs: _Pairs, display: Display | None) -> dict[str, Tensor]:
    """Who votes at all noisy samples, and pictures of them and of x̂ where there are any.

    Samples and x̂ themselves are let go of, as many at a time as fit the memory.
    """
    dims = pairs.data[0].numel()
    size = max(1, (oracle.room() - PAIR * dims * len(pairs.labels)) // 2 // (SAMPLE * dims))
    parts: list[dict[str, Tensor]] = []
    for some in pairs.samples.split(size):
        noisy, t, voting = pairs.at(some, oracle.path)
        votes = oracle.posterior(noisy, t, voting, top=VOTERS)
        part = {"voters": votes.top_rows, "weights": votes.top_weights}
        part["effective"] = 1 / votes.participation
        if display is not None:
            part |= {"noisy": _pictures(display, noisy), "means": _pictures(display, votes.mean)}
        parts.append(part)
    fewest = min(part["voters"].shape[1] for part in parts)
    joined = {name: torch.cat([part[name][:, :fewest] for part in parts]) for name in TOP}
    return joined | {
        name: torch.cat([part[name] for part in parts]) for name in parts[0] if name not in TOP
    }


def strip_times(group: ClassStages) -> list[float]:
    """Times of the strips, from pure noise to a little past the end of navigation."""
    last = _last(group)
    return [last * step / (STEPS - 1) for step in range(STEPS)]


def vote_times(group: ClassStages) -> dict[str, float]:
    """When the votes are shown: before the centre, at it, at the collapse and after the end."""
    if group.single_point:
        return {"at noise": 0.0, "half-way": 0.5}
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


def _last(group: ClassStages) -> float:
    """A time past the end; where there is none, well past the collapse; half-way if it is at 0."""
    if group.end.value == 0:
        return 0.5
    collapse = _time(group.collapse, group.predicted_collapse)
    end = group.end.value if group.end.value is not None else min(2 * collapse, 0.95)
    return end + 0.15 * (1 - end) * min(1.0, 2 * end)


def _time(mark: Landmark, otherwise: float) -> float:
    return otherwise if mark.value is None else mark.value


def _chosen(stages: Stages) -> list[ClassStages]:
    """Classes spread over the labels; the whole set, several times, where there are none.

    What has a single point is passed over for what has more.
    """
    measured = [group for group in stages.groups if group.label >= NO_LABEL]
    measured = [group for group in measured if not group.single_point] or measured
    groups = [group for group in measured if group.label >= 0] or measured
    places = [i * len(groups) // COUNT for i in range(COUNT)]
    return [groups[place] for place in places]


def _drawn(store: Store, label: int, seed: int) -> int:
    rows = store.atoms(label).rows
    return int(rows[torch.randint(len(rows), (1,), generator=generator(seed % 2**32))])


def _display(store: Store, room: int) -> Display | None:
    """How points are shown; latents by a projection that points spread over the store fix."""
    shown, dims = store.picture_range, torch.Size(store.shape).numel()
    plain = shown is not None and shown[0] < shown[1]
    count = 1 if plain else max(1, min(len(store), FITTED, room // (PIXEL * dims)))
    spread = store.take(torch.linspace(0, len(store) - 1, count).round().long())
    return display_for(store.shape, shown, spread)


def _with_pictures(
    found: Examples, display: Display, store: Store, seen: Mapping[str, Tensor]
) -> Examples:
    """The same with pictures: of samples and x̂ along the strips, of voters at the moments."""
    counts, steps = found.voters.shape[:2], found.steps
    voters = found.voters[:, steps:]
    faces = [_pictures(display, store.take(some)) for some in voters.flatten(0, 1)]

    def strips(pictures: Tensor) -> Tensor:
        return pictures.unflatten(0, counts)[:, :steps]

    return replace(
        found,
        noisy=strips(seen["noisy"]),
        means=strips(seen["means"]),
        faces=torch.stack(faces).unflatten(0, voters.shape[:2]),
    )


def _pictures(display: Display, points: Tensor) -> Tensor:
    return reduce_image(display.pictures(points), LARGEST)
