"""The shards and statistics of packed and of encoded stores, in the format of LightningDiT.

While a store is unfinished, each finished shard has a record in `floracle/unfinished`: the shard's
hash and how its file looked, and what was computed on the way. A run that is killed resumes with
the first shard that has no valid record.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from floracle.data.destination import UNFINISHED
from floracle.data.layouts.lightningdit import STATS
from floracle.data.rows.source_files import record_file
from floracle.data.rows.tensorfile import read_header
from floracle.run.files import write_bytes

from .files import StoreFile, TensorStream, find_damage, one_block, sha256_of, write_tensors

LATENTS = ("latents", "latents_flip")
"""The tensors of a shard: latents, then those of the mirrored pictures."""


def shard_name(number: int) -> str:
    """The name of a shard, as LightningDiT names the shards of one process."""
    return f"latents_rank00_shard{number:03d}.safetensors"


def write_latents(
    folder: Path, number: int, labels: Tensor, latents: Sequence[TensorStream]
) -> StoreFile:
    """Write a shard: labels int64 [n] and latents [n, *shape], with their mirrors if there are."""
    tensors = {"labels": one_block(labels), **dict(zip(LATENTS, latents, strict=False))}
    metadata = {"total_size": f"{len(labels)}", "dtype": f"{latents[0].dtype}", "device": "cpu"}
    shard = write_tensors(folder, shard_name(number), tensors, metadata)
    return replace(shard, rows=len(labels))


def write_stats(folder: Path, mean: Tensor, std: Tensor) -> StoreFile:
    """Write mean and std [C] of the channels, each as float32 [1, C, 1, 1]."""
    stats = {
        name: value.float().reshape(1, -1, 1, 1).clone()
        for name, value in (("mean", mean), ("std", std))
    }
    content = io.BytesIO()
    torch.save(stats, content)
    write_bytes(folder / STATS, content.getvalue())
    return StoreFile(STATS, len(content.getvalue()), sha256_of(folder / STATS))


def write_shard_record(
    folder: Path, number: int, shard: StoreFile, arrays: Mapping[str, Tensor]
) -> None:
    """Record that a shard is finished, with what was computed on the way; wide types first."""
    facts = {"shard": asdict(shard), "stamp": list(record_file(folder / shard.name))}
    metadata = {name: json.dumps(fact) for name, fact in facts.items()}
    tensors = {name: one_block(array) for name, array in arrays.items()}
    write_tensors(folder, _record_name(number), tensors, metadata)


def read_shard_record(folder: Path, number: int) -> tuple[StoreFile, dict[str, Tensor]] | None:
    """A finished shard and the arrays of its record; None if either is missing or damaged."""
    try:
        record = read_header(folder / _record_name(number))
        shard = StoreFile(**json.loads(record.metadata["shard"]))
        state = json.loads(record.metadata["stamp"])
        arrays = {name: record.rows(name)[0][:] for name in record.entries}
    except (OSError, ValueError, KeyError, TypeError, IndexError):  # the shard is written again
        return None
    path = folder / shard.name
    # a shard that looks unchanged is not hashed: hashing takes as long as reading it
    if not path.is_file() or (list(record_file(path)) != state and find_damage(folder, shard)):
        return None
    return shard, arrays


def remove_shards(folder: Path, count: int) -> None:
    """Remove the first `count` shards and their records."""
    for number in range(count):
        for name in (shard_name(number), _record_name(number)):
            (folder / name).unlink(missing_ok=True)


def _record_name(number: int) -> str:
    return f"{UNFINISHED}/shard-{number:05d}.tensors"
