"""The manifest of an encoded store.

    OUT/latents_rank00_shard000.safetensors …   latents, latents_flip, labels, as in LightningDiT
    OUT/latents_stats.pt              mean and std of every channel, over all that is stored
    OUT/floracle/encoded.json         settings, fingerprints, size and SHA-256 of every file
    OUT/floracle/encoded-from.json    how the files of the images looked

The manifest is written last; until then the folder cannot be opened as data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from floracle.data.destination import OWN_FOLDER, DestinationKind
from floracle.data.layouts.lightningdit import ENCODED_MANIFEST
from floracle.data.packed.files import StoreFile, find_wrong_size
from floracle.run.errors import InputError
from floracle.run.files import read_json, write_json

FORMAT, KIND = 1, "floracle encoded store"
MANIFEST = ENCODED_MANIFEST
SOURCE = f"{OWN_FOLDER}/encoded-from.json"


@dataclass(frozen=True)
class EncodedManifest:
    """The facts of an encoded store."""

    settings: Mapping[str, Any]
    """All that it depends on: autoencoder, images by their fingerprint, options."""
    images: int
    shape: tuple[int, ...]
    """Of one latent."""
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Of each channel, over everything that is stored."""
    std: tuple[float, ...]
    fingerprint: str
    """A hash of all shards."""
    files: tuple[StoreFile, ...]
    made: Mapping[str, Any]
    """Versions of floracle and torch."""


def write_manifest(folder: Path, manifest: EncodedManifest, source: str | None) -> None:
    """Write how the images looked, and then the manifest, which makes the store a finished one."""
    _write_source(folder, source)
    write_json(folder / MANIFEST, {"format": FORMAT, "kind": KIND, **asdict(manifest)})


def read_manifest(folder: Path) -> EncodedManifest:
    """Read the manifest, and check it as far as that is possible without the other files."""
    path = folder / MANIFEST
    content = read_json(path)
    identity = isinstance(content, dict) and (content.pop("kind", 0), content.pop("format", 0))
    if identity != (KIND, FORMAT):
        raise InputError(f"{path} is not the manifest of an encoded store of this version")
    try:
        files = tuple(StoreFile(**file) for file in content.pop("files"))
        tuples = {name: tuple(content.pop(name)) for name in ("shape", "classes", "mean", "std")}
        return EncodedManifest(files=files, **tuples, **content)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); encode the images again") from error


def _check_files(folder: Path, manifest: EncodedManifest) -> None:
    for file in manifest.files:
        if fault := find_wrong_size(folder, file):
            raise InputError(f"{fault}; remove {folder} and encode again")


def _read_source(folder: Path) -> str | None:
    path = folder / SOURCE
    return read_json(path).get("source") if path.is_file() else None


def _write_source(folder: Path, source: str | None) -> None:
    write_json(folder / SOURCE, {"source": source})


ENCODED = DestinationKind(
    verb="encode",
    fingerprint="images",
    manifest=MANIFEST,
    read=read_manifest,
    check=_check_files,
    read_source=_read_source,
    write_source=_write_source,
)
