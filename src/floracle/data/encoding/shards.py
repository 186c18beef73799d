"""Shards of latents, encoded batch by batch and written once each.

Batches begin where their shard does, so a shard has the same bits whenever it is written, and a
run that is killed resumes with the next shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial, reduce
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from floracle.core.seeds import generator
from floracle.data.channel_statistics import ChannelStatistics
from floracle.data.packed.files import StoreFile, TensorStream
from floracle.data.packed.latent_shards import read_shard_record, write_latents, write_shard_record
from floracle.data.rows.buffers import read_ahead
from floracle.data.store import Store
from floracle.run.errors import InputError
from floracle.run.progress import track

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class ImageEncoder(Protocol):
    """An autoencoder as far as encoding needs it; `load_autoencoder` makes such objects."""

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
        """Pixels per latent position, along each side."""
        ...

    @property
    def gaussian(self) -> bool:
        """Whether it gives standard deviations."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that latents depend on, weights as a hash; JSON values."""
        ...

    def encode(self, images: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation [b, C, h, w] of images [b, 3, H, W] in [−1, 1]."""
        ...


@dataclass(frozen=True)
class EncodingPlan:
    """What is encoded, and how."""

    store: Store
    autoencoder: ImageEncoder
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
        """Bytes of all latents and labels."""
        values = torch.Size(self.shape).numel() * (1 + self.flips)
        return len(self.store) * (values * self.dtype.itemsize + 8)


@dataclass(frozen=True)
class EncodedShard:
    """A finished shard, and the statistics of its latents by channel."""

    shard: StoreFile
    statistics: ChannelStatistics


def write_shard(folder: Path, plan: EncodingPlan, number: int, *, quiet: bool) -> EncodedShard:
    """Encode one shard; write it and its record."""
    rows = plan.shards[number]
    block_statistics: list[ChannelStatistics] = []

    def blocks(half: int) -> Iterator[Tensor]:
        """The latents of the shard, or of its mirrors in the second half, as they are stored."""
        batches = rows.split(plan.batch)
        # a thread reads the images of the next batch while this one is encoded
        pairs = zip(
            batches, read_ahead(map(partial(_read_images, plan, half), batches)), strict=True
        )
        name = f"{'mirrors of ' if half else ''}shard {number + 1} of {len(plan.shards)}"
        progress = track(pairs, name, len(rows), of=lambda pair: len(pair[0]), quiet=quiet)
        for batch_rows, images in progress:
            block = _as_stored(plan, _encode_batch(plan, images, batch_rows, half), batch_rows)
            block_statistics.append(ChannelStatistics.of_block(block))
            yield block

    shape = (len(rows), *plan.shape)
    latents = [TensorStream(plan.dtype, shape, blocks(half)) for half in range(1 + plan.flips)]
    shard = write_latents(folder, number, plan.store.labels[rows], latents)
    statistics = reduce(ChannelStatistics.merge, block_statistics)
    write_shard_record(folder, number, shard, _to_arrays(statistics))
    return EncodedShard(shard, statistics)


def find_finished_shard(folder: Path, plan: EncodingPlan, number: int) -> EncodedShard | None:
    """A shard that an earlier run or another process finished; None if missing or damaged."""
    record = read_shard_record(folder, number)
    if record is None or record[0].rows != len(plan.shards[number]):
        return None
    shard, arrays = record
    return EncodedShard(shard, ChannelStatistics(int(arrays["count"]), *arrays["channels"]))


def _to_arrays(statistics: ChannelStatistics) -> dict[str, Tensor]:
    """The count and, in the order of the fields, the statistics of channels, float64 [4, C]."""
    count, *channels = (getattr(statistics, field.name) for field in fields(statistics))
    return {"count": torch.tensor([count]), "channels": torch.stack(channels)}


def _read_images(plan: EncodingPlan, half: int, rows: Tensor) -> Tensor:
    """Images [b, 3, H, W] in [−1, 1], mirrored in the second half; grey ones in three channels."""
    stored, _ = plan.store.take_stored(rows)
    images = plan.store.normalizer.apply(stored).expand(-1, 3, -1, -1)
    return (images.flip(-1) if half else images).contiguous()


def _encode_batch(plan: EncodingPlan, images: Tensor, rows: Tensor, half: int) -> Tensor:
    """The mean of every image's latent, or one draw from its Gaussian; [b, *shape]."""
    # Without these, a latent depends on the GPU's choice of algorithm and on the batch before it.
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        mean, std = plan.autoencoder.encode(images)
    if plan.moments == "mean" or std is None:
        return mean.cpu()
    noise = torch.empty(len(rows), *plan.shape)
    for latent_noise, row in zip(noise, rows.tolist(), strict=True):
        source = generator(plan.seed + row)
        for _ in range(1 + half):  # a mirror takes the second draw of its image's generator
            latent_noise.normal_(generator=source)
    return mean.cpu() + std.cpu() * noise


def _as_stored(plan: EncodingPlan, latents: Tensor, rows: Tensor) -> Tensor:
    """Latents in the stored type, all of them finite."""
    expected = (len(rows), *plan.shape)
    if tuple(latents.shape) != expected:
        raise InputError(
            f"{plan.autoencoder.name} made latents {list(latents.shape)}, and its declared"
            f" channels and downsampling imply {list(expected)}; correct the declaration"
        )
    stored = latents.to(plan.dtype)
    overflows = (~stored.isfinite()).flatten(1).any(1)
    if overflows.any():
        i = int(overflows.nonzero()[0])
        raise InputError(
            f"the latent of image {int(rows[i])} holds {float(latents[i].abs().max()):g}, which"
            f" {str(plan.dtype).removeprefix('torch.')} cannot hold; choose --dtype fp32, or look"
            " at the image"
        )
    return stored
