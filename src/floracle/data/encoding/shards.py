"""Shards of latents, encoded batch by batch and written once each; and what is kept of each.

Batches begin where their shard does, so a shard has the same bits whenever it is written. What was
found on the way lies beside it until the store is finished, and a run that was killed goes on with
the next shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from floracle.core.seeds import generator
from floracle.data.channel_statistics import ChannelStatistics
from floracle.data.packed.files import (
    UNFINISHED,
    StoreFile,
    TensorStream,
    flaw,
    one_block,
    stamp,
    write_tensors,
)
from floracle.data.rows.buffers import read_ahead
from floracle.data.store import Store
from floracle.run.errors import InputError
from floracle.run.files import write_json
from floracle.run.progress import track

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Autoencoder(Protocol):
    """What is asked of an autoencoder; `load_autoencoder` makes such ones."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def channels(self) -> int:
        """Of latents."""
        ...

    @property
    def downsampling(self) -> int:
        """How many pixels a side become one."""
        ...

    @property
    def gaussian(self) -> bool:
        """Whether it gives deviations."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that latents depend on, its weights by a hash; JSON values."""
        ...

    def encode(self, images: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Mean and deviation [b, C, h, w] for pictures [b, 3, H, W] in [−1, 1]."""
        ...

    def decode(self, latents: Tensor, /) -> Tensor:
        """Pictures [b, 3, H, W] of latents [b, C, h, w]."""
        ...


@dataclass(frozen=True)
class EncodingPlan:
    """What is encoded, and how."""

    store: Store
    autoencoder: Autoencoder
    shape: tuple[int, ...]
    """Of one latent."""
    flips: bool
    moments: str
    dtype: torch.dtype
    seed: int
    batch: int
    shard_images: int

    @property
    def shards(self) -> list[Tensor]:
        """The rows of every shard."""
        return list(torch.arange(len(self.store)).split(self.shard_images))

    @property
    def size(self) -> int:
        """Bytes of all latents."""
        values = torch.Size(self.shape).numel() * (1 + self.flips)
        return len(self.store) * (values * self.dtype.itemsize + 8)


@dataclass(frozen=True)
class EncodedShard:
    """A finished shard, and the spread of its latents by channel."""

    shard: StoreFile
    spread: ChannelStatistics


@dataclass
class _Seen:
    """The spreads of the blocks that went by."""

    spreads: list[ChannelStatistics] = field(default_factory=list)


def shard_name(number: int) -> str:
    """As LightningDiT calls it."""
    return f"latents_rank00_shard{number:03d}.safetensors"


def write_shard(folder: Path, work: EncodingPlan, number: int, *, quiet: bool) -> EncodedShard:
    """Encode and write one shard."""
    rows, seen = work.shards[number], _Seen()
    shape = (len(rows), *work.shape)
    tensors = {"labels": one_block(work.store.labels[rows])}
    for half, name in enumerate(("latents", "latents_flip")[: 1 + work.flips]):
        tensors[name] = TensorStream(
            work.dtype, shape, _blocks(work, number, half, seen, quiet=quiet)
        )
    metadata = {"total_size": f"{len(rows)}", "dtype": f"{work.dtype}", "device": "cpu"}
    sealed = write_tensors(folder, shard_name(number), tensors, metadata)
    written = EncodedShard(
        replace(sealed, rows=len(rows)), reduce(ChannelStatistics.merge, seen.spreads)
    )
    _keep(folder, number, written)
    return written


def finished_shard(folder: Path, work: EncodingPlan, number: int) -> EncodedShard | None:
    """A shard that an earlier run finished; None where it is missing or not whole."""
    try:
        found = json.loads((folder / _record(number)).read_text(encoding="utf-8"))
        shard = StoreFile(**found["shard"])
        count, *values = found["spread"]
        spread = ChannelStatistics(
            count, *(torch.tensor(value, dtype=torch.float64) for value in values)
        )
        seen = found["stamp"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = folder / shard.name
    if not there.is_file() or (stamp(there) != seen and flaw(folder, shard)):
        return None
    return EncodedShard(shard, spread) if shard.rows == len(work.shards[number]) else None


def _blocks(
    work: EncodingPlan, number: int, half: int, seen: _Seen, *, quiet: bool
) -> Iterator[Tensor]:
    """The latents of a shard, or of its mirrors in the second half, as they are stored."""
    parts = work.shards[number].split(work.batch)
    read = zip(parts, read_ahead(map(partial(_images, work, half), parts)), strict=True)
    name = f"{'mirrors of ' if half else ''}shard {number + 1} of {len(work.shards)}"
    total = len(work.shards[number])
    for part, images in track(read, name, total, of=lambda one: len(one[0]), quiet=quiet):
        block = _stored(work, _encoded(work, images, part, half), part)
        seen.spreads.append(ChannelStatistics.of_block(block))
        yield block


def _images(work: EncodingPlan, half: int, rows: Tensor) -> Tensor:
    """Pictures [b, 3, H, W] in [−1, 1], mirrored in the second half; grey ones in three equals."""
    images = work.store.normalizer.apply(work.store.take_stored(rows)[0]).expand(-1, 3, -1, -1)
    return (images.flip(-1) if half else images).contiguous()


def _encoded(work: EncodingPlan, images: Tensor, rows: Tensor, half: int) -> Tensor:
    """The mean of every picture, or one draw."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        mean, std = work.autoencoder.encode(images)
    if work.moments == "mean" or std is None:
        return mean.cpu()
    return mean.cpu() + std.cpu() * draws(work.seed, rows, half, work.shape)


def draws(seed: int, rows: Tensor, half: int, shape: tuple[int, ...]) -> Tensor:
    """Noise [b, *shape] of rows, from seed + row; a mirror takes the second draw of its row."""
    drawn = torch.empty(len(rows), *shape)
    for one, row in zip(drawn, rows.tolist(), strict=True):
        source = generator(seed + row)
        for _ in range(1 + half):
            one.normal_(generator=source)
    return drawn


def _stored(work: EncodingPlan, latents: Tensor, rows: Tensor) -> Tensor:
    """Latents in the stored type, all of them finite."""
    expected = (len(rows), *work.shape)
    if tuple(latents.shape) != expected:
        raise InputError(
            f"{work.autoencoder.name} made latents {list(latents.shape)} where"
            f" {list(expected)} were expected; is it declared wrongly?"
        )
    stored = latents.to(work.dtype)
    bad = (~stored.isfinite()).flatten(1).any(1)
    if bad.any():
        place = int(bad.nonzero()[0])
        largest = float(latents[place].abs().max())
        raise InputError(
            f"the latent of image {int(rows[place])} holds {largest:g}, which"
            f" {str(work.dtype).removeprefix('torch.')} cannot hold; choose --dtype fp32, or look"
            " at the picture"
        )
    return stored


def _keep(folder: Path, number: int, written: EncodedShard) -> None:
    spread = written.spread
    values = (spread.mean, spread.squares, spread.low, spread.high)
    write_json(
        folder / _record(number),
        {
            "shard": asdict(written.shard),
            "spread": [spread.count, *(value.tolist() for value in values)],
            "stamp": stamp(folder / written.shard.name),
        },
    )


def _record(number: int) -> str:
    return f"{UNFINISHED}/encoded-{number:05d}.json"
