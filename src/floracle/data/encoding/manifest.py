"""What an encoded store is, as its manifest says.

    OUT/latents_rank00_shard000.safetensors …   latents, latents_flip, labels, as in LightningDiT
    OUT/latents_stats.pt              mean and std of every channel, over all that is stored
    OUT/floracle/encoded.json         settings, fingerprints, size and SHA-256 of every file
    OUT/floracle/encoded-from.json    how the files of the pictures looked

The manifest is written last; until then nobody opens the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from floracle.data.destination import DestinationKind
from floracle.data.packed.files import OWN_FOLDER, StoreFile, misfits
from floracle.run.errors import InputError
from floracle.run.files import read_json, write_json

FORMAT, KIND = 1, "floracle encoded store"
MANIFEST = f"{OWN_FOLDER}/encoded.json"
SOURCE = f"{OWN_FOLDER}/encoded-from.json"


@dataclass(frozen=True)
class EncodedManifest:
    """What an encoded store is."""

    settings: Mapping[str, Any]
    """All that it depends on: autoencoder, pictures by their fingerprint, options."""
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
    """Versions."""


def write_manifest(folder: Path, encoded: EncodedManifest, source: str | None) -> None:
    """The last file of a store, after how its pictures looked."""
    _remember(folder, encoded, source)
    write_json(folder / MANIFEST, {"format": FORMAT, "kind": KIND, **asdict(encoded)})


def read_manifest(folder: Path) -> EncodedManifest:
    """What was written, as far as it can be checked by itself."""
    path = folder / MANIFEST
    found = read_json(path)
    if not isinstance(found, dict) or (found.pop("kind", None), found.pop("format", None)) != (
        KIND,
        FORMAT,
    ):
        raise InputError(f"{path} is not the manifest of an encoded store of this version")
    try:
        files = tuple(StoreFile(**file) for file in found.pop("files"))
        lists = {name: tuple(found.pop(name)) for name in ("shape", "classes", "mean", "std")}
        return EncodedManifest(files=files, **lists, **found)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); encode the pictures again") from error


def _check(folder: Path, encoded: EncodedManifest) -> None:
    if faults := misfits(folder, encoded.files):
        raise InputError(f"{faults[0]}; remove {folder} and encode again")


def _source(folder: Path) -> str | None:
    path = folder / SOURCE
    return read_json(path).get("source") if path.is_file() else None


def _remember(folder: Path, encoded: EncodedManifest, source: str | None) -> None:
    write_json(folder / SOURCE, {"source": source})


ENCODED = DestinationKind(
    verb="encode",
    doing="encoding",
    done="encoded",
    data="pictures",
    fingerprint="images",
    manifest=MANIFEST,
    read=read_manifest,
    check=_check,
    source=_source,
    remember=_remember,
)
