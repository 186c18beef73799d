"""`floracle pack`: rewrite data so that it opens at once, is read in order and can be checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from floracle.cli.console import say, say_facts
from floracle.cli.data_options import DATA_DEFAULTS, DataOptions
from floracle.cli.options import Memory, OutArgument
from floracle.cli.verb_run import open_new_store
from floracle.report.names import quoted

if TYPE_CHECKING:
    from floracle.data.packed.manifest import PackedManifest


def pack(
    data: str,
    out: OutArgument,
    /,
    *,
    data_options: DataOptions = DATA_DEFAULTS,
    dtype: Literal["stored", "fp16", "bf16", "fp32"] = "stored",
    shard_bytes: str = "1G",
    spectra: Annotated[bool, Parameter(negative="--no-spectra")] = True,
    memory: Memory = None,
) -> Path:
    """Rewrite data so that it opens at once, is read in order, and can be checked.

    The same command again goes on where it was stopped, or answers at once. LightningDiT reads the
    folder as well.

    Parameters
    ----------
    data
        Pictures, arrays, idx files, latents of other projects, or a packed store.
    out
        A new folder for the packed store.
    dtype
        Type of the stored values; stored loses nothing, fp16 and bf16 print their error.
    shard_bytes
        Largest size of a file, such as 1G; a class is split only if it alone is larger.
    spectra
        Also store the covariance spectra of the classes and of the whole set; this takes longest.
    """
    from floracle.data.packed.manifest import MANIFEST
    from floracle.data.packing.pack import pack as pack_store

    with open_new_store(out, "pack", MANIFEST):
        manifest = pack_store(
            data,
            out,
            dtype=dtype,
            shard_bytes=shard_bytes,
            spectra=spectra,
            memory=memory,
            **data_options.arguments(),
        )
    _report(manifest, out)
    return out


def _report(manifest: PackedManifest, out: Path) -> None:
    from floracle.report.formatting import format_bytes

    dtype = str(manifest.dtype).removeprefix("torch.")
    classes = sum(span.label >= 0 for span in manifest.spans)
    error = manifest.conversion
    facts = {
        "points": f"{manifest.points:,} of shape {' × '.join(map(str, manifest.shape))}"
        + (", mirrors among them" if manifest.flips else ""),
        "classes": f"{classes:,}" if classes else "none",
        "exact duplicates": f"{manifest.duplicates:,}" if manifest.duplicates else "none",
        "stored": f"{dtype}, {format_bytes(manifest.size)} in {len(manifest.shards)} shard(s)",
        "error": f"{error.largest:.2g} at most, {error.rms:.2g} rms, of the points' deviation"
        if error.largest
        else "none: every point is the same to the last bit",
        "fingerprint": manifest.fingerprint,
    }
    say_facts(facts)
    for remark in manifest.remarks:
        say(f"note: {remark}")
    say(f"then: {' '.join(map(quoted, ['floracle', 'stages', str(out)]))}")
