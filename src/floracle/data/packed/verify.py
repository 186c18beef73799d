"""Reading all of a packed store to say that it is what its manifest says.

Opening trusts what looks unchanged. This trusts nothing: every byte is hashed, and labels, equal
rows, channels, normalizer and fingerprint are found again from the points.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from floracle.data.channel_statistics import Channels, point_channels
from floracle.data.integrity_check import RowCheck, check_rows, find_first_equal
from floracle.data.layouts.lightningdit import read_stats
from floracle.data.store import compute_fingerprint
from floracle.run.errors import InputError

from .class_statistics import read_class_statistics
from .files import flaws, read_record, stamps_of, write_record
from .manifest import CHANNELS, CLASSES, MANIFEST, STATS, PackedManifest, read_manifest
from .reader import PackedStore, check_labels, is_packed, read_rows, report

CLOSE = 1e-6
"""How far channels may be off, over the deviation of the points: they were summed otherwise."""


def verify(where: str | Path, *, quiet: bool = False) -> PackedManifest:
    """Check all of a packed store; what is wrong is a mistake that names every bad file."""
    folder = Path(where).expanduser()
    if not is_packed(folder):
        raise InputError(
            f"{where} is no packed store, so it has no checksums; floracle pack makes one"
        )
    manifest = read_manifest(folder)
    stamps = stamps_of(folder, manifest.sealed)
    report([*flaws(folder, manifest.sealed, quiet=quiet), *_strangers(folder, manifest)])
    packed = read_rows(folder, manifest)
    check_labels(packed)
    read_class_statistics(folder / CLASSES, manifest)
    wrong = list(_untrue(packed))
    if wrong:
        path = folder / MANIFEST
        raise InputError(f"{path} says otherwise than the points: {', '.join(wrong)}; pack again")
    write_record(folder, manifest.sealed, stamps, read_record(folder).get("source"))
    return manifest


def _strangers(folder: Path, manifest: PackedManifest) -> Iterator[str]:
    """Files that LightningDiT would take for shards."""
    own = {shard.name for shard in manifest.shards}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in own:
            yield f"{path} does not belong to the store; move it away"


def _untrue(packed: PackedStore) -> Iterator[str]:
    """What the manifest says that the points do not."""
    manifest, groups = packed.manifest, packed.class_index
    found = check_rows(packed.stored, str(packed.folder))
    if not torch.equal(find_first_equal(packed.stored, found.digests), groups.first):
        yield "duplicates"
    if _fingerprint(packed, found) != manifest.fingerprint:
        yield "fingerprint"
    if not _close(point_channels(found.statistics, packed.normalizer), manifest):
        yield "channels"
    if not _stats_agree(packed):
        yield "normalizer"


def _fingerprint(packed: PackedStore, found: RowCheck) -> str:
    manifest = packed.manifest
    return compute_fingerprint(
        packed.stored,
        found.digests,
        packed.class_index,
        packed.normalizer,
        channels=manifest.shape[0],
        flips=manifest.flips,
    )


def _close(found: Channels, manifest: PackedManifest) -> bool:
    """Whether the channels are those of the data, but for what conversion cost."""
    said = manifest.channels
    deviation = float(said.std.square().mean().sqrt()) or 1.0
    most = deviation * (CLOSE + manifest.conversion.largest)
    return all(
        bool(((getattr(found, name) - getattr(said, name)).abs() <= most).all())
        for name in CHANNELS
    )


def _stats_agree(packed: PackedStore) -> bool:
    """Whether LightningDiT would be given the same mean and std, or none where there are none."""
    count = packed.manifest.shape[0]
    if packed.normalizer.factors:
        return STATS not in {file.name for file in packed.manifest.files}
    pairs = zip(
        read_stats(packed.folder, count).per_channel(count),
        packed.normalizer.per_channel(count),
        strict=True,
    )
    return all(torch.equal(theirs, ours) for theirs, ours in pairs)
