"""Packing: any data that opens, rewritten so that it opens at once and is read in order.

Values stay what they are unless a narrower type is asked for; then the error is measured. What is
written, and in what order, depends on the data and the settings alone, so a run that was killed
and went on has the same bytes as one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from torch import Tensor

from floracle.data.atoms import ClassIndex
from floracle.data.destination import (
    DestinationKind,
    check_destination,
    check_room,
    find_finished,
    remove_unfinished,
    source_stamp,
    unfinished,
    writing,
)
from floracle.data.integrity_check import find_first_equal
from floracle.data.layouts.registry import companions
from floracle.data.normalize import Normalizer
from floracle.data.rows.source_files import remove_output_if_changed
from floracle.data.store import compute_fingerprint, open_store, store_of_packed
from floracle.run.budget import memory_budget
from floracle.run.errors import InputError
from floracle.run.progress import track

from .class_statistics import read_class_statistics
from .derived import spectra_bytes, write_classes, write_coarse, write_rows, write_stats
from .files import RECORD, UNFINISHED, read_record, remember_source, stamps_of, write_record
from .manifest import (
    CLASSES,
    COARSE,
    MANIFEST,
    ROWS,
    STATS,
    PackedManifest,
    read_manifest,
    shard_name,
    write_manifest,
)
from .plan import ShardPlan, plan_shards
from .reader import check_files, read_rows, stored_rows
from .shards import WrittenShard, all_digests, check_range, conversion, finished_shard, write_shard

PACKED = DestinationKind(
    verb="pack",
    doing="packing",
    done="packed",
    data="data",
    fingerprint="data",
    manifest=MANIFEST,
    read=read_manifest,
    check=check_files,
    source=lambda folder: read_record(folder).get("source"),
    remember=lambda folder, _, source: remember_source(folder, source),
)


class PackedSource(TypedDict, total=False):
    """How the data is read; see `open_store`."""

    labels: Any
    flips: bool | None
    normalize: str | float | Normalizer
    layout: str | None
    moments: str | None
    weights: Any


def pack(
    where: str | Path | Tensor | np.ndarray,
    out: str | Path,
    *,
    dtype: str = "stored",
    shard_bytes: int | str = "1G",
    spectra: bool = True,
    memory: int | str | None = None,
    quiet: bool = False,
    **opening: Unpack[PackedSource],
) -> PackedManifest:
    """Rewrite data into the folder `out`; the same call again goes on, or answers at once.

    `dtype` is "stored" (lossless), "fp16", "bf16" or "fp32". A shard holds at most `shard_bytes`,
    and a class lies in one shard unless it alone is larger. `spectra` are those of the
    covariances, by class and of everything; they take longer than all else.
    """
    folder, budget = Path(out).expanduser(), memory_budget(memory)
    settings = _settings(dtype, _shard_size(shard_bytes), spectra, opening)
    check_destination(folder, where, PACKED)
    given = opening.get("labels"), opening.get("weights")
    source = source_stamp(where, *companions(where), *given)
    if done := find_finished(folder, PACKED, settings, source):
        return done
    plan = plan_shards(open_store(where, memory=memory, **opening), dtype, settings["shard_bytes"])
    settings["data"] = plan.store.fingerprint
    if done := find_finished(folder, PACKED, settings, source):
        return done
    check_range(plan)
    _check_memory(plan, budget if spectra else None)
    check_room(folder, plan.size)
    with (
        writing(folder, PACKED),
        unfinished(folder, PACKED, settings),
        remove_output_if_changed(plan.store.check_unchanged, partial(_files, folder, plan)),
    ):
        return _packed(folder, plan, settings, source, quiet=quiet)


def _settings(
    dtype: str,
    shard_bytes: int,
    spectra: bool,
    opening: PackedSource,
) -> dict[str, Any]:
    """What the outcome depends on, but for the data; labels and weights are part of that."""
    normalize = opening.get("normalize", "stored")
    if isinstance(normalize, Normalizer):
        normalize = "a Normalizer"
    said = {name: opening.get(name) for name in ("flips", "layout", "moments")}
    chosen = {"dtype": dtype, "shard_bytes": shard_bytes, "spectra": spectra}
    return {**chosen, **said, "normalize": normalize}


def _shard_size(asked: int | str) -> int:
    try:
        return memory_budget(asked)
    except InputError as mistake:
        raise InputError(f"--shard-bytes {asked!r} is no size; write 512M or 1G") from mistake


def _check_memory(plan: ShardPlan, budget: int | None) -> None:
    """Refuse spectra that the budget does not allow."""
    needed = spectra_bytes(plan.store.shape, len(plan.store))
    if budget is not None and needed > budget:
        raise InputError(
            f"the spectra of points {list(plan.store.shape)} need {needed / 2**30:.1f} GiB; say"
            f" --no-spectra, or --memory {-(-needed // 2**30)}G"
        )


def _packed(
    folder: Path, plan: ShardPlan, settings: dict[str, Any], source: str | None, *, quiet: bool
) -> PackedManifest:
    """Write everything that is missing, the manifest last."""
    numbers = track(range(len(plan.shards)), "packing", len(plan.shards), quiet=quiet)
    written = [
        finished_shard(folder, plan, number) or write_shard(folder, plan, number)
        for number in numbers
    ]
    manifest = _with_atoms(folder, plan, written, _draft(plan, written, settings))
    packed = read_rows(folder, manifest)
    store = store_of_packed(packed, manifest.name, budget=0)
    spectra = bool(settings["spectra"])
    classes = write_classes(folder, store, manifest, spectra=spectra, quiet=quiet)
    statistics = read_class_statistics(folder / CLASSES, manifest)
    known = replace(store, packed=replace(packed, class_statistics=statistics))
    others = (write_coarse(folder, known, quiet=quiet), write_stats(folder, plan))
    files = (*manifest.files, classes, *(file for file in others if file is not None))
    manifest = replace(manifest, files=files)
    plan.store.check_unchanged()
    write_record(folder, manifest.sealed, stamps_of(folder, manifest.sealed), source)
    write_manifest(folder, manifest)
    remove_unfinished(folder)
    return manifest


def _files(folder: Path, plan: ShardPlan) -> list[Path]:
    """All that packing writes, but for what says whose the folder is."""
    shards = [shard_name(number) for number in range(len(plan.shards))]
    names = (*shards, ROWS, CLASSES, COARSE, STATS, RECORD)
    return [*(folder / name for name in names), *(folder / UNFINISHED).glob("*.tensors")]


def _draft(
    plan: ShardPlan, written: Sequence[WrittenShard], settings: dict[str, Any]
) -> PackedManifest:
    """What is known once all shards are written."""
    store = plan.store
    return PackedManifest(
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
        conversion=conversion(plan, written),
        remarks=store.remarks,
        shards=tuple(one.shard for one in written),
        files=(),
    )


def _with_atoms(
    folder: Path, plan: ShardPlan, written: Sequence[WrittenShard], draft: PackedManifest
) -> PackedManifest:
    """Find equal rows among those written, and with them the fingerprint."""
    store, digests = plan.store, all_digests(plan, written)
    rows = stored_rows(folder, draft)
    first = find_first_equal(rows, digests)
    sealed = write_rows(folder, plan, first)
    again = 1 + store.flips
    weights = None if store.weights is None else store.weights[plan.order].repeat(again)
    groups = ClassIndex(first, store.labels[plan.order].repeat(again), weights)
    fingerprint = compute_fingerprint(
        rows, digests, groups, store.normalizer, channels=store.shape[0], flips=store.flips
    )
    return replace(draft, files=(sealed,), duplicates=groups.duplicates, fingerprint=fingerprint)
