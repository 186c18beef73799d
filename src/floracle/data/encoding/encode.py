"""Encoding: images as latents, in the layout that LightningDiT trains from.

Any autoencoder can be used that says how it encodes. What is written depends on the images, the
autoencoder and the settings alone: the draw of latent i comes from seed + i, batches begin where
their shard does, and a run that is killed and resumed has the same bytes as one that is not. The
statistics are those of everything that is stored, mirrors included.

Several processes divide the missing shards among them; the first one completes the store.
"""

from __future__ import annotations

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
    as_folder,
    check_destination,
    check_room,
    find_finished,
    open_destination,
    remove_unfinished,
    source_state,
)
from floracle.data.layout_registry import companions
from floracle.data.packed.latent_shards import remove_shards, write_stats
from floracle.data.rows.source_files import RUN_AGAIN, Changed, find_change
from floracle.data.store import Store, open_store
from floracle.run.errors import InputError, suggestion
from floracle.run.exchange import barrier, broadcast_from_first, check_same, gather
from floracle.run.files import digest
from floracle.run.processes import ALONE, ProcessGroup, contiguous_share
from floracle.version import VERSION

from .manifest import ENCODED, EncodedManifest, read_manifest, write_manifest
from .shards import (
    DTYPES,
    EncodedShard,
    EncodingPlan,
    ImageEncoder,
    find_finished_shard,
    write_shard,
)

CHOICES = {"moments": ("mean", "sample"), "dtype": tuple(DTYPES)}
MIN_STD = 1e-6
"""A channel that does not vary is divided by this, so that its points are 0 and not NaN."""


