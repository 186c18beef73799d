"""The memory that each phase of a stages run takes, from shapes alone.

Batches shrink to the memory at hand, but not below one pair, one query, one matrix, or what the
results themselves take. A phase whose smallest batch does not fit is refused before it begins,
with the options that would help.

Every phase is a table of named terms, each with its bytes at the usual batch size and at the
smallest. Terms may depend on the label, [C]; the largest label counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.analysis.stages.measure import PAIR_BYTES_PER_DIM, held_out_pairs
from floracle.analysis.trajectories import trajectory_analysis as deep
from floracle.core.spectrum import BLOCKS, GRAM_BYTES, MATRICES
from floracle.oracle.pairs.forward_pairs import (
    MAX_BLOCK_ROWS,
    MIN_BLOCK_ROWS,
    PRODUCT_BYTES,
    PRODUCTS_AT_ONCE,
)
from floracle.oracle.pairs.held_out_pairs import BLOCK_BYTES, BLOCK_ROWS, POINT_BYTES
from floracle.oracle.scan import BLOCKS_PER_MERGE, COPIES_WHILE_CHECKED, COPIES_WHILE_SCANNED
from floracle.run.errors import InputError

from .stages_shape import StagesShape

SLACK_BYTES = 2**28
"""Blocks that stay in cache, leaders that are refined, and the rest of the program: they do not
grow with the data, and are not part of --memory."""
RESULT_BYTES, PAIR_RESULT_BYTES = 320, 32
"""Of a pair at one time: seven curves, their controls, resamples and copies, float64; and of a
pair at all times."""
CLASS_BYTES, CLASS_NUMBERS = 60_000, 28
"""Bytes of a class in results, tables and page, and its numbers at each time; half of them before
it is drawn."""
OPENING_ROW_BYTES, OPENING_DIM_BYTES = 200, 250
"""Of a row and of a dimension while data is opened: digests, duplicates, a block."""
QUERIES, EXAMPLES = 64, 4
"""Noisy samples of examples, and how many pairs they are of."""
ANSWER_BYTES, EXAMPLE_BYTES = 12, 72
"""Of an example for each dimension while the oracle answers: the noisy sample and x̂; and on the
way to pictures of both."""
LEADERS, LEADER_BYTES = 32, 48
"""Training points of a query that are refined in float64 at most, and bytes of a coordinate."""
NO_SUCH_MEMORY = 2**42
"""Bytes that no machine has, so that no message advises to give them."""

Bytes = Tensor | float
Terms = dict[str, tuple[Bytes, Bytes]]
"""By name the bytes at the usual batch size and at the smallest."""


class MemoryNeed(NamedTuple):
    """The memory of a phase beside the points of the data."""

    phase: str
    terms: Terms
    advice: str = ""
    """The options that would shrink it."""
    earlier: int = 0
    """Bytes that earlier phases have left: what is known of the classes."""

    @property
    def size(self) -> int:
        """Bytes at the usual batch size."""
        return self._largest(0)

    @property
    def least(self) -> int:
        """Bytes at the smallest."""
        return self._largest(1)

    def _largest(self, column: int) -> int:
        total = torch.zeros(1, dtype=torch.float64)
        for sizes in self.terms.values():
            total = total + sizes[column]
        return int(total.max())


def memory_needs(shape: StagesShape) -> Iterator[MemoryNeed]:
    """The needs of all phases, in their order."""
    rows, dims = OPENING_ROW_BYTES * len(shape.store), OPENING_DIM_BYTES * shape.dims
    # over by the time a run can be refused, so that its least is 0
    yield MemoryNeed("opening the data", {"rows": (rows, 0), "block": (dims, 0)})
    yield _spectra(shape)
    classes = len(shape.labels) * (CLASS_BYTES + 8 * CLASS_NUMBERS * shape.times)
    phase = f"what is measured of {len(shape.labels):,} classes"
    yield MemoryNeed(phase, {"classes": (classes, classes)}, "--classes whole")
    curves = (RESULT_BYTES * shape.times + PAIR_RESULT_BYTES) * shape.pairs
    phase = f"what is measured of {shape.pairs:,} pairs at {shape.times:,} times"
    results = MemoryNeed(phase, {"curves": (curves, curves)}, "fewer --pairs or --times")
    later = [results, _pairs(shape), _examples(shape)]
    later += [] if shape.held_out is None else [_held_out(shape)]
    later += [_deep(shape)] if shape.deep else []
    yield from (need._replace(earlier=classes // 2) for need in later)


def check_memory(shape: StagesShape) -> None:
    """Refuse a run of which a phase cannot fit the memory, before anything is computed."""
    largest = max(memory_needs(shape), key=lambda need: need.least)
    if largest.least > max(shape.budget, SLACK_BYTES):
        raise InputError(_refusal(shape, largest))


def _refusal(shape: StagesShape, need: MemoryNeed) -> str:
    points = 4 * len(shape.store) * shape.dims  # more memory may make the data hold its points
    enough = need.least if need.least < 2 * points else need.least + points
    enough = max(enough, need.least + shape.held_bytes)
    memory = f"--memory {ceil(1.02 * enough / 2**20)}M" if enough < NO_SUCH_MEMORY else ""
    advice = " or ".join(filter(None, [need.advice, memory])) or "less data"
    return (
        f"{need.phase} takes {_format_bytes(need.least)} beside the data, but the memory leaves"
        f" {_format_bytes(shape.budget)}; give {advice}"
    )


def _format_bytes(count: float) -> str:
    units = ["MiB", "GiB", "TiB"]
    count /= 2**20
    while count >= 1000 and len(units) > 1:
        count, units = count / 1024, units[1:]
    return f"{count:,.3g} {units[0]}" if count < 1000 else f"{count:,.0f} {units[0]}"


def _spectra(shape: StagesShape) -> MemoryNeed:
    """The largest matrix and its blocks of points, and all spectra side by side."""
    ranks = shape.points.clamp(max=shape.dims)  # sides of Gram or covariance matrices, [C]
    sides = ranks[shape.needs_spectrum] if shape.needs_spectrum.any() else torch.zeros(1).double()
    matrix = (MATRICES if shape.sums_covariances else 16) * sides.square()
    # rows of a block: of a Gram matrix as many as fit GRAM_BYTES, of a covariance D / 2; fewer
    # where the matrix leaves the oracle's memory less
    of_gram = sides.clamp(max=max(1, GRAM_BYTES // (4 * shape.dims)))
    usual = torch.where(sides < shape.dims, of_gram, sides.clamp(max=shape.dims / 2))
    room = shape.oracle_bytes - MATRICES * sides.square()
    rows = torch.minimum(usual, (room / (BLOCKS * 4 * shape.dims)).clamp(min=1))
    row_bytes = torch.where(rows < sides, BLOCKS, 3) * 4 * shape.dims * (sides > 0)
    spectra = float(8 * (ranks.sum() + 6 * len(ranks) * ranks.max()))
    return MemoryNeed(
        f"a covariance spectrum of {int(ranks.max()):,} eigenvalues",
        {
            "matrix": (matrix, matrix),
            "blocks of points": (row_bytes * rows, row_bytes),
            "spectra": (spectra, spectra),
        },
        "--classes each" if shape.class_count and len(ranks) > 1 else "",
    )


def _pairs(shape: StagesShape) -> MemoryNeed:
    """Pairs of the label that takes most, beside the classes that the oracle still holds."""
    dims, n, count = shape.dims, shape.points, shape.pairs_at_a_time
    block = (PRODUCTS_AT_ONCE / count).clamp(MIN_BLOCK_ROWS, MAX_BLOCK_ROWS).minimum(n)
    drawn = min(shape.pairs, max(1, shape.oracle_bytes // 4 // (PAIR_BYTES_PER_DIM * dims)))
    held = shape.copied_bytes.sum().clamp(max=shape.oracle_bytes)
    held = torch.maximum(shape.copied_bytes, held.clamp(max=shape.oracle_bytes / 4))
    moments = 24 * n + 32 * dims
    apart = f", with {shape.class_count:,} classes told apart," if shape.class_count else ""
    return MemoryNeed(
        f"a pair of {dims:,} dimensions at {shape.times:,} times{apart}",
        {
            "pairs": (count * shape.pair_bytes, shape.pair_bytes),
            "products": (count * PRODUCT_BYTES * (block - MIN_BLOCK_ROWS).clamp(min=0), 0),
            "noise": (drawn * 4 * dims, 4 * dims),
            "points held": (held, 0),
            "norms and moments": (moments, moments),
        },
        "--classes each or fewer --times" if shape.class_count else "fewer --times",
    )


def _held_out(shape: StagesShape) -> MemoryNeed:
    """Held-out pairs of the largest class."""
    assert shape.held_out is not None
    dims, n = shape.dims, float(shape.points.max())
    count = held_out_pairs(shape.pairs, dims)
    pair = POINT_BYTES * n + 8 * 8 * dims
    at_a_time = min(count, max(1, float(shape.work_bytes.min()) // pair))
    rows = min(n, BLOCK_ROWS, max(1, BLOCK_BYTES // (8 * dims)))
    block = rows * dims * (8 if shape.store.resident else 16)
    drawn = min(count, max(1, shape.oracle_bytes // 8 // (8 * dims))) * 8 * dims
    return MemoryNeed(
        f"a held-out pair beside {int(n):,} points of {dims:,} dimensions",
        {"pairs": (at_a_time * pair, pair), "block": (block, block), "drawn": (drawn, 0)},
    )


def _examples(shape: StagesShape) -> MemoryNeed:
    """A few noisy samples, the oracle's answers, and the leaders that it refines.

    They are of classes where there are any, and those of one class are answered together.
    """
    sizes = [n for label, n in zip(shape.labels, shape.points, strict=True) if label >= 0]
    dims, n = shape.dims, float(max(sizes or shape.points))
    query = _query_bytes(shape, n)
    pairs = EXAMPLES * 8 * dims
    shown = min(QUERIES, max(1, (shape.oracle_bytes - pairs) // 2 // (EXAMPLE_BYTES * dims)))
    of_class = min(shown, QUERIES // min(EXAMPLES, max(1, len(sizes))))
    queries = min(of_class, max(1, float(shape.work_bytes.min()) // query)) * query
    leaders = LEADER_BYTES * dims * min(n, LEADERS)
    answering = queries + ANSWER_BYTES * shown * dims + leaders
    least = query + ANSWER_BYTES * dims + leaders
    return MemoryNeed(
        f"an example of {dims:,} dimensions",
        {
            "pairs": (pairs, pairs),
            "queries, or pictures": (
                max(answering, shown * EXAMPLE_BYTES * dims),
                max(least, EXAMPLE_BYTES * dims),
            ),
            "points held": (float(shape.copied_bytes.max()), 0),
        },
    )


def _query_bytes(shape: StagesShape, n: float) -> float:
    """Bytes of a query of n training points; see `query_bytes`."""
    rows = max(1, min(32, 2**27 // (4 * shape.dims)), min(2**24 // (4 * shape.dims), 4096))
    scanned = min(BLOCKS_PER_MERGE, ceil(n / rows)) + 1 + COPIES_WHILE_SCANNED
    return 8 * shape.dims * max(scanned, COPIES_WHILE_CHECKED)


def _deep(shape: StagesShape) -> MemoryNeed:
    """Trajectories, which are held to their end, and Gaussians of the data and of its classes."""
    dims, n = shape.dims, float(shape.points.max())
    trajectories = 8 * 3 * deep.SEEDS * deep.STEPS * dims
    gaussians = 0.0
    if dims <= deep.MAX_GAUSSIAN_DIMS:
        ranks = torch.cat([shape.points.clamp(max=dims), torch.tensor([min(n, dims)]).double()])
        fit = (ranks * (2 * dims + 2 * ranks)).max()
        gaussians = float(8 * (dims * ranks.sum() + fit))
    queries = QUERIES * (EXAMPLE_BYTES * dims + _query_bytes(shape, n))
    return MemoryNeed(
        f"--deep with {int(n):,} points of {dims:,} dimensions",
        {
            "trajectories": (trajectories, trajectories),
            "Gaussians": (gaussians, gaussians),
            "queries": (queries, EXAMPLE_BYTES * dims),
        },
        "no --deep",
    )
