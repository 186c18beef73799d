"""Packed stores: points sorted by class in shards, with everything that opening would compute.

    OUT/latents_rank00_shard000.safetensors …   latents, latents_flip, labels, as in LightningDiT
    OUT/latents_stats.pt               mean and std, where points are (stored − mean) / std
    OUT/floracle/manifest.json         settings and facts; size and SHA-256 of every file
    OUT/floracle/rows.tensors          original row numbers, duplicates, weights, the normalizer
    OUT/floracle/classes.tensors       centres, norms and spectra by class
    OUT/floracle/coarse.tensors        leading coordinates of every row
    OUT/floracle/verified.json         which files had the right hash, and how they looked then

Opening reads the manifest and the labels. Files that changed since their hash was last right are
hashed first; with one bad file nothing is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from floracle.data.atoms import ClassIndex
from floracle.data.destination import UNFINISHED
from floracle.data.layouts.content import LayoutContent, ReadOptions
from floracle.data.normalize import Normalizer
from floracle.data.rows.file_rows import FileRows
from floracle.data.rows.source_files import record_file
from floracle.data.rows.tensorfile import TensorFile, read_header
from floracle.run.errors import InputError

from .class_statistics import ClassStatistics, read_class_statistics
from .coarse import StoredCoarseView, read_coarse
from .files import (
    DTYPE_NAMES,
    VERIFIED,
    StoreFile,
    find_all_damage,
    find_wrong_size,
    read_verified,
    verified_entries,
    write_verified,
)
from .latent_shards import LATENTS
from .manifest import CLASSES, COARSE, MANIFEST, ROWS, PackedManifest, read_manifest

SIGNS = (MANIFEST, ROWS, CLASSES, COARSE, VERIFIED, UNFINISHED)
"""A folder with any of these is a packed store."""
UNWRITABLE = (
    "the folder is not writable, so the check of its files cannot be recorded: all of them are"
    " hashed at every opening"
)


@dataclass(frozen=True, eq=False)
class PackedStore:
    """A packed store; its points are not read."""

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
        rows = self.original_rows
        return torch.cat([rows, rows + len(rows)]) if self.manifest.flips else rows


def is_packed(path: Path) -> bool:
    """Whether a folder is a packed store, even a damaged or unfinished one."""
    return path.is_dir() and any((path / sign).exists() for sign in SIGNS)


def packed_content(packed: PackedStore, options: ReadOptions) -> LayoutContent:
    """A packed store as any other data, for options that its manifest does not answer."""
    manifest, count = packed.manifest, packed.manifest.rows
    flips = manifest.flips if options.flips is None else manifest.flips and options.flips
    rows, index = packed.stored, packed.class_index
    if not flips:
        pieces = rows.pieces[: len(manifest.shards)]
        rows = FileRows(pieces, (count, *manifest.shape), rows.stored_dtype)
    return LayoutContent(
        rows,
        "packed",
        index.labels[:count],
        classes=manifest.classes,
        normalizer=packed.normalizer if options.stored else None,
        flips=flips,
        weights=None if index.weights is None else index.weights[:count],
        remarks=packed.remarks[len(manifest.remarks) :],
    )


def read_packed(folder: Path) -> PackedStore:
    """Check a packed store as far as necessary, and read all but its points."""
    if (folder / MANIFEST).is_file():
        record_file(folder / MANIFEST)
    manifest = read_manifest(folder)
    remarks = check_files(folder, manifest)
    packed = read_rows(folder, manifest)
    check_labels(packed)
    has_coarse = any(file.name == COARSE for file in manifest.files)
    return replace(
        packed,
        class_statistics=read_class_statistics(folder / CLASSES, manifest),
        coarse_view=read_coarse(folder / COARSE, manifest) if has_coarse else None,
        remarks=(*manifest.remarks, *remarks),
    )


def check_files(folder: Path, manifest: PackedManifest) -> tuple[str, ...]:
    """Hash the files that changed since their hash was last right; refuse and name bad ones."""
    files = manifest.all_files
    raise_faults([fault for file in files if (fault := find_wrong_size(folder, file))])
    entries, verified = verified_entries(folder, files), read_verified(folder)
    changed = [file for file in files if verified["files"].get(file.name) != entries[file.name]]
    if not changed:
        return ()
    raise_faults(find_all_damage(folder, changed))
    return () if write_verified(folder, entries, verified.get("source")) else (UNWRITABLE,)


def raise_faults(faults: Sequence[str]) -> None:
    """Refuse a store with these faults; without any, do nothing."""
    if faults:
        raise InputError(f"{'; '.join(faults)}; copy these files again, or pack the data again")


def read_rows(folder: Path, manifest: PackedManifest) -> PackedStore:
    """Rows, labels and atoms of a store whose shards are undamaged."""
    path, halves = folder / ROWS, 1 + manifest.flips
    file = read_header(path)
    _check_arrays(file, manifest)
    arrays = {name: file.rows(name)[0][:] for name in file.entries}
    factors = (arrays["scale"].squeeze(), arrays["bias"].squeeze()) if "scale" in arrays else None
    normalizer = Normalizer(arrays["mean"], arrays["std"], factors=factors)
    normalizer.per_channel(manifest.shape[0])  # refuses another number of channels
    first = arrays["first"] if manifest.duplicates else torch.arange(manifest.points)
    weights = arrays["weights"].repeat(halves) if "weights" in arrays else None
    index = ClassIndex(first, labels_of(manifest).repeat(halves), weights)
    if index.duplicates != manifest.duplicates:
        raise InputError(
            f"{path} does not match its manifest: {index.duplicates} rows repeat others"
        )
    rows = stored_rows(folder, manifest)
    return PackedStore(folder, manifest, rows, normalizer, index, arrays["original"])


def labels_of(manifest: PackedManifest) -> Tensor:
    """The labels without mirrors, int64 [rows]."""
    labels = torch.tensor([span.label for span in manifest.spans])
    counts = torch.tensor([span.end - span.first for span in manifest.spans])
    return labels.repeat_interleave(counts)


def check_labels(packed: PackedStore) -> None:
    """Refuse shards whose labels are not those of the manifest."""
    labels, start = labels_of(packed.manifest), 0
    for shard in packed.manifest.shards:
        path = packed.folder / shard.name
        (shard_labels,) = read_header(path).rows("labels")
        if not torch.equal(shard_labels[:], labels[start : start + shard.rows]):
            raise InputError(f"{path} holds other labels than {MANIFEST} says; pack again")
        start += shard.rows


def _check_arrays(file: TensorFile, manifest: PackedManifest) -> None:
    """Refuse a file of rows that has other arrays than the manifest implies."""
    arrays = {
        name: (entry.dtype, len(entry.shape) and entry.shape[0])
        for name, entry in file.entries.items()
    }
    expected = {"original": ("I64", manifest.rows)}
    if manifest.duplicates:
        expected["first"] = ("I64", manifest.points)
    if manifest.weighted:
        expected["weights"] = ("F64", manifest.rows)
    normalizer = {"mean", "std"} | ({"scale", "bias"} if "scale" in arrays else set())
    if not expected.items() <= arrays.items() or arrays.keys() != expected.keys() | normalizer:
        raise InputError(f"{file.path} does not match its manifest: it holds {arrays}; pack again")


def stored_rows(folder: Path, manifest: PackedManifest) -> FileRows:
    """The rows of all shards, all mirrors after the rest; checked against the manifest."""
    files = [_open_shard(folder, shard, manifest) for shard in manifest.shards]
    names = LATENTS[: 1 + manifest.flips]
    pieces = tuple(file.piece(name) for name in names for file in files)
    return FileRows(pieces, (manifest.points, *manifest.shape), manifest.dtype)


def _open_shard(folder: Path, shard: StoreFile, manifest: PackedManifest) -> TensorFile:
    """The header of a shard that is as the manifest says."""
    file = read_header(folder / shard.name)
    latents = (DTYPE_NAMES[manifest.dtype], (shard.rows, *manifest.shape))
    expected = {"labels": ("I64", (shard.rows,))}
    expected |= dict.fromkeys(LATENTS[: 1 + manifest.flips], latents)
    entries = {name: (entry.dtype, entry.shape) for name, entry in file.entries.items()}
    if entries != expected:
        raise InputError(f"{file.path} holds {entries}, but {MANIFEST} says {expected}")
    return file
