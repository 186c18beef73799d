"""Pairs of one class after the other: the next class is read while the last one is computed.

Reading and products are a few large calls, posteriors through time many small ones, so that two
threads seldom wait for each other. Points lie in packed stores, which both may read at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, prepared
from floracle.core.seeds import noise
from floracle.oracle.class_points import gather_class_points
from floracle.oracle.oracle import Oracle
from floracle.oracle.pairs.forward_pairs import (
    InnerProducts,
    PairCurves,
    PairPoints,
    curves_from_products,
    inner_products,
)
from floracle.run.budget import choose_device, memory_budget
from floracle.run.processes import ALONE

CLASSES_AHEAD = 2
"""Classes that are read before they are computed."""
PAIR_BYTES_PER_DIM, PAIR_BYTES_PER_POINT = 24, 16
"""Bytes that a waiting pair takes for every dimension, and for every training point."""


class PairBatch(NamedTuple):
    """The pairs of a class."""

    label: int
    rows: Tensor
    """Rows of their data, int64 [p]."""
    atoms: int
    """How many distinct training points the class has."""
    seed: int
    """Pair i has the noise of seed + 1 + i."""


def can_prefetch(oracle: object, label: int, pairs: int) -> bool:
    """Whether a class can be read while another is computed.

    Its statistics must be stored with the data, one process must have all of it on the CPU, and
    what waits must fit half of the memory.
    """
    if not isinstance(oracle, Oracle) or label == NO_LABEL:
        return False
    alone = (oracle.group or ALONE).alone and choose_device(oracle.device).type == "cpu"
    if not alone or prepared(oracle.data, label) is None:
        return False
    atoms, dims = len(oracle.data.atoms(label).rows), torch.Size(oracle.data.shape).numel()
    pair_bytes = PAIR_BYTES_PER_DIM * dims + PAIR_BYTES_PER_POINT * atoms
    return (CLASSES_AHEAD + 1) * pairs * pair_bytes <= memory_budget(oracle.memory) // 2


def prefetch_classes(
    oracle: Oracle, batches: Iterable[PairBatch], times: Tensor
) -> Iterator[tuple[PairBatch, PairCurves]]:
    """`Oracle.pairs` of mirrored pairs, for several classes in their order."""
    oracle.check_untempered("a pair")
    waiting: deque[tuple[PairBatch, PairPoints, Callable[[], list[InnerProducts]]]] = deque()

    def compute_first() -> tuple[PairBatch, PairCurves]:
        batch, points, wait = waiting.popleft()
        return batch, curves_from_products(points, wait(), oracle.path, times, mirrored=True)

    with _open_reader() as start_reading:
        for batch in batches:
            points = read_pair_points(oracle, batch)
            waiting.append((batch, points, start_reading(points)))
            if len(waiting) > CLASSES_AHEAD:
                yield compute_first()
        while waiting:
            yield compute_first()


def read_pair_points(oracle: Oracle, batch: PairBatch) -> PairPoints:
    """The data and noise of pairs, beside the points of their class."""
    cpu = torch.device("cpu")
    points = gather_class_points(oracle.data, batch.label, room=0, device=cpu)
    seeds = range(batch.seed + 1, batch.seed + 1 + len(batch.rows))
    return PairPoints.of(points, batch.rows, noise(seeds, oracle.data.shape))


@contextmanager
def _open_reader() -> Iterator[Callable[[PairPoints], Callable[[], list[InnerProducts]]]]:
    """A function that starts to read a class and returns a function that waits for it.

    Reading has a thread with half of the processors, the caller the others. With a single
    processor, the class is read when it is waited for.
    """
    processors = torch.get_num_threads()
    if processors < 2:
        yield lambda points: partial(_read_products, points)
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(torch.set_num_threads, processors // 2)
        torch.set_num_threads(processors - processors // 2)
        try:
            yield lambda points: thread.submit(_read_products, points).result
        finally:
            torch.set_num_threads(processors)


def _read_products(points: PairPoints) -> list[InnerProducts]:
    return list(inner_products(points))
