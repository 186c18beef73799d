"""Reading all of a packed store to check that it is what its manifest says.

Opening trusts files that look unchanged. This check hashes every byte, and computes labels, equal
rows, channels, normalizer and fingerprint again from the points.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from floracle.data.channel_statistics import point_channels
from floracle.data.integrity_check import check_rows, find_first_equal
from floracle.data.layouts.lightningdit import STATS, read_stats
from floracle.data.packed.class_statistics import read_class_statistics
from floracle.data.packed.files import (
    find_all_damage,
    read_verified,
    verified_entries,
    write_verified,
)
from floracle.data.packed.manifest import (
    CHANNELS,
    CLASSES,
    MANIFEST,
    PackedManifest,
    read_manifest,
)
from floracle.data.packed.reader import (
    PackedStore,
    check_labels,
    is_packed,
    raise_faults,
    read_rows,
)
from floracle.data.store import compute_fingerprint
from floracle.run.errors import InputError

CHANNEL_TOLERANCE = 1e-6
"""Of the deviation of the points: statistics are summed here in another order than at packing."""


def verify(where: str | Path, *, quiet: bool = False) -> PackedManifest:
    """Check all of a packed store; raises an InputError that names every bad file."""
    folder = Path(where).expanduser()
    if not is_packed(folder):
        raise InputError(
            f"{where} is no packed store, so it has no checksums; floracle pack makes one"
        )
    manifest = read_manifest(folder)
    entries = verified_entries(folder, manifest.all_files)
    damage = find_all_damage(folder, manifest.all_files, quiet=quiet)
    raise_faults([*damage, *_find_foreign_shards(folder, manifest)])
    packed = read_rows(folder, manifest)
    check_labels(packed)
    read_class_statistics(folder / CLASSES, manifest)
    if false_facts := list(_find_false_facts(packed)):
        raise InputError(
            f"{folder / MANIFEST} contradicts the points: {', '.join(false_facts)}; pack again"
        )
    write_verified(folder, entries, read_verified(folder).get("source"))
    return manifest


def _find_foreign_shards(folder: Path, manifest: PackedManifest) -> Iterator[str]:
    """Files that LightningDiT would read as shards."""
    names = {shard.name for shard in manifest.shards}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in names:
            yield f"{path} does not belong to the store; move it away"


def _find_false_facts(packed: PackedStore) -> Iterator[str]:
    """The facts of the manifest that the points contradict."""
    manifest, index, normalizer = packed.manifest, packed.class_index, packed.normalizer
    scan = check_rows(packed.stored, str(packed.folder))
    if not torch.equal(find_first_equal(packed.stored, scan.digests), index.first):
        yield "duplicates"
    count = manifest.shape[0]
    fingerprint = compute_fingerprint(
        packed.stored, scan.digests, index, normalizer, channels=count, flips=manifest.flips
    )
    if fingerprint != manifest.fingerprint:
        yield "fingerprint"
    # The recorded channels are those of the data before conversion, which may have moved them.
    recorded, measured = manifest.channels, point_channels(scan.statistics, normalizer)
    deviation = float(recorded.std.square().mean().sqrt()) or 1.0
    tolerance = deviation * (CHANNEL_TOLERANCE + manifest.conversion.largest)
    errors = [getattr(measured, name) - getattr(recorded, name) for name in CHANNELS]
    if not all(bool((error.abs() <= tolerance).all()) for error in errors):
        yield "channels"
    if not _stats_match(packed):
        yield "normalizer"


def _stats_match(packed: PackedStore) -> bool:
    """Whether LightningDiT reads the same mean and std; a scale and a bias have no such file."""
    count = packed.manifest.shape[0]
    if packed.normalizer.factors:
        return STATS not in {file.name for file in packed.manifest.files}
    stats, expected = (
        read_stats(packed.folder, count).per_channel(count),
        packed.normalizer.per_channel(count),
    )
    return all(map(torch.equal, stats, expected))
