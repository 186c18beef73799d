"""A few samples followed from noise to data, so that one sees navigation turn into refinement.

Each example is one forward pair: the same data and the same noise at every time. The noisy
samples, the oracle's predictions and the training points with the largest posterior weights are
kept as small pictures, so that a report can be drawn again without the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from floracle.analysis.curves import Landmark
from floracle.analysis.prediction.profile import Profile, profile
from floracle.analysis.stages.measure import AnyOracle
from floracle.analysis.stages.result import ClassStages, Stages
from floracle.core.point_set import NO_LABEL
from floracle.core.seeds import generator, noise
from floracle.core.spectrum import spectrum
from floracle.data.store import Store
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.run.images import Display, display_for, reduce_image
from floracle.run.results import Results

EXAMPLES = 4
STRIP_TIMES = 12
LEADING_POINTS = 5
MAX_PICTURE_PIXELS = 64
"""Pixels a side: the page must stay small."""
PROJECTION_POINTS = 256
"""Points that fix the projection of latents."""
SEED_OFFSET = 7919
"""Keeps the random draws of examples apart from those of the curves."""
BYTES_PER_PAIR_DIMENSION = 8
"""A pair holds a point and its noise in float32."""
BYTES_PER_SAMPLE_DIMENSION = 72
"""Of a noisy sample, its x̂, and what both are on the way to pictures."""
BYTES_PER_PROJECTED_DIMENSION = 24
"""Of a point that fixes a projection, in float64 with its copies."""
ARRAYS = (
    "times", "rows", "labels", "voters", "weights", "effective", "spectrum", "noisy", "means",
    "faces",
)  # fmt: skip


@dataclass(frozen=True)
class Examples:
    """Pairs at `times` [T]; the last `len(moments)` of them show the leading training points."""

    times: Tensor
    moments: tuple[str, ...]
    rows: Tensor
    """Rows of the true source samples, int64 [b]."""
    labels: Tensor
    """Their classes, −1 where the oracle is unconditional; int64 [b]."""
    voters: Tensor
    """Rows of the training points with the largest weights, int64 [b, T, LEADING_POINTS]."""
    weights: Tensor
    """Their posterior weights, float64 [b, T, LEADING_POINTS]."""
    effective: Tensor
    """The effective number of samples 1 / Σγ², float64 [b, T]."""
    spectrum: Tensor
    """Covariance eigenvalues of the class `typical`, float64 [k]."""
    typical: int
    profile: Profile | None = None
    """Statistics of the typical class, from which its stages follow; None for Gaussian data."""
    noisy: Tensor | None = None
    """Pictures of x_t, bytes [b, steps, C, H, W]; None where points are no pictures."""
    means: Tensor | None = None
    """Pictures of x̂, like `noisy`."""
    faces: Tensor | None = None
    """Pictures of the leading points, bytes [b, moments, LEADING_POINTS, C, H, W]."""

    @property
    def steps(self) -> int:
        """How many times the strips show."""
        return len(self.times) - len(self.moments)

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        values = {"moments": list(self.moments), "typical": self.typical}
        if self.profile is not None:
            statistics = self.profile.to_arrays()
            arrays |= {f"profile/{name}": array for name, array in statistics.items()}
        return Results("examples", {}, values, {k: v for k, v in arrays.items() if v is not None})


def examples_of(results: Results) -> Examples:
    """The examples that were saved."""
    if results.kind != "examples":
        raise InputError(f"these are {results.kind}, not the examples of a report")
    values = {"moments": tuple(results.values["moments"]), "typical": results.values["typical"]}
    prefix = "profile/"
    statistics = {
        name.removeprefix(prefix): array
        for name, array in results.arrays.items()
        if name.startswith(prefix)
    }
    values["profile"] = Profile.of_arrays(statistics) if statistics else None
    return Examples(**values, **{name: results.arrays.get(name) for name in ARRAYS})  # pyright: ignore


def examples(oracle: AnyOracle, stages: Stages, store: Store) -> Examples:
    """Follow a few pairs of different classes through all times."""
    # 1. Classes, a random row of each, and the noise of each pair.
    groups = _choose_groups(stages)
    # Modulo 2³², the seeds that numpy takes too.
    seeds = [(stages.settings["seed"] + SEED_OFFSET + i) % 2**32 for i in range(len(groups))]
    rows = torch.tensor(
        [_random_row(store, g.label, seed) for g, seed in zip(groups, seeds, strict=True)]
    )
    labels = torch.tensor([group.label for group in groups])
    moments = moment_times(stages.main)
    times = torch.tensor([*strip_times(stages.main), *moments.values()], dtype=torch.float64)
    pairs = _ExamplePairs(store.take(rows), noise(seeds, store.shape), labels, times)

    # 2. The spectrum and the profile of a typical class, for the what-if table.
    typical = stages.typical
    eigenvalues = spectrum(store, typical.label, room=oracle.room())
    statistics = None
    if isinstance(oracle, Oracle) and not typical.single_point:
        statistics = profile(store, typical.label, eigenvalues, room=oracle.room())

    # 3. Posteriors of all noisy samples, and pictures.
    display = _choose_display(store, oracle.room())
    arrays = _measure_posteriors(oracle, pairs, display)
    followed = Examples(
        moments=tuple(moments),
        times=times,
        rows=rows,
        labels=labels,
        spectrum=eigenvalues,
        typical=typical.label,
        profile=statistics,
        **{name: arrays[name] for name in ("voters", "weights", "effective")},
    )
    return followed if display is None else _add_pictures(followed, display, store, arrays)


@dataclass(frozen=True)
class _ExamplePairs:
    """Data and noise float32 [b, *shape], labels int64 [b], and the times [T] of all of them.

    Their noisy samples are numbered pair by pair, each from its first time to its last.
    """

    data: Tensor
    noise: Tensor
    labels: Tensor
    times: Tensor

    def noisy_samples(
        self, numbers: Tensor, oracle: AnyOracle
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The noisy samples [n, *shape] of some numbers [n], their times and classes [n]."""
        pair, t = numbers // len(self.times), self.times[numbers % len(self.times)]
        labels = None if (self.labels == NO_LABEL).all() else self.labels[pair]
        return oracle.path.sample(self.data[pair], self.noise[pair], t), t, labels


