"""Where every row goes: classes one after the other, shards filled with whole classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from floracle.data.packed.manifest import ClassSpan
from floracle.data.rows.rows import COMPACT
from floracle.data.store import Store
from floracle.run.errors import InputError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LABEL_BYTES = 8


@dataclass(frozen=True)
class ShardPlan:
    """What is packed, in what order, into which shards."""

    store: Store
    dtype: torch.dtype
    order: Tensor
    """The row of the data for each packed row, int64 [rows]; no mirrors."""
    spans: tuple[ClassSpan, ...]
    shards: tuple[tuple[int, int], ...]
    """First and last + 1 row of each."""

    @property
    def rows(self) -> int:
        """The number of rows without mirrors."""
        return len(self.order)

    @property
    def size(self) -> int:
        """Bytes of all shards, without their headers."""
        return self.rows * _row_bytes(self.store, self.dtype)


def plan_shards(store: Store, dtype: str, shard_bytes: int) -> ShardPlan:
    """Order rows by label and cut them into shards; depends on labels and sizes alone."""
    if store.stds is not None:
        raise InputError(
            f"{store.name} was opened with moments='gaussian', but a packed store holds points;"
            " pack with moments='mean' or 'sample'"
        )
    target = packed_dtype(store.dtype, dtype)
    labels = store.labels[: len(store) // (1 + store.flips)]
    # rows without a label (−1) come last; a stable sort keeps the order inside a class
    order = torch.where(labels < 0, torch.iinfo(torch.int64).max, labels).argsort(stable=True)
    spans = tuple(_class_spans(labels[order]))
    cuts = _cuts(spans, shard_bytes // _row_bytes(store, target))
    return ShardPlan(store, target, order, spans, cuts)


def packed_dtype(stored: torch.dtype, name: str) -> torch.dtype:
    """The dtype to pack to; "stored" keeps that of the data, narrowed to float32 if wider."""
    if name == "stored":
        return stored if stored in COMPACT else torch.float32
    if name not in DTYPES:
        raise InputError(f"dtype {name!r} is unknown; choose stored, {', '.join(DTYPES)}")
    return DTYPES[name]


def _row_bytes(store: Store, dtype: torch.dtype) -> int:
    """Bytes of a point, its mirror and its label."""
    return prod(store.shape) * dtype.itemsize * (1 + store.flips) + LABEL_BYTES


def _class_spans(labels: Tensor) -> Iterator[ClassSpan]:
    values, counts = labels.unique_consecutive(return_counts=True)
    first = 0
    for label, count in zip(values.tolist(), counts.tolist(), strict=True):
        yield ClassSpan(label, first, first + count)
        first += count


def _cuts(spans: tuple[ClassSpan, ...], max_rows: int) -> tuple[tuple[int, int], ...]:
    """Shards of at most `max_rows` rows; only a class that alone is larger is cut."""
    max_rows, cuts = max(max_rows, 1), [0]
    for span in spans:
        if span.first > cuts[-1] and span.end - cuts[-1] > max_rows:
            cuts.append(span.first)
        while span.end - cuts[-1] > max_rows:
            cuts.append(cuts[-1] + max_rows)
    cuts.append(spans[-1].end)
    return tuple(pairwise(cuts))
