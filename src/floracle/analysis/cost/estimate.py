"""The cost of a stages run: bytes to read, operations, memory and seconds, before it is run.

Every phase is a table of named terms: an amount of work and the speed that it is done at, which is
measured on this machine (speeds.py). Amounts are counts of operations and of passes over values;
they depend on the label, [C], or are those of all labels together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from floracle.analysis.stages.measure import held_out_pairs
from floracle.analysis.trajectories import trajectory_analysis as deep
from floracle.core.spectrum import GRAM_BYTES, PASS_BYTES

from .memory_needs import LEADERS, QUERIES, memory_needs
from .speeds import Speeds, measure_speeds
from .stages_shape import StagesShape

PROGRAM_BYTES = 380 * 2**20
"""The program itself: torch, and what pages are drawn with."""
ALLOCATOR_VECTORS, MAX_ALLOCATOR_BYTES = 20, 2**25
"""Float64 vectors of D numbers that the allocator keeps for the next phase, unless they are longer
than these bytes: then they go back at once."""
START_SECONDS, DRAWING_SECONDS = 3.0, 2.5
"""Until the program has started, and of a page; neither depends on the data."""
CLASS_SECONDS, PAIR_SECONDS, CLASS_DRAWING_SECONDS = 12e-3, 15e-6, 4e-3
"""Of the many small calls that a class takes until it is saved, of each of its pairs, and of its
rows in tables and figures."""
QUERY_BATCH_SECONDS = 0.01
"""Of the many small calls that a batch of queries takes."""

EIGENVALUE_OPERATIONS = 12.0
"""Operations on n³ of an eigendecomposition, as slow as they are beside a product's."""
NORMS_PER_MOMENTS = 0.6
"""The time of norms over that of moments."""
FLOAT64_PER_FLOAT32 = 2.0
"""The time of a float64 product over that of a float32 one."""
WEIGHTS_OVERHEAD = 1.3
"""The time of the weights of a run over that of one block: blocks are prepared, sums merged."""
MERGE_VECTORS, CACHED_BYTES, CACHED_SPEEDUP = 10.0, 2**22, 6.0
"""Vectors of D numbers that merging the moments of two blocks takes. Up to 2²² bytes each they are
in cache, and written 6 times as fast as to memory that was not used before."""

# Fresh values (`Speeds.fresh`) that a step writes:
PAIR_VALUES = 8.0  # for each coordinate of a pair
CLASS_VALUES, BLOCK_POINTS = 10.0, 4096  # for each class, time of a pair and 4096 points
GAUSSIAN_PRODUCTS, GAUSSIAN_VALUES = 4.0, 16.0
"""Where training points are Gaussians: products of pairs with all of them at each time, and fresh
values for each coordinate of a training point and of a pair."""
WEIGHT_VALUES, MEAN_VALUES, GATHERED = 5.0, 2.5, 0.1
"""Fresh values for each weight of a held-out pair, for each coordinate of its mean at each time,
and for each coordinate of a training point at each time: the share of those picked out."""
QUERY_VALUES, LOGIT_VALUES = 90.0, 4.0
"""Fresh values for each coordinate of a query, and for each of its logits."""
LEADER_VALUES, ALL_LEADER_VALUES = 3.7, 9.0
"""The same for each coordinate of a leader that is refined, and where all points are leaders."""
PATCH_VALUES = 5.0
"""Fresh values for each training point, pixel and query of a patch-local oracle."""


@dataclass(frozen=True)
class Cost:
    """What a stages run would take."""

    seconds: float
    """Of all but opening the data."""
    memory: int
    """Bytes at the peak."""
    operations: float
    """Of products and eigenvalues."""
    read: int
    """Bytes of points that are read from their files."""
    classes: int
    """Groups that are measured, the whole set among them."""
    phases: dict[str, float]
    """Seconds by phase."""


Terms = Mapping[str, tuple[Tensor | float, str]]
"""The time of a phase: by name an amount, by label [C] or of all, and its speed, a field of
`Speeds`; without a speed the amount is seconds."""


def estimate_cost(shape: StagesShape) -> Cost:
    """The time and memory of a stages run."""
    work, speeds = Work(shape), measure_speeds(shape.store)
    phases = {phase: _seconds(terms, speeds) for phase, terms in work.phases().items()}
    vector = 8 * shape.dims
    allocator = ALLOCATOR_VECTORS * vector if vector <= MAX_ALLOCATOR_BYTES else 0
    peak = max(need.size + need.earlier for need in memory_needs(shape))
    passes = work.spectrum_passes + work.pair_passes
    read = float((passes * shape.points).sum()) * shape.dims * shape.store.dtype.itemsize
    return Cost(
        seconds=sum(phases.values()),
        memory=PROGRAM_BYTES + shape.held_bytes + allocator + peak,
        operations=float((work.pair_operations + work.spectrum_operations).sum()),
        read=0 if shape.store.resident else int(read),
        classes=len(shape.labels),
        phases=phases,
    )