def _measure_posteriors(
    oracle: AnyOracle, pairs: _ExamplePairs, display: Display | None
) -> dict[str, Tensor]:
    """Leading weights of all noisy samples [b, T, …], and pictures of them and of x̂ if possible.

    Only as many noisy samples and predictions exist at a time as fit the memory.
    """
    dims, count = pairs.data[0].numel(), len(pairs.labels)
    pair_bytes = BYTES_PER_PAIR_DIMENSION * dims * count
    batch = (oracle.room() - pair_bytes) // 2 // (BYTES_PER_SAMPLE_DIMENSION * dims)
    blocks: list[dict[str, Tensor]] = []
    for numbers in torch.arange(count * len(pairs.times)).split(max(1, batch)):
        noisy, t, labels = pairs.noisy_samples(numbers, oracle)
        posterior = oracle.posterior(noisy, t, labels, top=LEADING_POINTS)
        block = {"voters": posterior.top_rows, "weights": posterior.top_weights}
        block["effective"] = 1 / posterior.participation  # 1 / Σγ², [n]
        if display is not None:
            block["noisy"] = _to_pictures(display, noisy)
            block["means"] = _to_pictures(display, posterior.mean)
        blocks.append(block)
    # A class of fewer points has fewer leading ones; all blocks keep as many as the smallest.
    fewest = min(block["voters"].shape[1] for block in blocks)
    for block in blocks:
        block |= {name: block[name][:, :fewest] for name in ("voters", "weights")}
    shape = (count, len(pairs.times))
    return {
        name: torch.cat([block[name] for block in blocks]).unflatten(0, shape)
        for name in blocks[0]
    }


def strip_times(group: ClassStages) -> list[float]:
    """Times of the strips, from pure noise to a little past the end of navigation."""
    last = _last_time(group)
    return [last * step / (STRIP_TIMES - 1) for step in range(STRIP_TIMES)]


def moment_times(group: ClassStages) -> dict[str, float]:
    """When leading points are shown: before and at the centre, at the collapse, past the end."""
    if group.single_point:
        return {"at noise": 0.0, "half-way": 0.5}
    centre = _measured_or(group.centre, group.predicted_centre)
    return {
        "before the centre": 0.6 * centre,
        "at the centre": centre,
        "at the collapse": _measured_or(group.collapse, group.predicted_collapse),
        "after the end" if group.end.value is not None else "well past it": _last_time(group),
    }


def _last_time(group: ClassStages) -> float:
    """A time past the end; without one well past the collapse; half-way if the end is at 0."""
    if group.end.value == 0:
        return 0.5
    collapse = _measured_or(group.collapse, group.predicted_collapse)
    end = group.end.value if group.end.value is not None else min(2 * collapse, 0.95)
    # 15 % of what is left of [0, 1], and never more than a share of an early end itself.
    return end + 0.15 * (1 - end) * min(1.0, 2 * end)


def _measured_or(mark: Landmark, predicted: float) -> float:
    return predicted if mark.value is None else mark.value


def _choose_groups(stages: Stages) -> list[ClassStages]:
    """Classes spread over the labels; the whole set, several times, where there are none.

    Groups of a single point are passed over if others have more.
    """
    measured = [group for group in stages.groups if group.label >= NO_LABEL]
    measured = [group for group in measured if not group.single_point] or measured
    groups = [group for group in measured if group.label >= 0] or measured
    # Evenly spaced over the labels; fewer than four groups are taken several times.
    return [groups[i * len(groups) // EXAMPLES] for i in range(EXAMPLES)]


def _random_row(store: Store, label: int, seed: int) -> int:
    rows = store.atoms(label).rows
    return int(rows[torch.randint(len(rows), (1,), generator=generator(seed))])


def _choose_display(store: Store, room: int) -> Display | None:
    """How points are shown; latents by a projection that points spread over the store fix."""
    black_white, dims = store.picture_range, torch.Size(store.shape).numel()
    are_pictures = black_white is not None and black_white[0] < black_white[1]
    fitting = room // (BYTES_PER_PROJECTED_DIMENSION * dims)
    count = 1 if are_pictures else max(1, min(len(store), PROJECTION_POINTS, fitting))
    rows = torch.linspace(0, len(store) - 1, count).round().long()
    return display_for(store.shape, black_white, store.take(rows))


def _add_pictures(
    followed: Examples, display: Display, store: Store, arrays: dict[str, Tensor]
) -> Examples:
    """The same with pictures: of x_t and x̂ along the strips, of leading points at the moments."""
    leading = followed.voters[:, followed.steps :]  # [b, moments, LEADING_POINTS]
    faces = [_to_pictures(display, store.take(rows)) for rows in leading.flatten(0, 1)]
    return replace(
        followed,
        noisy=arrays["noisy"][:, : followed.steps],
        means=arrays["means"][:, : followed.steps],
        faces=torch.stack(faces).unflatten(0, leading.shape[:2]),
    )


def _to_pictures(display: Display, points: Tensor) -> Tensor:
    return reduce_image(display.pictures(points), MAX_PICTURE_PIXELS)
