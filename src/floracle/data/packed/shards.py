"""Writing the shards of a packed store, one after the other, each once.

A thread gathers, converts and examines the next block of rows while the block before it is hashed
and written. What was found on the way (hashes of rows, errors of conversion) is kept beside the
shard until the store is finished, so that a run that was killed goes on with the next shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from floracle.data.integrity_check import BLOCK_VALUES, DIGEST_BYTES, row_digests
from floracle.data.rows.buffers import read_ahead
from floracle.data.rows.rows import compact
from floracle.data.rows.source_files import explain_read_errors
from floracle.data.rows.tensorfile import read_header
from floracle.run.errors import InputError

from .files import StoreFile, TensorStream, flaw, one_block, stamp, write_tensors
from .manifest import Conversion, shard_name
from .plan import ShardPlan, packed_type
from .reader import UNFINISHED


@dataclass(frozen=True)
class WrittenShard:
    """A finished shard and what was found while it was written."""

    shard: StoreFile
    digests: np.ndarray
    """Of its rows [n, 16], then of their mirrors."""
    errors: Tensor
    """The largest error of a point, and the sum of all squared errors; float64 [2]."""


class _Seen(NamedTuple):
    """What was found in a block of rows."""

    digests: np.ndarray
    errors: Tensor


def write_shard(folder: Path, plan: ShardPlan, number: int) -> WrittenShard:
    """Write one shard and keep what was found."""
    first, end = plan.shards[number]
    rows, twice = end - first, 1 + plan.store.flips
    # in one piece each: small results between large blocks would leave holes in the heap
    found = _Seen(
        np.empty((rows * twice, DIGEST_BYTES), np.uint8), torch.zeros(2, dtype=torch.float64)
    )
    shape = (rows, *plan.store.shape)
    tensors = {"labels": one_block(plan.store.labels[plan.order[first:end]])}
    for half, name in enumerate(("latents", "latents_flip")[:twice]):
        tensors[name] = TensorStream(plan.dtype, shape, _blocks(plan, number, half, found))
    metadata = {"total_size": f"{rows}", "dtype": f"{plan.dtype}", "device": "cpu"}
    sealed = write_tensors(folder, shard_name(number), tensors, metadata)
    written = WrittenShard(replace(sealed, rows=rows), *found)
    _keep(folder, number, written)
    return written


def finished_shard(folder: Path, plan: ShardPlan, number: int) -> WrittenShard | None:
    """A shard that an earlier run finished; None where it is missing or not whole."""
    path = folder / _record(number)
    if not path.is_file():
        return None
    with explain_read_errors(path, "the record of a shard"):
        file = read_header(path)
        shard = StoreFile(**json.loads(file.metadata["shard"]))
        digests, errors = (array[:] for array in file.rows("digests", "errors"))
        seen = json.loads(file.metadata["stamp"])
    there = folder / shard.name
    if not there.is_file() or (stamp(there) != seen and flaw(folder, shard)):
        return None
    written = WrittenShard(shard, digests.numpy(), errors)
    return written if _is_of(plan, number, written) else None


def _is_of(plan: ShardPlan, number: int, written: WrittenShard) -> bool:
    """Whether a shard has the rows of the data as it is now, as far as hashes of rows tell."""
    first, end = plan.shards[number]
    digests, store = plan.store.digests, plan.store
    if digests is None or plan.dtype != packed_type(store.dtype, "stored"):
        return written.shard.rows == end - first
    halves = range(1 + store.flips)
    rows = torch.cat([plan.order[first:end] + half * plan.rows for half in halves])
    return np.array_equal(written.digests, digests[rows.numpy()])


def conversion(plan: ShardPlan, written: Sequence[WrittenShard]) -> Conversion:
    """The errors of all shards over the deviation of the points."""
    largest, squares = _joined(torch.stack([one.errors for one in written])).tolist()
    deviation = float(plan.store.channels.std.square().mean().sqrt()) or 1.0
    values = len(plan.store) * prod(plan.store.shape)
    return Conversion(largest / deviation, (squares / values) ** 0.5 / deviation)


def all_digests(plan: ShardPlan, written: Sequence[WrittenShard]) -> np.ndarray:
    """The hashes [N, 16] of all rows in their order, mirrors after the rest."""
    halves = [np.split(one.digests, 1 + plan.store.flips) for one in written]
    return np.concatenate([half for which in zip(*halves, strict=True) for half in which])


def check_range(plan: ShardPlan) -> None:
    """Refuse a type that some value does not fit, before anything is written."""
    if plan.dtype in (plan.store.dtype, torch.float32) or not plan.dtype.is_floating_point:
        return
    store, found = plan.store, plan.store.channels
    mean, std = (value.double() for value in store.normalizer.per_channel(len(found.mean)))
    largest = max(float((bound * std + mean).abs().max()) for bound in (found.low, found.high))
    if largest < torch.finfo(plan.dtype).max * (1 - 1e-6):
        return
    for rows in torch.arange(len(store)).split(_step(plan)):
        stored = compact(store.stored[rows])
        _check_finite(stored.to(plan.dtype), stored, rows)


def _blocks(plan: ShardPlan, number: int, half: int, found: _Seen) -> Iterator[Tensor]:
    """The rows of a shard, or their mirrors in its second half; what is seen goes to `found`."""
    first, end = plan.shards[number]
    parts = (plan.order[first:end] + half * plan.rows).split(_step(plan))
    start = half * (end - first)
    for packed, seen in read_ahead(map(partial(_block, plan), parts)):
        found.digests[start : start + len(packed)] = seen.digests
        found.errors.copy_(_joined(torch.stack([found.errors, seen.errors])))
        start += len(packed)
        yield packed


def _block(plan: ShardPlan, rows: Tensor) -> tuple[Tensor, _Seen]:
    """A block of rows as it is stored, and what was found in it."""
    stored, digests = plan.store.take_stored(rows)
    packed = stored.to(plan.dtype)
    errors = torch.zeros(2, dtype=torch.float64)
    if plan.dtype not in (stored.dtype, torch.float32):
        _check_finite(packed, stored, rows)
        errors = _errors(packed, stored, plan)
    if packed.dtype != stored.dtype:
        digests = row_digests(packed)
    return packed, _Seen(digests, errors)


def _errors(packed: Tensor, stored: Tensor, plan: ShardPlan) -> Tensor:
    """The largest error of a point, and the sum of all squared errors."""
    _, std = plan.store.normalizer.per_channel(packed.shape[1])
    errors = (packed.double() - stored.double()).reshape(*packed.shape[:2], -1)
    errors /= std.double()[:, None]
    return torch.stack([errors.abs().max(), errors.square().sum()])


def _check_finite(packed: Tensor, stored: Tensor, rows: Tensor) -> None:
    bad = (~packed.isfinite()).flatten(1).any(1)
    if not bad.any():
        return
    place = int(bad.nonzero()[0])
    kind = str(packed.dtype).removeprefix("torch.")
    raise InputError(
        f"row {int(rows[place])} holds {float(stored[place].abs().max()):g}, which is too large"
        f" for {kind}; choose --dtype fp32 or stored" + (", or bf16" if kind == "float16" else "")
    )


def _joined(errors: Tensor) -> Tensor:
    return torch.stack([errors[:, 0].max(), errors[:, 1].sum()])


def _keep(folder: Path, number: int, written: WrittenShard) -> None:
    arrays = {"errors": written.errors, "digests": torch.from_numpy(written.digests)}
    metadata = {
        "shard": json.dumps(asdict(written.shard)),
        "stamp": json.dumps(stamp(folder / written.shard.name)),
    }
    tensors = {name: one_block(array) for name, array in arrays.items()}
    write_tensors(folder, _record(number), tensors, metadata)


def _record(number: int) -> str:
    return f"{UNFINISHED}/shard-{number:05d}.tensors"


def _step(plan: ShardPlan) -> int:
    """Rows of a block, by the size of a point alone: what is found must not depend on memory."""
    return max(1, BLOCK_VALUES // prod(plan.store.shape))