def encode(
    where: str | Path | Tensor | np.ndarray,
    out: str | Path,
    autoencoder: ImageEncoder,
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
    """Encode images into the folder `out`; the same call again resumes, or answers at once.

    A latent is the autoencoder's "mean", or one draw from its Gaussian ("sample"), that of image i
    from seed + i. `flips` stores the latent of every mirrored image as well. `batch` images are
    encoded together, and a file holds `shard_images`, which is the most that a killed run loses.
    Every process of a `group` passes the same arguments, sees the same folder and returns the
    same manifest. Raises an InputError if the folder, the images or an option does not allow it,
    or if the images change meanwhile.
    """
    folder = as_folder(out)
    options = {"flips": flips, "moments": moments, "dtype": dtype, "batch": batch}
    settings = _settings(autoencoder, {**options, "seed": seed, "shard_images": shard_images})
    if group.first:
        check_destination(folder, where, ENCODED)
    source = source_state(where, *companions(where), labels)
    # Twice: images whose files look as before are not even opened.
    if finished := _find_finished(folder, settings, source, group):
        return finished
    store = open_store(where, labels=labels, flips=False if flips else None, memory=memory)
    shape = latent_shape(store, autoencoder)
    settings["images"] = store.fingerprint
    barrier(group)  # reading all images may take one process much longer than another
    settings_digest = digest(json.dumps(settings, sort_keys=True))
    check_same(group, {"images": digest(store.fingerprint), "settings": settings_digest})
    if finished := _find_finished(folder, settings, source, group):
        return finished
    if not 0 <= seed <= 2**32 - len(store):
        raise InputError(
            f"--seed must be in 0 … {2**32 - len(store)} for {len(store)} images, got {seed}"
        )
    plan = EncodingPlan(
        store, autoencoder, shape, flips, moments, DTYPES[dtype], seed, batch, shard_images
    )
    if group.first:
        check_room(folder, plan.size)
    with open_destination(folder, ENCODED, settings, group):
        shards = _write_missing_shards(folder, plan, group, quiet=quiet)
        if group.first:
            _write_store(folder, plan, settings, shards, source=source)
        barrier(group)
        return read_manifest(folder)


def latent_shape(store: Store, autoencoder: ImageEncoder) -> tuple[int, ...]:
    """The shape of one latent; refuses what the autoencoder cannot encode."""
    if store.picture_range != (-1.0, 1.0) or len(store.shape) != 3:
        kind, low, high = str(store.dtype), store.channels.low.min(), store.channels.high.max()
        raise InputError(
            f"{store.name} holds no pictures of bytes, or of floats in -1 ... 1, but points"
            f" {list(store.shape)} of {kind.removeprefix('torch.')} {low:.4g} ... {high:.4g};"
            " store pictures as uint8"
        )
    channels, *sides = store.shape
    if channels not in (1, 3):
        raise InputError(f"{store.name} holds images of {channels} channels; RGB or grey belong")
    factor = autoencoder.downsampling
    if any(side % factor for side in sides):
        raise InputError(
            f"{store.name} holds images of {sides[0]} × {sides[1]}, and {autoencoder.name}"
            f" needs sides that are multiples of {factor}; crop or resize them"
        )
    return (autoencoder.channels, *(side // factor for side in sides))


def _settings(autoencoder: ImageEncoder, options: dict[str, Any]) -> dict[str, Any]:
    """All that the result depends on, without the images."""
    for name, choices in CHOICES.items():
        if options[name] not in choices:
            raise InputError(
                f"{name} {options[name]!r} is unknown; {suggestion(options[name], choices)}"
            )
    if not isinstance(options["flips"], bool):
        raise InputError(f"flips is True or False, not {options['flips']!r}")
    for name in ("seed", "batch", "shard_images"):
        if not isinstance(options[name], int) or isinstance(options[name], bool):
            raise InputError(f"{name} is a whole number, not {options[name]!r}")
    for name in ("batch", "shard_images"):
        if options[name] < 1:
            raise InputError(f"--{name.replace('_', '-')} is at least 1, got {options[name]}")
    if options["moments"] == "sample" and not autoencoder.gaussian:
        raise InputError(
            f"{autoencoder.name} has one latent for an image, and no deviation to draw with;"
            " leave --moments out"
        )
    if options["moments"] == "mean":
        options = {**options, "seed": None}  # the result does not depend on it
    weights = {f"autoencoder {name}": value for name, value in autoencoder.settings.items()}
    return {"verb": "encode", **weights, **options}


def _find_finished(
    folder: Path, settings: dict[str, Any], source: str | None, group: ProcessGroup
) -> EncodedManifest | None:
    """The finished store of these settings, if there is one; the first process decides."""
    manifest = find_finished(folder, ENCODED, settings, source) if group.first else None
    if not broadcast_from_first(group, [manifest is not None])[0]:
        return None
    return manifest or read_manifest(folder)


def _write_missing_shards(
    folder: Path, plan: EncodingPlan, group: ProcessGroup, *, quiet: bool
) -> list[EncodedShard]:
    """All shards, for the first process; none for the others."""
    # 1. The first process says which shards are missing.
    numbers = range(len(plan.shards))
    shards: list[EncodedShard | None] = [None] * len(numbers)
    if group.first:
        shards = [find_finished_shard(folder, plan, number) for number in numbers]
    barrier(group)
    finished = broadcast_from_first(group, [shard is not None for shard in shards])
    missing = [number for number in numbers if not finished[number]]
    # 2. Each process writes its share of them.
    change = None
    try:
        for number in missing[contiguous_share(len(missing), group)]:
            shards[number] = write_shard(folder, plan, number, quiet=quiet)
        plan.store.check_unchanged()
    except InputError as error:
        change = find_change(error, plan.store.check_unchanged)
        if change is None:
            raise
    barrier(group)
    _refuse_change(folder, plan, change, group)
    # 3. The first process reads the records that the others wrote.
    if not group.first:
        return []
    for number in numbers:
        shards[number] = shards[number] or find_finished_shard(folder, plan, number)
        if shards[number] is None:
            raise InputError(
                f"shard {number + 1} of {len(plan.shards)}, which another process has written, is"
                f" missing in {folder} or damaged; all machines must share that folder"
            )
    return [shard for shard in shards if shard is not None]


def _refuse_change(
    folder: Path, plan: EncodingPlan, change: Changed | None, group: ProcessGroup
) -> None:
    """If the images have changed for one process, end all of them and remove all shards.

    The shards may be of two states of the images; without them the same command begins again.
    """
    changes = gather([torch.tensor([change is not None])], group, what="changes of images")
    if not any(bool(changed) for (changed,) in changes):
        return
    if group.first:
        remove_shards(folder, len(plan.shards))
    barrier(group)
    raise change or Changed(f"{plan.store.name} changed for another process; {RUN_AGAIN}")


def _write_store(
    folder: Path,
    plan: EncodingPlan,
    settings: dict[str, Any],
    shards: Sequence[EncodedShard],
    *,
    source: str | None,
) -> None:
    """Make a store of all shards, the manifest last."""
    statistics = reduce(ChannelStatistics.merge, (shard.statistics for shard in shards))
    std = statistics.std.clamp(min=MIN_STD)
    stats = write_stats(folder, statistics.mean, std)
    manifest = EncodedManifest(
        settings=settings,
        images=len(plan.store),
        shape=plan.shape,
        classes=plan.store.classes,
        mean=tuple(statistics.mean.tolist()),
        std=tuple(std.tolist()),
        fingerprint=digest(*(shard.shard.sha256 for shard in shards)),
        files=(*(shard.shard for shard in shards), stats),
        made={"floracle": VERSION, "torch": torch.__version__},
    )
    write_manifest(folder, manifest, source)
    remove_unfinished(folder)
