"""What a packed store says of itself: `floracle/manifest.json`.

It is written last, so a folder that has it is whole. It ends with a digest of its own content, and
holds the size and the SHA-256 of every other file: whoever reads a store can tell that all of it
is what was packed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from floracle.data.channel_statistics import Channels
from floracle.data.destination import unfinished_verb
from floracle.data.rows.source_files import explain_read_errors
from floracle.run.errors import InputError
from floracle.run.files import digest, read_json, write_json

from .files import NAMES, OWN_FOLDER, StoreFile

FORMAT = 1
KIND = "floracle packed store"
MANIFEST = f"{OWN_FOLDER}/manifest.json"
ROWS = f"{OWN_FOLDER}/rows.tensors"
CLASSES = f"{OWN_FOLDER}/classes.tensors"
COARSE = f"{OWN_FOLDER}/coarse.tensors"
STATS = "latents_stats.pt"
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in NAMES if dtype.itemsize < 8}
CHANNELS = ("mean", "std", "low", "high")


@dataclass(frozen=True)
class Conversion:
    """What a narrower type cost: errors of points, over the deviation of the points."""

    largest: float = 0.0
    rms: float = 0.0


@dataclass(frozen=True)
class Span:
    """The rows first … end − 1 of a class; mirrors are as many rows further on."""

    label: int
    first: int
    end: int


@dataclass(frozen=True)
class PackedManifest:
    """All that opening needs but for arrays."""

    name: str
    """Of the data that was packed."""
    settings: Mapping[str, Any]
    """What was asked for, and the fingerprint of the data that was packed."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: int
    """Without mirrors."""
    flips: bool
    spans: tuple[Span, ...]
    """By label, the rows without one last."""
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
        """All rows, mirrors among them."""
        return self.rows * (1 + self.flips)

    @property
    def sealed(self) -> tuple[StoreFile, ...]:
        """Every file but the manifest."""
        return (*self.shards, *self.files)

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.size for file in self.sealed)


def shard_name(number: int) -> str:
    """As LightningDiT names the shards of one process."""
    return f"latents_rank00_shard{number:03d}.safetensors"


def write_manifest(folder: Path, manifest: PackedManifest) -> None:
    """Put it in its place, and so declare the store finished."""
    content = _content(manifest)
    write_json(folder / MANIFEST, content | {"digest": _digest(content)})


def read_manifest(folder: Path) -> PackedManifest:
    """Read and check it, as far as it can be checked by itself."""
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
        made = content.get("format")
        raise InputError(f"{path} is of format {made!r}, this floracle reads {FORMAT}; pack again")
    if content.pop("digest", None) != _digest(content):
        raise InputError(
            f"{path} is damaged: it does not match its own digest; copy or pack the store again"
        )
    with explain_read_errors(path, "a manifest"):
        manifest = _manifest(content)
        check_consistent(manifest, path)
    return manifest


def _digest(content: Mapping[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False))


def _content(manifest: PackedManifest) -> dict[str, Any]:
    """As JSON has it; floats come back to the last bit."""
    plain = {name: getattr(manifest, name) for name in PackedManifest.__dataclass_fields__}
    plain |= {
        "kind": KIND,
        "format": FORMAT,
        "dtype": str(manifest.dtype).removeprefix("torch."),
        "spans": [[span.label, span.first, span.end] for span in manifest.spans],
        "channels": {name: getattr(manifest.channels, name).tolist() for name in CHANNELS},
        "conversion": asdict(manifest.conversion),
        "shards": [asdict(shard) for shard in manifest.shards],
        "files": [asdict(file) for file in manifest.files],
    }
    return json.loads(json.dumps(plain, allow_nan=False))


def _manifest(content: dict[str, Any]) -> PackedManifest:
    values = {name: content[name] for name in PackedManifest.__dataclass_fields__}
    shown, channels = values["picture_range"], values["channels"]
    values |= {
        "shape": tuple(values["shape"]),
        "dtype": DTYPES[values["dtype"]],
        "spans": tuple(Span(*span) for span in values["spans"]),
        "classes": tuple(values["classes"]),
        "picture_range": None if shown is None else (float(shown[0]), float(shown[1])),
        "channels": Channels(
            *(torch.tensor(channels[name], dtype=torch.float64) for name in CHANNELS)
        ),
        "conversion": Conversion(**values["conversion"]),
        "remarks": tuple(values["remarks"]),
        "shards": tuple(StoreFile(**shard) for shard in values["shards"]),
        "files": tuple(StoreFile(**file) for file in values["files"]),
    }
    return PackedManifest(**values)


def check_consistent(manifest: PackedManifest, path: Path) -> None:
    """Refuse a manifest whose parts contradict each other."""
    shape, spans = manifest.shape, manifest.spans
    starts = [0, *(span.end for span in spans)]
    labels = [span.label for span in spans if span.label >= 0]
    facts = {
        "shape": bool(shape) and all(type(size) is int and size > 0 for size in shape),
        "spans": [span.first for span in spans] == starts[:-1]
        and starts[-1] == manifest.rows
        and all(span.first < span.end for span in spans)
        and labels == sorted(set(labels))
        and all(span.label == -1 for span in spans[len(labels) :])
        and len(spans) <= len(labels) + 1,
        "rows": sum(shard.rows for shard in manifest.shards) == manifest.rows > 0,
        "shards": [shard.name for shard in manifest.shards]
        == [shard_name(number) for number in range(len(manifest.shards))]
        and all(shard.rows > 0 for shard in manifest.shards),
        "files": [file.name for file in manifest.files if file.name not in (COARSE, STATS)]
        == [ROWS, CLASSES]
        and len({file.name for file in manifest.files}) == len(manifest.files),
        "classes": len(manifest.classes) > max(labels, default=-1)
        and all(isinstance(name, str) for name in manifest.classes),
        "channels": all(
            getattr(manifest.channels, name).shape == (shape[0],) for name in CHANNELS
        ),
        "flips": type(manifest.flips) is bool,
        "weighted": type(manifest.weighted) is bool,
        "duplicates": 0 <= manifest.duplicates < manifest.points,
    }
    wrong = [name for name, holds in facts.items() if not holds]
    if wrong:
        raise InputError(f"{path} contradicts itself in its {' and '.join(wrong)}; pack again")