def _seconds(terms: Terms, speeds: Speeds) -> float:
    amounts = [(a / getattr(speeds, speed) if speed else a) for a, speed in terms.values()]
    return sum(float(torch.as_tensor(seconds, dtype=torch.float64).sum()) for seconds in amounts)


@dataclass(frozen=True)
class Work:
    """The terms of every phase."""

    shape: StagesShape

    def phases(self) -> dict[str, Terms]:
        """By name, in their order."""
        shape, count = self.shape, len(self.shape.labels)
        pairs = self._pairs() if shape.store.stds is None else self._gaussian_pairs()
        calls = count * (CLASS_SECONDS + PAIR_SECONDS * shape.pairs)
        phases: dict[str, Terms] = {
            "start-up": {"program": (START_SECONDS, "")},
            "spectra": self._spectra(),
            "pairs": {**pairs, "calls": (calls, "")},
        }
        if shape.held_out is not None:
            phases["held-out pairs"] = self._held_out()
        # examples: pairs of typical classes, and the spectrum of one of them once more
        label = int(shape.points.argsort()[count // 2])
        spectrum: Terms = {
            f"spectrum, {k}": (a[label], s) for k, (a, s) in self._spectra().items()
        }
        phases["examples"] = {**spectrum, **self._queries(label, QUERIES, batches=4)}
        if shape.deep:
            phases["deep"] = self._deep()
        phases["drawing"] = {"page": (DRAWING_SECONDS + CLASS_DRAWING_SECONDS * count, "")}
        return phases

    @cached_property
    def pair_operations(self) -> Tensor:
        """Of the products of pairs, data and noise, with all points [C]."""
        return 2.0 * 2 * self.shape.pairs * self.shape.numbers

    @cached_property
    def spectrum_operations(self) -> Tensor:
        """Of covariances or Gram matrices, and of their eigenvalues [C]."""
        rank = self.shape.points.clamp(max=self.shape.dims)
        products = 2 * self.shape.numbers * rank
        if self.shape.sums_covariances:
            products[-1] = 0.0
        return self.shape.needs_spectrum * (products + EIGENVALUE_OPERATIONS * rank**3)

    @cached_property
    def in_memory(self) -> Tensor:
        """Whether the oracle or the data holds the points of a class during its use, bool [C]."""
        return self.shape.fits_oracle | self.shape.store.resident

    @cached_property
    def spectrum_passes(self) -> Tensor:
        """How often the points of a class are read for its spectrum [C]."""
        blocks = (self.shape.points / max(1, GRAM_BYTES // (4 * self.shape.dims))).ceil()
        gram = self.shape.points <= self.shape.dims
        return self.shape.needs_spectrum * (1 + torch.where(gram, (blocks + 1) / 2, 1))

    @cached_property
    def pair_passes(self) -> Tensor:
        """How often they are read for its pairs [C]."""
        batches = (self.shape.pairs / self.shape.pairs_at_a_time).ceil()
        statistics = 0 if self.shape.has_statistics else 2
        return statistics + torch.where(self.in_memory, 1, batches)

    @cached_property
    def merged_values(self) -> Tensor:
        """Fresh values of merging the moments of all blocks in one pass [C]."""
        vector = 8 * self.shape.dims
        blocks = (self.shape.points / max(1, PASS_BYTES // vector)).ceil()
        speedup = CACHED_SPEEDUP if vector <= CACHED_BYTES else 1.0
        return MERGE_VECTORS * blocks * self.shape.dims / speedup

    def _spectra(self) -> Mapping[str, tuple[Tensor, str]]:
        needed, numbers = self.shape.needs_spectrum, self.shape.numbers
        return {
            "matrices and eigenvalues": (self.spectrum_operations, "product"),
            "moments": (needed * numbers, "moments"),
            "merging": (needed * self.merged_values, "fresh"),
            "weighted points": (needed * numbers, "fresh"),
            "reading": (self.spectrum_passes * numbers, "reading"),
        }

    def _pairs(self) -> Terms:
        """Statistics of the class unless stored, pairs, and their weights at all times."""
        shape, numbers = self.shape, self.shape.numbers
        prepare = 0 if shape.has_statistics else 1
        coordinates = len(shape.labels) * shape.pairs * shape.dims
        weights = 2 * shape.pairs * shape.times  # both signs of the noise
        classes = shape.class_counts * (shape.points / BLOCK_POINTS).ceil()
        return {
            "reading": (self.pair_passes * numbers, "reading"),
            "moments and norms": (prepare * (1 + NORMS_PER_MOMENTS) * numbers, "moments"),
            "merging": (prepare * self.merged_values, "fresh"),
            "noise": (coordinates, "noise"),
            "points of pairs": (PAIR_VALUES * coordinates, "fresh"),
            "products": (self.pair_operations, "product"),
            "weights": (WEIGHTS_OVERHEAD * weights * shape.points, "weights"),
            "classes": (CLASS_VALUES * weights * classes, "fresh"),
        }

    def _gaussian_pairs(self) -> Terms:
        """Where points are Gaussians: at every time and for both signs, products in float64."""
        times, numbers = 2 * self.shape.times, self.shape.numbers
        products = FLOAT64_PER_FLOAT32 * GAUSSIAN_PRODUCTS * 2 * self.shape.pairs * numbers
        written = GAUSSIAN_VALUES * (numbers + self.shape.pairs * self.shape.dims)
        return {
            "products": (times * products, "product"),
            "written": (times * written, "fresh"),
            "reading": (times * numbers, "reading"),
        }

    def _held_out(self) -> Terms:
        """Products in float64; at every time weights, and a mean over all points with weight."""
        shape, numbers = self.shape, self.shape.numbers
        count = held_out_pairs(shape.pairs, shape.dims)
        coordinates = MEAN_VALUES * count * shape.dims + GATHERED * numbers
        passes = torch.where(self.in_memory, 0, 1 + shape.times)
        return {
            "products": (FLOAT64_PER_FLOAT32 * 2 * 2 * count * numbers, "product"),
            "logits": (numbers, "fresh"),
            "weights": (WEIGHT_VALUES * count * shape.times * shape.points, "fresh"),
            "means": (shape.times * coordinates, "fresh"),
            # half of the times lie in navigation, where all points have weight
            "products of means": (2 * count * shape.times / 2 * numbers, "product"),
            "reading": (passes * numbers, "reading"),
            "calls": (PAIR_SECONDS * count * len(shape.labels), ""),
        }

    def _queries(
        self, label: int, count: int, *, batches: int
    ) -> dict[str, tuple[Tensor | float, str]]:
        """Queries of a class: products, leaders that are refined, and the points read again."""
        points, numbers = self.shape.points[label], self.shape.numbers[label]
        leaders = points.clamp(max=LEADERS)
        leader_values = torch.where(points <= LEADERS, ALL_LEADER_VALUES, LEADER_VALUES)
        coordinates = self.shape.dims * (QUERY_VALUES + leaders * leader_values)
        passes = 0 if self.in_memory[label] else batches + count * leaders / points
        return {
            "products": (2 * 2 * count * numbers, "product"),
            "written": (count * (coordinates + LOGIT_VALUES * points), "fresh"),
            "reading": (passes * numbers, "reading"),
            "calls": (QUERY_BATCH_SECONDS * batches, ""),
        }

    def _deep(self) -> Terms:
        """Queries along trajectories, of the whole set or of the largest class; simpler fields."""
        shape, label = self.shape, int(self.shape.points.argmax())
        batches = 2 * deep.TIMES + deep.STEPS
        queries = 2 * deep.TIMES * deep.PAIRS + deep.STEPS * deep.SEEDS
        terms, compared = self._queries(label, queries, batches=batches), deep.PAIRS * deep.TIMES
        if shape.dims <= deep.MAX_GAUSSIAN_DIMS:
            rank = shape.points.clamp(max=shape.dims)
            fit = 2 * shape.numbers * rank + 4 * EIGENVALUE_OPERATIONS * rank**3
            query = 8 * compared * shape.dims * rank
            terms["Gaussians"] = (FLOAT64_PER_FLOAT32 * (fit + query), "product")
        channels = shape.store.shape[0]
        pixels = compared * shape.points[label] * shape.dims / channels * len(deep.PATCH_SIDES)
        if len(shape.store.shape) == 3 and pixels <= deep.MAX_PATCH_OPERATIONS:
            terms["patches"] = (pixels * channels * PATCH_VALUES, "fresh")
        return terms
