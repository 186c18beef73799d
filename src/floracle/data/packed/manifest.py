"""The manifest of a packed store: `floracle/manifest.json`.

It is written last, so a folder that has it is complete. It ends with a digest of its own content
and holds the size and SHA-256 of every other file, so a reader can tell that all of it is what
was packed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from floracle.data.channel_statistics import Channels
from floracle.data.destination import OWN_FOLDER, unfinished_verb
from floracle.data.layouts.lightningdit import STATS
from floracle.data.rows.source_files import explain_read_errors
from floracle.run.errors import InputError
from floracle.run.files import digest, read_json, write_json

from .files import DTYPE_NAMES, StoreFile
from .latent_shards import shard_name

FORMAT = 1
KIND = "floracle packed store"
MANIFEST = f"{OWN_FOLDER}/manifest.json"
ROWS = f"{OWN_FOLDER}/rows.tensors"
CLASSES = f"{OWN_FOLDER}/classes.tensors"
COARSE = f"{OWN_FOLDER}/coarse.tensors"
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPE_NAMES if dtype.itemsize < 8}
CHANNELS = ("mean", "std", "low", "high")


@dataclass(frozen=True)
class Conversion:
    """The error of a narrower type: of points, divided by the standard deviation of the points."""

    largest: float = 0.0
    rms: float = 0.0


@dataclass(frozen=True)
class ClassSpan:
    """The rows first … end − 1 of a class; mirrors are as many rows further on."""

    label: int
    first: int
    end: int


@dataclass(frozen=True)
class PackedManifest:
    """All that opening a store needs, without arrays."""

    name: str
    """Of the data that was packed."""
    settings: Mapping[str, Any]
    """The options of packing, and the fingerprint of the data."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: int
    """Without mirrors."""
    flips: bool
    spans: tuple[ClassSpan, ...]
    """By label; the rows without a label last."""
    classes: tuple[str, ...]
    fingerprint: str
    picture_range: tuple[float, float] | None
    channels: Channels
    duplicates: int
    weighted: bool
    conversion: Conversion
    remarks: tuple[str, ...]
    shards: tuple[StoreFile, ...]
    files: tuple[StoreFile, ...]
    """All files but the shards and this one."""

    @property
    def points(self) -> int:
        """The number of rows, mirrors included."""
        return self.rows * (1 + self.flips)

    @property
    def all_files(self) -> tuple[StoreFile, ...]:
        """Every file but the manifest."""
        return (*self.shards, *self.files)

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.size for file in self.all_files)


def write_manifest(folder: Path, manifest: PackedManifest) -> None:
    """Write the manifest, which makes the store a finished one."""
    content = _to_json(manifest)
    write_json(folder / MANIFEST, content | {"digest": _digest(content)})


def read_manifest(folder: Path) -> PackedManifest:
    """Read the manifest, and check it as far as that is possible without the other files."""
    path = folder / MANIFEST
    if not path.is_file() and unfinished_verb(folder) == "encode":
        raise InputError(
            f"{folder} holds latents whose encoding was not finished; run the same floracle encode"
            " again"
        )
    if not path.is_file():
        raise InputError(
            f"{folder} holds a packed store without its {MANIFEST}: packing was not finished, or"
            " the file was lost; run the same floracle pack again"
        )
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InputError(f"{path} is not the manifest of a packed store; pack the data again")
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {content.get('format')!r}, and this version of floracle reads"
            f" {FORMAT}; pack the data again"
        )
    if content.pop("digest", None) != _digest(content):
        raise InputError(
            f"{path} is damaged: it does not match its own digest; copy or pack the store again"
        )
    with explain_read_errors(path, "a manifest"):
        manifest = _from_json(content)
        if contradictions := list(_find_contradictions(manifest)):
            raise InputError(
                f"{path} contradicts itself in its {' and '.join(contradictions)}; pack again"
            )
    return manifest


def _digest(content: Mapping[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False))


def _to_json(manifest: PackedManifest) -> dict[str, Any]:
    """A manifest as JSON has it; floats come back to the last bit."""
    content = {name: getattr(manifest, name) for name in PackedManifest.__dataclass_fields__}
    content |= {
        "kind": KIND,
        "format": FORMAT,
        "dtype": str(manifest.dtype).removeprefix("torch."),
        "spans": [[span.label, span.first, span.end] for span in manifest.spans],
        "channels": {name: getattr(manifest.channels, name).tolist() for name in CHANNELS},
        "conversion": asdict(manifest.conversion),
        "shards": [asdict(shard) for shard in manifest.shards],
        "files": [asdict(file) for file in manifest.files],
    }
    return json.loads(json.dumps(content, allow_nan=False))


def _from_json(content: dict[str, Any]) -> PackedManifest:
    values = {name: content[name] for name in PackedManifest.__dataclass_fields__}
    picture_range, channels = values["picture_range"], values["channels"]
    black_white = None if picture_range is None else tuple(map(float, picture_range[:2]))
    statistics = (torch.tensor(channels[name], dtype=torch.float64) for name in CHANNELS)
    values |= {
        "shape": tuple(values["shape"]),
        "dtype": DTYPES[values["dtype"]],
        "spans": tuple(ClassSpan(*span) for span in values["spans"]),
        "classes": tuple(values["classes"]),
        "picture_range": black_white,
        "channels": Channels(*statistics),
        "conversion": Conversion(**values["conversion"]),
        "remarks": tuple(values["remarks"]),
        "shards": tuple(StoreFile(**shard) for shard in values["shards"]),
        "files": tuple(StoreFile(**file) for file in values["files"]),
    }
    return PackedManifest(**values)


def _find_contradictions(manifest: PackedManifest) -> Iterator[str]:
    """The fields of a manifest that contradict others, or are of another type."""
    shape, spans, shards, files = manifest.shape, manifest.spans, manifest.shards, manifest.files
    starts = [0, *(span.end for span in spans)]
    labels = [span.label for span in spans if span.label >= 0]
    file_names = [file.name for file in files]
    required_names = [name for name in file_names if name not in (COARSE, STATS)]
    channels = [getattr(manifest.channels, name) for name in CHANNELS]
    consistent = {
        "shape": bool(shape) and all(type(size) is int and size > 0 for size in shape),
        # spans cover all rows without gaps; labels increase; rows without a label come last
        "spans": [span.first for span in spans] == starts[:-1]
        and starts[-1] == manifest.rows
        and all(span.first < span.end for span in spans)
        and labels == sorted(set(labels))
        and all(span.label == -1 for span in spans[len(labels) :])
        and len(spans) <= len(labels) + 1,
        "rows": sum(shard.rows for shard in shards) == manifest.rows > 0,
        "shards": [shard.name for shard in shards] == [shard_name(i) for i in range(len(shards))]
        and all(shard.rows > 0 for shard in shards),
        "files": required_names == [ROWS, CLASSES] and len(set(file_names)) == len(file_names),
        "classes": len(manifest.classes) > max(labels, default=-1)
        and all(isinstance(name, str) for name in manifest.classes),
        "channels": all(values.shape == shape[:1] for values in channels),
        "flips": type(manifest.flips) is bool,
        "weighted": type(manifest.weighted) is bool,
        "duplicates": 0 <= manifest.duplicates < manifest.points,
    }
    return (name for name, holds in consistent.items() if not holds)
