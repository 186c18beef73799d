"""Packed stores: points sorted by class in shards, with all that opening would look for.

    OUT/latents_rank00_shard000.safetensors …   latents, latents_flip, labels, as in LightningDiT
    OUT/latents_stats.pt               mean and std, where points are (stored − mean) / std
    OUT/floracle/manifest.json         what it is; size and SHA-256 of every file
    OUT/floracle/rows.tensors          numbers that rows had, duplicates, weights, the normalizer
    OUT/floracle/classes.tensors       centres, norms and spectra by class
    OUT/floracle/coarse.tensors        leading coordinates of every row
    OUT/floracle/verified.json         which files were found whole, and how they looked then

Opening reads the manifest and the labels. Files that changed since they were last found whole are
hashed first; with one bad file nothing is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from floracle.data.atoms import ClassIndex
from floracle.data.layouts.content import LayoutContent, ReadOptions
from floracle.data.normalize import Normalizer
from floracle.data.rows.file_rows import FileRows
from floracle.data.rows.source_files import record_file
from floracle.data.rows.tensorfile import TensorFile, read_header
from floracle.run.errors import InputError

from .class_statistics import ClassStatistics, read_class_statistics
from .coarse import StoredCoarseView, read_coarse
from .files import (
    NAMES,
    RECORD,
    UNFINISHED,
    StoreFile,
    changed,
    flaws,
    misfits,
    read_record,
    stamps_of,
    write_record,
)
from .manifest import CLASSES, COARSE, MANIFEST, ROWS, PackedManifest, read_manifest

SIGNS = (MANIFEST, ROWS, CLASSES, COARSE, RECORD, UNFINISHED)
UNWRITABLE = (
    "the folder cannot be written to, so that its files were found whole is not kept: all of them"
    " are hashed at every opening"
)


@dataclass(frozen=True, eq=False)
class PackedStore:
    """A packed store, its points unread."""

    folder: Path
    manifest: PackedManifest
    stored: FileRows
    """Values as they are stored, mirrors after all others."""
    normalizer: Normalizer
    class_index: ClassIndex
    original_rows: Tensor
    """The row that each row had in the data that was packed, int64 [rows]; no mirrors."""
    class_statistics: ClassStatistics | None = None
    coarse_view: StoredCoarseView | None = None
    remarks: tuple[str, ...] = ()

    @property
    def all_original_rows(self) -> Tensor:
        """The row that each row had in the data that was packed, mirrors included."""
        mirrors = [self.original_rows + len(self.original_rows)] if self.manifest.flips else []
        return torch.cat([self.original_rows, *mirrors])


def is_packed(path: Path) -> bool:
    """Whether a folder is a packed store, be it a damaged or unfinished one."""
    return path.is_dir() and any((path / sign).exists() for sign in SIGNS)


def packed_content(packed: PackedStore, options: ReadOptions) -> LayoutContent:
    """A packed store as any other data, for options that its manifest does not answer."""
    manifest, count = packed.manifest, packed.manifest.rows
    mirrored = manifest.flips if options.flips is None else manifest.flips and options.flips
    rows, groups = packed.stored, packed.class_index
    if not mirrored:
        pieces = rows.pieces[: len(manifest.shards)]
        rows = FileRows(pieces, (count, *manifest.shape), rows.stored_dtype)
    return LayoutContent(
        rows,
        "packed",
        groups.labels[:count],
        classes=manifest.classes,
        normalizer=packed.normalizer if options.stored else None,
        flips=mirrored,
        weights=None if groups.weights is None else groups.weights[:count],
        remarks=packed.remarks[len(manifest.remarks) :],
    )


def read_packed(folder: Path) -> PackedStore:
    """Check a packed store as far as is needed, and read all but its points."""
    if (folder / MANIFEST).is_file():
        record_file(folder / MANIFEST)
    manifest = read_manifest(folder)
    remarks = check_files(folder, manifest)
    packed = read_rows(folder, manifest)
    check_labels(packed)
    known = read_class_statistics(folder / CLASSES, manifest)
    viewed = any(file.name == COARSE for file in manifest.files)
    coarse = read_coarse(folder / COARSE, manifest) if viewed else None
    return replace(
        packed,
        class_statistics=known,
        coarse_view=coarse,
        remarks=(*manifest.remarks, *remarks),
    )


def check_files(folder: Path, manifest: PackedManifest) -> tuple[str, ...]:
    """Hash what changed since it was last found whole; bad files are named and end it."""
    report(misfits(folder, manifest.sealed))
    stamps, record = stamps_of(folder, manifest.sealed), read_record(folder)
    unsure = changed(manifest.sealed, stamps, record)
    if not unsure:
        return ()
    report(flaws(folder, unsure))
    remembered = write_record(folder, manifest.sealed, stamps, record.get("source"))
    return () if remembered else (UNWRITABLE,)


def report(found: Sequence[str]) -> None:
    """Raise what is wrong with a store, if anything is."""
    if found:
        raise InputError(f"{'; '.join(found)}; copy these files again, or pack the data again")


def read_rows(folder: Path, manifest: PackedManifest) -> PackedStore:
    """Rows, labels and atoms of shards that are known to be whole."""
    path = folder / ROWS
    file = read_header(path)
    _check_rows(file, manifest)
    arrays = {name: file.rows(name)[0][:] for name in file.entries}
    labels = labels_of(manifest)
    twice = 1 + manifest.flips
    weights = arrays.get("weights")
    first = arrays["first"] if manifest.duplicates else torch.arange(manifest.points)
    factors = (arrays["scale"].squeeze(), arrays["bias"].squeeze()) if "scale" in arrays else None
    normalizer = Normalizer(arrays["mean"], arrays["std"], factors=factors)
    normalizer.per_channel(manifest.shape[0])
    groups = ClassIndex(
        first, labels.repeat(twice), None if weights is None else weights.repeat(twice)
    )
    if groups.duplicates != manifest.duplicates:
        raise InputError(
            f"{path} does not fit its manifest: {groups.duplicates} rows repeat others"
        )
    rows = stored_rows(folder, manifest)
    return PackedStore(folder, manifest, rows, normalizer, groups, arrays["original"])


def labels_of(manifest: PackedManifest) -> Tensor:
    """The labels without mirrors, int64 [rows]."""
    labels = torch.tensor([span.label for span in manifest.spans])
    return labels.repeat_interleave(
        torch.tensor([span.end - span.first for span in manifest.spans])
    )


def check_labels(packed: PackedStore) -> None:
    """Refuse shards whose labels are not those of the manifest."""
    labels, start = labels_of(packed.manifest), 0
    for shard in packed.manifest.shards:
        path = packed.folder / shard.name
        (found,) = read_header(path).rows("labels")
        if not torch.equal(found[:], labels[start : start + shard.rows]):
            raise InputError(f"{path} holds other labels than {MANIFEST} says; pack again")
        start += shard.rows


def _check_rows(file: TensorFile, manifest: PackedManifest) -> None:
    """Refuse arrays that are not those that the manifest asks for."""
    found = {
        name: (entry.dtype, len(entry.shape) and entry.shape[0])
        for name, entry in file.entries.items()
    }
    expected = {"original": ("I64", manifest.rows)}
    if manifest.duplicates:
        expected["first"] = ("I64", manifest.points)
    if manifest.weighted:
        expected["weights"] = ("F64", manifest.rows)
    numbers = {"mean", "std"} | ({"scale", "bias"} if "scale" in found else set())
    fits = {name: found.get(name) for name in expected} == expected
    if not fits or set(found) != set(expected) | numbers:
        raise InputError(f"{file.path} does not fit its manifest: it holds {found}; pack again")


def stored_rows(folder: Path, manifest: PackedManifest) -> FileRows:
    """The rows of all shards, all mirrors after the rest; checked against the manifest."""
    files = [_shard(folder, shard, manifest) for shard in manifest.shards]
    names = ("latents", "latents_flip") if manifest.flips else ("latents",)
    pieces = tuple(file.piece(name) for name in names for file in files)
    return FileRows(pieces, (manifest.points, *manifest.shape), manifest.dtype)


def _shard(folder: Path, shard: StoreFile, manifest: PackedManifest) -> TensorFile:
    """The header of a shard, if it is what the manifest says."""
    file = read_header(folder / shard.name)
    points = (NAMES[manifest.dtype], (shard.rows, *manifest.shape))
    expected = {"labels": ("I64", (shard.rows,)), "latents": points}
    expected |= {"latents_flip": points} if manifest.flips else {}
    found = {name: (entry.dtype, entry.shape) for name, entry in file.entries.items()}
    if found != expected:
        raise InputError(f"{file.path} holds {found}, but {MANIFEST} says {expected}; pack again")
    return file
