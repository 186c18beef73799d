"""The folder that pictures are encoded into: what it is, what is unfinished, what is left over.

    OUT/latents_rank00_shard000.safetensors …   latents, latents_flip, labels, as in LightningDiT
    OUT/latents_stats.pt              mean and std of every channel, over all that is stored
    OUT/floracle/encoded.json         settings, fingerprints, size and SHA-256 of every file
    OUT/floracle/encoded-from.json    how the files of the pictures looked

What a run has finished lies in `floracle/unfinished`, with its settings, until the manifest is
written; until then nobody opens the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from floracle.run.errors import Mistake
from floracle.run.files import read_json, writable_folder, write_json
from floracle.run.results import differences

from .packed import UNFINISHED
from .packed_files import OURS, Sealed, misfits

FORMAT, KIND = 1, "floracle encoded store"
MANIFEST = f"{OURS}/encoded.json"
SOURCE = f"{OURS}/encoded-from.json"
SETTINGS = f"{UNFINISHED}/settings.json"


@dataclass(frozen=True)
class Encoded:
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
    files: tuple[Sealed, ...]
    made: Mapping[str, Any]
    """Versions."""


def write_manifest(folder: Path, encoded: Encoded) -> None:
    """The last file of a store."""
    write_json(folder / MANIFEST, {"format": FORMAT, "kind": KIND, **asdict(encoded)})


def read_manifest(folder: Path) -> Encoded:
    """What was written, as far as it can be checked by itself."""
    path = folder / MANIFEST
    found = read_json(path)
    if not isinstance(found, dict) or (found.pop("kind", None), found.pop("format", None)) != (
        KIND,
        FORMAT,
    ):
        raise Mistake(f"{path} is not the manifest of an encoded store of this version")
    try:
        files = tuple(Sealed(**file) for file in found.pop("files"))
        lists = {name: tuple(found.pop(name)) for name in ("shape", "classes", "mean", "std")}
        return Encoded(files=files, **lists, **found)
    except (KeyError, TypeError) as error:
        raise Mistake(f"{path} is damaged ({error}); encode the pictures again") from error


def check_place(folder: Path, where: Any) -> None:
    """Refuse a folder that holds something else, or lies in the pictures."""
    if isinstance(where, (str, Path)):
        data, place = Path(where).expanduser().resolve(), folder.resolve()
        if data.exists() and place.is_relative_to(data):
            raise Mistake(f"{folder} lies inside the pictures {where}; choose a place beside them")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise Mistake(f"{folder} is a file; name a new folder to encode into")
    ours = any((folder / sign).exists() for sign in (MANIFEST, UNFINISHED))
    if not ours and any(path.is_file() for path in folder.rglob("*")):
        raise Mistake(f"{folder} exists and is no encoded store; name a new folder")


def answered(folder: Path, settings: Mapping[str, Any], source: str | None) -> Encoded | None:
    """The finished store, if there is one for these settings; for others that is a mistake.

    While the fingerprint of the pictures is not among the settings, a store answers only if their
    files look as they did.
    """
    if not (folder / MANIFEST).is_file():
        return None
    encoded = read_manifest(folder)
    if "images" not in settings:
        if source is None or _source(folder) != source:
            return None
        settings = {**settings, "images": encoded.settings["images"]}
    refuse_others(folder, settings, encoded.settings)
    if faults := misfits(folder, encoded.files):
        raise Mistake(f"{faults[0]}; remove {folder} and encode again")
    if _source(folder) != source:
        write_json(folder / SOURCE, {"source": source})
    tidy(folder)
    return encoded


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Start here, or go on where a run with the same settings ended."""
    writable_folder(folder / UNFINISHED)
    _sweep(folder)
    if (folder / SETTINGS).is_file():
        refuse_others(folder, settings, read_json(folder / SETTINGS))
    else:
        write_json(folder / SETTINGS, dict(settings))


def refuse_others(folder: Path, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than those of before."""
    if unlike := differences(asked, found):
        raise Mistake(
            f"{folder} is encoded with other settings ({'; '.join(unlike)}); choose another"
            " folder, or remove this one"
        )


def tidy(folder: Path) -> None:
    """Remove what is of no use in a finished store."""
    if (folder / UNFINISHED).exists():
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    _sweep(folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say what failed on the disk, and that nothing of what was done is lost."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Mistake(
            f"encoding into {folder} failed: {reason.lower()}; put that right and run the same"
            " command again, which goes on from there"
        ) from error


def _source(folder: Path) -> str | None:
    path = folder / SOURCE
    return read_json(path).get("source") if path.is_file() else None


def _sweep(folder: Path) -> None:
    for place in (folder, folder / OURS, folder / UNFINISHED):
        for left in place.glob(".*.part"):
            left.unlink(missing_ok=True)
