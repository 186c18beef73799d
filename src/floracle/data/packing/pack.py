"""Packing: any data that opens, rewritten so that it opens at once and is read in order.

Values are unchanged unless a narrower type is requested; then its error is measured. What is
written, and in what order, depends on the data and the settings alone, so a run that is killed
and resumed has the same bytes as one that is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from floracle.data.atoms import ClassIndex
from floracle.data.destination import (
    UNFINISHED,
    DestinationKind,
    as_folder,
    check_destination,
    check_room,
    find_finished,
    open_destination,
    remove_unfinished,
    source_state,
)
from floracle.data.integrity_check import find_first_equal
from floracle.data.layout_registry import companions
from floracle.data.layouts.lightningdit import STATS
from floracle.data.normalize import Normalizer
from floracle.data.packed.class_statistics import read_class_statistics
from floracle.data.packed.files import VERIFIED, read_verified, verified_entries, write_verified
from floracle.data.packed.latent_shards import shard_name, write_stats
from floracle.data.packed.manifest import (
    CLASSES,
    COARSE,
    MANIFEST,
    ROWS,
    PackedManifest,
    read_manifest,
    write_manifest,
)
from floracle.data.packed.reader import check_files, read_rows, stored_rows
from floracle.data.rows.source_files import remove_output_if_changed
from floracle.data.store import compute_fingerprint, open_store, store_of_packed
from floracle.run.budget import memory_budget
from floracle.run.errors import InputError
from floracle.run.progress import track

from .derived import write_class_statistics, write_coarse, write_rows
from .plan import ShardPlan, plan_shards
from .shards import (
    PackedShard,
    check_range,
    find_finished_shard,
    join_digests,
    measure_conversion,
    write_shard,
)

PACKED = DestinationKind(
    verb="pack",
    fingerprint="data",
    manifest=MANIFEST,
    read=read_manifest,
    check=check_files,
    read_source=lambda folder: read_verified(folder).get("source"),
    write_source=lambda folder, source: write_verified(
        folder, read_verified(folder)["files"], source
    ),
)


def pack(
    where: str | Path | Tensor | np.ndarray,
    out: str | Path,
    *,
    dtype: str = "stored",
    shard_bytes: int | str = "1G",
    spectra: bool = True,
    memory: int | str | None = None,
    quiet: bool = False,
    **opening: Any,
) -> PackedManifest:
    """Rewrite data into the folder `out`; the same call again resumes, or answers at once.

    `dtype` is "stored" (lossless), "fp16", "bf16" or "fp32". A shard has at most `shard_bytes`; a
    class is cut only if it alone is larger. `spectra` are those of the covariances, by class and
    of the whole set; they take longer than everything else. `opening` is passed to `open_store`.
    Raises an InputError if the folder, the data or an option does not allow it, or if the data
    changes meanwhile.
    """
    folder, budget = as_folder(out), memory_budget(memory)
    settings = _settings(dtype, shard_bytes, spectra, opening)
    check_destination(folder, where, PACKED)
    source = source_state(where, *companions(where), opening.get("labels"), opening.get("weights"))
    # Twice: data whose files look as before is not even opened.
    if finished := find_finished(folder, PACKED, settings, source):
        return finished
    plan = plan_shards(open_store(where, memory=memory, **opening), dtype, settings["shard_bytes"])
    settings["data"] = plan.store.fingerprint
    if finished := find_finished(folder, PACKED, settings, source):
        return finished
    check_range(plan)
    if spectra:
        _check_spectra_memory(plan, budget)
    check_room(folder, plan.size)
    written_files = partial(_written_files, folder, plan)
    with (
        open_destination(folder, PACKED, settings),
        remove_output_if_changed(plan.store.check_unchanged, written_files),
    ):
        return _write_store(folder, plan, settings, source, quiet=quiet)


def _settings(
    dtype: str, shard_bytes: int | str, spectra: bool, opening: dict[str, Any]
) -> dict[str, Any]:
    """All that the result depends on, without the data; labels and weights are part of that."""
    try:
        size = memory_budget(shard_bytes)
    except InputError as error:
        raise InputError(f"--shard-bytes {shard_bytes!r} is no size; write 512M or 1G") from error
    if not isinstance(spectra, bool):
        raise InputError(f"spectra is True or False, not {spectra!r}")
    normalize = opening.get("normalize", "stored")
    if isinstance(normalize, Normalizer):
        normalize = "a Normalizer"
    options = {name: opening.get(name) for name in ("flips", "layout", "moments")}
    packing = {"dtype": dtype, "shard_bytes": size, "spectra": spectra}
    return {**packing, **options, "normalize": normalize}


def _check_spectra_memory(plan: ShardPlan, budget: int) -> None:
    """Refuse spectra that the memory budget does not allow."""
    # the smaller side of the largest matrix, squared, in float64; four copies at the peak
    needed = 4 * 8 * min(prod(plan.store.shape), len(plan.store)) ** 2
    if needed > budget:
        raise InputError(
            f"the spectra of points {list(plan.store.shape)} need {needed / 2**30:.1f} GiB; pass"
            f" --no-spectra, or --memory {-(-needed // 2**30)}G"
        )


def _write_store(
    folder: Path, plan: ShardPlan, settings: dict[str, Any], source: str | None, *, quiet: bool
) -> PackedManifest:
    """Write all that is missing, the manifest last."""
    # 1. The shards, and with them the digests of all rows.
    numbers = track(range(len(plan.shards)), "packing", len(plan.shards), quiet=quiet)
    shards = [
        find_finished_shard(folder, plan, number) or write_shard(folder, plan, number)
        for number in numbers
    ]
    # 2. Equal rows and the fingerprint, from the digests.
    manifest = _describe(folder, plan, shards, settings)
    # 3. Class statistics and the coarse view, from the packed points.
    packed = read_rows(folder, manifest)
    store = store_of_packed(packed, manifest.name, budget=0)
    spectra = bool(settings["spectra"])
    files = [write_class_statistics(folder, store, manifest, spectra=spectra, quiet=quiet)]
    statistics = read_class_statistics(folder / CLASSES, manifest)
    store = replace(store, packed=replace(packed, class_statistics=statistics))
    if coarse := write_coarse(folder, store, quiet=quiet):
        files.append(coarse)
    normalizer = plan.store.normalizer
    if not normalizer.factors:  # LightningDiT reads a mean and a std, no scale and bias
        files.append(write_stats(folder, *normalizer.per_channel(plan.store.shape[0])))
    manifest = replace(manifest, files=(*manifest.files, *files))
    # 4. The manifest, unless the data changed meanwhile.
    plan.store.check_unchanged()
    write_verified(folder, verified_entries(folder, manifest.all_files), source)
    write_manifest(folder, manifest)
    remove_unfinished(folder)
    return manifest


def _written_files(folder: Path, plan: ShardPlan) -> list[Path]:
    """All that packing writes, but for the settings that say whose the folder is."""
    shards = [shard_name(number) for number in range(len(plan.shards))]
    names = (*shards, ROWS, CLASSES, COARSE, STATS, VERIFIED)
    return [*(folder / name for name in names), *(folder / UNFINISHED).glob("*.tensors")]


def _describe(
    folder: Path, plan: ShardPlan, shards: Sequence[PackedShard], settings: dict[str, Any]
) -> PackedManifest:
    """The manifest of written shards; finds equal rows, and writes the file of rows."""
    store, halves = plan.store, 1 + plan.store.flips
    manifest = PackedManifest(
        name=store.name,
        settings=settings,
        shape=store.shape,
        dtype=plan.dtype,
        rows=plan.rows,
        flips=store.flips,
        spans=plan.spans,
        classes=store.classes,
        fingerprint="",
        picture_range=store.picture_range,
        channels=store.channels,
        duplicates=0,
        weighted=store.weights is not None,
        conversion=measure_conversion(plan, shards),
        remarks=store.remarks,
        shards=tuple(each.shard for each in shards),
        files=(),
    )
    # Equal rows, and the fingerprint, are those of the values as they are packed.
    rows, digests = stored_rows(folder, manifest), join_digests(plan, shards)
    first = find_first_equal(rows, digests)
    weights = None if store.weights is None else store.weights[plan.order].repeat(halves)
    index = ClassIndex(first, store.labels[plan.order].repeat(halves), weights)
    fingerprint = compute_fingerprint(
        rows, digests, index, store.normalizer, channels=store.shape[0], flips=store.flips
    )
    files = (write_rows(folder, plan, first),)
    return replace(manifest, files=files, duplicates=index.duplicates, fingerprint=fingerprint)
