"""Writing the shards of a packed store, one after the other, each once.

A thread gathers, converts and examines the next block of rows while the block before it is hashed
and written. The digests of rows and the errors of conversion are recorded with each shard, so that
a run that is killed resumes with the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from floracle.data.integrity_check import BLOCK_VALUES, DIGEST_BYTES, row_digests
from floracle.data.packed.files import StoreFile, TensorStream
from floracle.data.packed.latent_shards import read_shard_record, write_latents, write_shard_record
from floracle.data.packed.manifest import Conversion
from floracle.data.rows.buffers import read_ahead
from floracle.data.rows.rows import compact
from floracle.run.errors import InputError

from .plan import ShardPlan, packed_dtype


@dataclass(frozen=True)
class PackedShard:
    """A finished shard, with what was computed while it was written."""

    shard: StoreFile
    digests: np.ndarray
    """Of its rows, then of their mirrors, bytes [n, 16]."""
    errors: Tensor
    """The largest error of a point, and the sum of all squared errors; float64 [2]."""


def write_shard(folder: Path, plan: ShardPlan, number: int) -> PackedShard:
    """Write one shard and its record."""
    first, end = plan.shards[number]
    rows, halves = end - first, 1 + plan.store.flips
    # Allocated once: small results between large blocks would leave holes in the heap.
    digests = np.empty((rows * halves, DIGEST_BYTES), np.uint8)
    errors = torch.zeros(2, dtype=torch.float64)

    def blocks(half: int) -> Iterator[Tensor]:
        """The rows of the shard, or their mirrors in its second half, as they are stored."""
        start = half * rows
        block_rows = (plan.order[first:end] + half * plan.rows).split(_rows_per_block(plan))
        packed = read_ahead(map(partial(_pack_block, plan), block_rows))
        for block, block_digests, block_errors in packed:
            digests[start : start + len(block)] = block_digests
            errors.copy_(_merge_errors(torch.stack([errors, block_errors])))
            start += len(block)
            yield block

    shape = (rows, *plan.store.shape)
    latents = [TensorStream(plan.dtype, shape, blocks(half)) for half in range(halves)]
    shard = write_latents(folder, number, plan.store.labels[plan.order[first:end]], latents)
    arrays = {"errors": errors, "digests": torch.from_numpy(digests)}
    write_shard_record(folder, number, shard, arrays)
    return PackedShard(shard, digests, errors)


def find_finished_shard(folder: Path, plan: ShardPlan, number: int) -> PackedShard | None:
    """A shard that an earlier run finished; None if it is missing, damaged or of other rows."""
    record = read_shard_record(folder, number)
    if record is None:
        return None
    shard, arrays = record
    first, end = plan.shards[number]
    digests = arrays["digests"].numpy()
    store = plan.store
    # Digests are of rows as packed; they can be compared with the data's where no value changes.
    if store.digests is None or plan.dtype != packed_dtype(store.dtype, "stored"):
        matches = shard.rows == end - first
    else:
        halves = range(1 + store.flips)
        rows = torch.cat([plan.order[first:end] + half * plan.rows for half in halves])
        matches = np.array_equal(digests, store.digests[rows.numpy()])
    return PackedShard(shard, digests, arrays["errors"]) if matches else None


def measure_conversion(plan: ShardPlan, shards: Sequence[PackedShard]) -> Conversion:
    """The errors of all shards, divided by the standard deviation of the points."""
    largest, squares = _merge_errors(torch.stack([shard.errors for shard in shards])).tolist()
    deviation = float(plan.store.channels.std.square().mean().sqrt()) or 1.0
    values = len(plan.store) * prod(plan.store.shape)
    return Conversion(largest / deviation, (squares / values) ** 0.5 / deviation)


def join_digests(plan: ShardPlan, shards: Sequence[PackedShard]) -> np.ndarray:
    """The digests [N, 16] of all rows in their order, all mirrors after them."""
    halves = [np.split(shard.digests, 1 + plan.store.flips) for shard in shards]
    return np.concatenate([digests for half in zip(*halves, strict=True) for digests in half])


def check_range(plan: ShardPlan) -> None:
    """Refuse a dtype that cannot hold every value, before anything is written."""
    if plan.dtype in (plan.store.dtype, torch.float32) or not plan.dtype.is_floating_point:
        return
    store, bounds = plan.store, plan.store.channels
    mean, std = (value.double() for value in store.normalizer.per_channel(len(bounds.mean)))
    # Bounds of stored values from those of points; the margin covers the rounding of both.
    largest = max(float((bound * std + mean).abs().max()) for bound in (bounds.low, bounds.high))
    if largest < torch.finfo(plan.dtype).max * (1 - 1e-6):
        return
    for rows in torch.arange(len(store)).split(_rows_per_block(plan)):
        stored = compact(store.stored[rows])
        _check_finite(stored.to(plan.dtype), stored, rows)


def _pack_block(plan: ShardPlan, rows: Tensor) -> tuple[Tensor, np.ndarray, Tensor]:
    """A block of rows as it is stored, the digests of its rows, and its errors."""
    stored, digests = plan.store.take_stored(rows)
    packed = stored.to(plan.dtype)
    errors = torch.zeros(2, dtype=torch.float64)
    if plan.dtype not in (stored.dtype, torch.float32):
        _check_finite(packed, stored, rows)
        errors = _measure_errors(packed, stored, plan)
    if packed.dtype != stored.dtype:
        digests = row_digests(packed)
    return packed, digests, errors


def _measure_errors(packed: Tensor, stored: Tensor, plan: ShardPlan) -> Tensor:
    """The largest error of a point, and the sum of all squared errors."""
    _, std = plan.store.normalizer.per_channel(packed.shape[1])
    errors = (packed.double() - stored.double()).reshape(*packed.shape[:2], -1)  # [n, C, k]
    errors /= std.double()[:, None]  # in units of points, which are (stored − mean) / std
    return torch.stack([errors.abs().max(), errors.square().sum()])


def _merge_errors(errors: Tensor) -> Tensor:
    """The errors [2] of several parts from those of each [k, 2]."""
    return torch.stack([errors[:, 0].max(), errors[:, 1].sum()])


def _check_finite(packed: Tensor, stored: Tensor, rows: Tensor) -> None:
    overflows = (~packed.isfinite()).flatten(1).any(1)
    if not overflows.any():
        return
    i = int(overflows.nonzero()[0])
    dtype = str(packed.dtype).removeprefix("torch.")
    raise InputError(
        f"row {int(rows[i])} holds {float(stored[i].abs().max()):g}, which is too large"
        f" for {dtype}; choose --dtype fp32 or stored"
        + (", or bf16" if dtype == "float16" else "")
    )


def _rows_per_block(plan: ShardPlan) -> int:
    """Rows of a block, from the size of a point alone: sums must not depend on free memory."""
    return max(1, BLOCK_VALUES // prod(plan.store.shape))
