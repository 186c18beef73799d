"""`floracle pack`: rewrite data so that it opens at once, is read in order and can be checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from floracle.cli.data_options import DataOptions
from floracle.cli.output import OutArgument, store_in

if TYPE_CHECKING:
    from floracle.data.packed.manifest import PackedManifest

OPENING = DataOptions()
Stored = Literal["stored", "fp16", "bf16", "fp32"]


def pack(
    data: str,
    out: OutArgument,
    /,
    *,
    opening: DataOptions = OPENING,
    dtype: Stored = "stored",
    shard_bytes: str = "1G",
    spectra: Annotated[bool, Parameter(negative="--no-spectra")] = True,
    memory: str | None = None,
) -> Path:
    """Rewrite data so that it opens at once, is read in order, and can be checked.

    The same command again goes on where it ended, or answers at once. LightningDiT reads the
    folder as well.

    Parameters
    ----------
    data
        Pictures, arrays, idx, latents of other projects, or a packed store.
    out
        A new folder for the packed store.
    opening
        How data is read.
    dtype
        What values become; stored loses nothing, fp16 and bf16 say what they cost.
    shard_bytes
        How large a file may become, like 1G; a class is cut only where it alone is larger.
    spectra
        Whether the spectra of classes and of the whole set are kept too, which takes longest.
    memory
        How much may be used, like 4G; half of what is free by default.
    """
    from floracle.data.packed.manifest import MANIFEST
    from floracle.data.packed.pack import pack as packed

    with store_in(out, "pack", MANIFEST):
        manifest = packed(
            data,
            out,
            dtype=dtype,
            shard_bytes=shard_bytes,
            spectra=spectra,
            memory=memory,
            labels=opening.labels,
            weights=opening.weights,
            flips=opening.flips,
            normalize=opening.normalizer(),
            layout=opening.layout,
            moments=opening.moments,
        )
    _show(manifest, out)
    return out


def _show(manifest: PackedManifest, out: Path) -> None:
    from floracle.cli.console import say
    from floracle.report.formatting import format_bytes
    from floracle.report.names import quoted

    kind = str(manifest.dtype).removeprefix("torch.")
    labels = [span.label for span in manifest.spans if span.label >= 0]
    facts = {
        "points": f"{manifest.points:,} of shape {' × '.join(map(str, manifest.shape))}"
        + (", mirrors among them" if manifest.flips else ""),
        "classes": f"{len(labels):,}" if labels else "none",
        "exact duplicates": f"{manifest.duplicates:,}" if manifest.duplicates else "none",
        "stored": f"{kind}, {format_bytes(manifest.size)} in {len(manifest.shards)} shard(s)",
        "error": _error(manifest),
        "fingerprint": manifest.fingerprint,
    }
    for name, fact in facts.items():
        say(f"{name:<18}{fact}")
    for remark in manifest.remarks:
        say(f"note: {remark}")
    say(f"then: {' '.join(map(quoted, ['floracle', 'stages', str(out)]))}")


def _error(manifest: PackedManifest) -> str:
    found = manifest.conversion
    if not found.largest:
        return "none: every point is the same to the last bit"
    return f"{found.largest:.2g} at most, {found.rms:.2g} rms, of the deviation of the points"
