"""Encoding: pictures as latents, in the layout that LightningDiT trains from.

Any autoencoder does that says how it encodes. What is written depends on the pictures, on the
autoencoder and on the settings alone: latent i, where it is drawn, comes from seed + i, batches
begin where their shard does, and a run that was killed and went on has the same bytes as one that
was not. The statistics are those of everything that is stored, mirrors among it.

Several processes divide the shards that are missing; the first one makes the store of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from floracle.data.channel_statistics import ChannelStatistics
from floracle.data.destination import (
    check_destination,
    check_room,
    find_finished,
    remove_unfinished,
    source_stamp,
    unfinished,
    writing,
)
from floracle.data.layouts.lightningdit import STATS
from floracle.data.layouts.registry import companions
from floracle.data.packed.files import UNFINISHED, StoreFile, sha256_of
from floracle.data.rows.source_files import RUN_AGAIN, Changed, find_change
from floracle.data.store import Store, open_store
from floracle.run.errors import InputError, suggestion
from floracle.run.exchange import barrier, broadcast_from_first, check_same, gather
from floracle.run.files import digest, write_bytes
from floracle.run.images import quantise
from floracle.run.processes import ALONE, ProcessGroup, contiguous_share
from floracle.version import VERSION

from .manifest import ENCODED, EncodedManifest, read_manifest, write_manifest
from .shards import (
    DTYPES,
    Autoencoder,
    EncodedShard,
    EncodingPlan,
    finished_shard,
    shard_name,
    write_shard,
)

MOMENTS = ("mean", "sample")
LEAST_STD = 1e-6
"""A channel that does not vary is divided by this at least."""


def encode(
    where: str | Path | Tensor | np.ndarray,
    out: str | Path,
    autoencoder: Autoencoder,
    *,
    labels: Any = None,
    flips: bool = False,
    moments: Literal["mean", "sample"] = "mean",
    dtype: str = "fp32",
    seed: int = 0,
    batch: int = 16,
    shard_images: int = 1000,
    memory: int | str | None = None,
    quiet: bool = False,
    group: ProcessGroup = ALONE,
) -> EncodedManifest:
    """Encode pictures into the folder `out`; the same call again goes on, or answers at once.

    A latent is the autoencoder's `mean`, or one draw ("sample") from its Gaussian, image i's from
    seed + i. `flips` stores the latent of every mirrored picture as well. `batch` pictures are
    encoded together, and a file holds `shard_images`, which is what a killed run can lose.
    Every process of a `group` asks for the same, sees the same folder and returns the same.
    """
    folder = Path(out).expanduser()
    chosen = {"flips": flips, "moments": moments, "dtype": dtype, "batch": batch}
    settings = _settings(autoencoder, {**chosen, "seed": seed, "shard_images": shard_images})
    if group.first:
        check_destination(folder, where, ENCODED)
    source = source_stamp(where, *companions(where), labels)
    if done := _answered(folder, settings, source, group):
        return done
    store = open_store(where, labels=labels, flips=False if flips else None, memory=memory)
    shape = latent_shape(store, autoencoder)
    settings["images"] = store.fingerprint
    barrier(group)  # reading all pictures may take one process much longer than another
    check_same(group, {"pictures": digest(store.fingerprint), "settings": _hashed(settings)})
    if done := _answered(folder, settings, source, group):
        return done
    _check_seed(seed, len(store))
    kind = DTYPES[dtype]
    work = EncodingPlan(store, autoencoder, shape, flips, moments, kind, seed, batch, shard_images)
    if group.first:
        check_room(folder, work.size)
    with writing(folder, ENCODED), unfinished(folder, ENCODED, settings, group):
        written = _shards(folder, work, settings, group, quiet=quiet)
        if group.first:
            _finish(folder, work, settings, written, source=source)
        barrier(group)
        return read_manifest(folder)


def decoded(autoencoder: Autoencoder, store: Store, rows: Tensor) -> Tensor:
    """Rows of an encoded store as pictures: bytes [b, 3, H, W]."""
    latents = store.normalizer.invert(store.take(rows))
    return quantise(autoencoder.decode(latents).float().cpu())


def latent_shape(store: Store, autoencoder: Autoencoder) -> tuple[int, ...]:
    """The shape of one latent; refuses what the autoencoder cannot encode."""
    if store.picture_range != (-1.0, 1.0) or len(store.shape) != 3:
        raise InputError(f"{store.name} holds no pictures, but points {list(store.shape)}")
    channels, *sides = store.shape
    if channels not in (1, 3):
        raise InputError(f"{store.name} holds pictures of {channels} channels; RGB or grey belong")
    factor = autoencoder.downsampling
    if any(side % factor for side in sides):
        raise InputError(
            f"{store.name} holds pictures of {sides[0]} × {sides[1]}, and {autoencoder.name}"
            f" needs edges that are multiples of {factor}; crop or resize them"
        )
    return (autoencoder.channels, *(side // factor for side in sides))


def _settings(autoencoder: Autoencoder, chosen: dict[str, Any]) -> dict[str, Any]:
    """All that the outcome depends on, but for the pictures."""
    for name, known in (("moments", MOMENTS), ("dtype", tuple(DTYPES))):
        if chosen[name] not in known:
            raise InputError(
                f"there is no {name} {chosen[name]!r}; {suggestion(chosen[name], known)}"
            )
    for name in ("batch", "shard_images"):
        if chosen[name] < 1:
            raise InputError(f"--{name.replace('_', '-')} is at least 1, got {chosen[name]}")
    if chosen["moments"] == "sample" and not autoencoder.gaussian:
        raise InputError(
            f"{autoencoder.name} has one latent for a picture, and no deviation to draw with;"
            " leave --moments out"
        )
    if chosen["moments"] == "mean":
        chosen = {**chosen, "seed": None}
    made_by = {f"autoencoder {name}": value for name, value in autoencoder.settings.items()}
    return {"verb": "encode", **made_by, **chosen}


def _check_seed(seed: int, count: int) -> None:
    if not 0 <= seed <= 2**32 - count:
        raise InputError(f"--seed lies in 0 … {2**32 - count} for {count} pictures, got {seed}")


def _hashed(settings: dict[str, Any]) -> str:
    return digest(json.dumps(settings, sort_keys=True))


def _answered(
    folder: Path, settings: dict[str, Any], source: str | None, group: ProcessGroup
) -> EncodedManifest | None:
    """The finished store, if there is one for these settings; the first process looks."""
    found = find_finished(folder, ENCODED, settings, source) if group.first else None
    if not broadcast_from_first(group, [found is not None])[0]:
        return None
    return found or read_manifest(folder)


def _shards(
    folder: Path, work: EncodingPlan, settings: dict[str, Any], group: ProcessGroup, *, quiet: bool
) -> list[EncodedShard]:
    """Every shard; those that are missing are divided among the processes and written."""
    numbers = range(len(work.shards))
    found: list[EncodedShard | None] = [None] * len(numbers)
    if group.first:
        found = [finished_shard(folder, work, number) for number in numbers]
    barrier(group)
    there = broadcast_from_first(group, [one is not None for one in found])
    missing = [number for number in numbers if not there[number]]
    change = None
    try:
        for number in missing[contiguous_share(len(missing), group)]:
            found[number] = write_shard(folder, work, number, quiet=quiet)
        work.store.check_unchanged()
    except InputError as error:
        change = find_change(error, work.store.check_unchanged)
        if change is None:
            raise
    barrier(group)
    _refuse_change(folder, work, change, group)
    if not group.first:
        return []
    return [one or _of_another(folder, work, number) for number, one in enumerate(found)]


def _refuse_change(
    folder: Path, work: EncodingPlan, change: Changed | None, group: ProcessGroup
) -> None:
    """End everywhere where the pictures have changed for one process, and remove all shards.

    They may be of two states of the pictures; without them the same command begins again.
    """
    every = gather([torch.tensor([change is not None])], group, what="changes of pictures")
    if not any(bool(changed) for (changed,) in every):
        return
    if group.first:
        for number in range(len(work.shards)):
            (folder / shard_name(number)).unlink(missing_ok=True)
        for path in (folder / UNFINISHED).glob("encoded-*.json"):
            path.unlink()
    barrier(group)
    raise change or Changed(f"{work.store.name} changed for another process; {RUN_AGAIN}")


def _of_another(folder: Path, work: EncodingPlan, number: int) -> EncodedShard:
    """A shard that another process has just written."""
    written = finished_shard(folder, work, number)
    if written is None:
        raise InputError(
            f"shard {number + 1} of {len(work.shards)}, which another process has written, is not"
            f" in {folder} or not whole; all machines must share that folder"
        )
    return written


def _finish(
    folder: Path,
    work: EncodingPlan,
    settings: dict[str, Any],
    written: Sequence[EncodedShard],
    *,
    source: str | None,
) -> None:
    """Make a store of all shards, the manifest last."""
    spread = reduce(ChannelStatistics.merge, (one.spread for one in written))
    std = spread.std.clamp(min=LEAST_STD)
    stats = _write_stats(folder, spread.mean, std)
    encoded = EncodedManifest(
        settings=settings,
        images=len(work.store),
        shape=work.shape,
        classes=work.store.classes,
        mean=tuple(spread.mean.tolist()),
        std=tuple(std.tolist()),
        fingerprint=_fingerprint(written),
        files=(*(one.shard for one in written), stats),
        made={"floracle": VERSION, "torch": torch.__version__},
    )
    write_manifest(folder, encoded, source)
    remove_unfinished(folder)


def _write_stats(folder: Path, mean: Tensor, std: Tensor) -> StoreFile:
    """Mean and std as LightningDiT keeps them, [1, C, 1, 1] each."""
    stats = {
        name: value.float().reshape(1, -1, 1, 1).clone()
        for name, value in (("mean", mean), ("std", std))
    }
    content = io.BytesIO()
    torch.save(stats, content)
    write_bytes(folder / STATS, content.getvalue())
    return StoreFile(STATS, len(content.getvalue()), sha256_of(folder / STATS))


def _fingerprint(written: Sequence[EncodedShard]) -> str:
    return digest(*(one.shard.sha256 for one in written))
