"""The latents of LightningDiT and VA-VAE: shards of several processes, and their statistics.

`latents_rank{r:02d}_shard{k:03d}.safetensors` hold `latents` [n, C, H, W], their mirrors
`latents_flip` and `labels`; `latents_stats.pt` holds mean and std, [1, C, 1, 1] each. They come
from some of the latents, drawn without a seed, so they differ between people and are read, never
computed again. The model is fed (z − mean) / std.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor

from floracle.data.destination import OWN_FOLDER
from floracle.data.normalize import Normalizer
from floracle.data.rows.file_rows import FileRows
from floracle.data.rows.source_files import explain_read_errors, open_source
from floracle.data.rows.tensorfile import TensorFile, read_header
from floracle.run.errors import InputError
from floracle.run.files import read_json
from floracle.run.torch_archive import check_archive

from .array_roles import check_scales, telling_metadata
from .content import LayoutContent, ReadOptions, describe_unused, list_some
from .labels import check_labels

SHARD = re.compile(r"latents_rank(\d+)_shard(\d+)\.safetensors")
STATS = "latents_stats.pt"
ENCODED_MANIFEST = f"{OWN_FOLDER}/encoded.json"
"""Where `floracle encode` records classes and autoencoder, for LightningDiT has neither."""
MAX_STATS_BYTES = 2**20  # mean and std of 100,000 channels


def is_lightningdit(path: Path) -> bool:
    """Whether a folder holds such shards, or a file is one, whatever its name is now."""
    if path.is_dir():
        return any(SHARD.fullmatch(file.name) for file in path.glob("latents_rank*"))
    if SHARD.fullmatch(path.name) or path.suffix.lower() != ".safetensors":
        return SHARD.fullmatch(path.name) is not None
    names = set(read_header(path).entries)
    has_stats = os.path.lexists(path.with_name(STATS))
    return {"latents", "labels"} <= names and ("latents_flip" in names or has_stats)


def open_lightningdit(path: Path, options: ReadOptions) -> LayoutContent:
    """All shards, by rank and number; mirrors follow as rows N ... 2N − 1 if `flips` says so."""
    folder = path if path.is_dir() else path.parent
    shards = find_shards(path)
    files = [read_header(shard) for shard in shards]
    for file in files:
        _check_alike(file, files[0])
    first = files[0].entries
    flips = options.check_flips(path, stored="latents_flip" in first)
    others = [key for key in first if key not in ("latents", "latents_flip", "labels")]
    notes = telling_metadata(files[0].metadata)
    check_scales(path, [*others, *notes], "f", options)
    channels = first["latents"].shape[1]
    classes, autoencoder = _read_encoding(folder, files)
    return LayoutContent(
        _latent_rows(files, flips=flips),
        "lightningdit",
        torch.cat([_read_labels(file) for file in files]),
        classes,
        normalizer=read_stats(folder, channels) if options.stored else None,
        flips=flips,
        padded=len({_rank_and_number(shard)[0] for shard in shards}) > 1,
        remarks=describe_unused([*map(repr, [*others, *notes])], f"{files[0].path}")
        + _describe_other_files(path, shards),
        autoencoder=autoencoder,
    )


def find_shards(path: Path) -> list[Path]:
    """The shards of a folder in order of rank and number, none missing between them."""
    if path.is_file():
        return [path]
    shards: dict[tuple[int, int], Path] = {}
    for file in sorted(path.glob("latents_rank*")):
        if SHARD.fullmatch(file.name):
            number = _rank_and_number(file)
            if number in shards:
                raise InputError(f"{file} and {shards[number].name} have one number; keep one")
            shards[number] = file
    if not shards:
        raise InputError(f"{path} holds no latents_rank..._shard....safetensors; name the folder")
    _check_numbers(path, shards)
    return [shards[number] for number in sorted(shards)]


def _describe_other_files(path: Path, shards: list[Path]) -> tuple[str, ...]:
    """Files of a folder that hold tensors, and are no shards by their names."""
    others = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    return describe_unused([file.name for file in others if file not in shards], f"{path}")


def _rank_and_number(file: Path) -> tuple[int, int]:
    match = SHARD.fullmatch(file.name)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _check_numbers(path: Path, shards: Iterable[tuple[int, int]]) -> None:
    """Refuse gaps: ranks and the shards of each count from 0 upwards."""
    numbers: dict[int, set[int]] = defaultdict(set)
    for rank, number in shards:
        numbers[rank].add(number)
    for rank in range(max(numbers) + 1):
        if rank not in numbers:
            raise InputError(f"{path} has no shards of rank {rank}; copy the missing files")
        if missing := set(range(len(numbers[rank]))) - numbers[rank]:
            raise InputError(f"{path} has no shard {min(missing)} of rank {rank}; copy that file")


def _check_alike(file: TensorFile, first: TensorFile) -> None:
    """Refuse a shard that does not hold what it says, or is unlike the first one."""
    entries, path = file.entries, file.path
    if not {"latents", "labels"} <= set(entries):
        raise InputError(f"{path} holds {', '.join(entries) or 'nothing'}, not latents and labels")
    if set(entries) != set(first.entries):
        raise InputError(f"{path} holds {', '.join(entries)}, unlike {first.path.name}")
    latents, expected = entries["latents"], first.entries["latents"]
    if len(latents.shape) < 2 or 0 in latents.shape:
        raise InputError(f"{path} holds latents {list(latents.shape)}; [n, C, H, W] belongs there")
    if (latents.dtype, latents.shape[1:]) != (expected.dtype, expected.shape[1:]):
        raise InputError(
            f"{path} holds {latents.dtype} {list(latents.shape)}, but {first.path.name} holds"
            f" {expected.dtype} {list(expected.shape)}; keep the shards of one run"
        )
    mirrors = entries.get("latents_flip", latents)
    if (mirrors.dtype, mirrors.shape) != (latents.dtype, latents.shape):
        raise InputError(f"{path}: latents and latents_flip differ in shape or type")
    count, labels = latents.shape[0], entries["labels"].shape
    if labels != (count,):
        raise InputError(f"{path} holds {count} latents, but labels {list(labels)}")
    total = file.metadata.get("total_size")
    if total is not None and total != str(count):
        raise InputError(f"{path} is damaged: {count} latents where it says {total!r}")


def _latent_rows(files: list[TensorFile], *, flips: bool) -> FileRows:
    """All latents, and after all of them their mirrors."""
    names = ("latents", "latents_flip") if flips else ("latents",)
    pieces = tuple(file.piece(name) for name in names for file in files)
    (first,) = files[0].rows("latents")
    return FileRows(pieces, (sum(piece.rows for piece in pieces), *first.shape[1:]), first.dtype)


def _read_labels(file: TensorFile) -> Tensor:
    (labels,) = file.rows("labels")
    with explain_read_errors(file.path, "labels"):
        return check_labels(labels[:], len(labels), f"labels in {file.path}")


def _read_encoding(folder: Path, files: list[TensorFile]) -> tuple[tuple[str, ...], str]:
    """The class names and the autoencoder that encoding recorded.

    Neither where the shards are others by now.
    """
    path = folder / ENCODED_MANIFEST
    if not path.is_file():
        return (), ""
    with explain_read_errors(path, "the manifest of encoded latents"):
        content = read_json(path)
        recorded = {file["name"]: file["size"] for file in content["files"]}
        sizes = {file.path.name: file.file.state.size for file in files}
        if not sizes.items() <= recorded.items():
            return (), ""
        settings = content["settings"]
        known = [settings.get(f"autoencoder {key}") for key in ("name", "weights")]
        autoencoder = "{} ({})".format(*known) if all(known) else ""
        return tuple(map(str, content["classes"])), autoencoder


def read_stats(folder: Path, channels: int) -> Normalizer:
    """Mean and std [C] as the project stored them."""
    path = folder / STATS
    if not os.path.lexists(path):
        raise InputError(
            f"{folder} holds no {STATS}, which its project divides by; fetch the file, or say"
            " normalize='raw' or a number such as 0.18215"
        )
    with explain_read_errors(path, "statistics"):
        stats = _load_stats(path)
        if not isinstance(stats, dict) or not {"mean", "std"} <= set(stats):
            raise InputError(f"{path} is no dictionary of mean and std")
        if others := [str(key)[:40] for key in stats if key not in ("mean", "std")]:
            raise InputError(
                f"{path} holds {list_some(others)} as well, which may change the scale of points;"
                " say normalize='raw' or a number, or write a file of mean and std alone"
            )
        mean, std = (_check_statistic(stats[key], key, channels, path) for key in ("mean", "std"))
        return Normalizer(mean, std)


def _load_stats(path: Path) -> object:
    """The content of the file, none of it run as code."""
    with open_source(path) as file:
        content = file.read(MAX_STATS_BYTES + 1)
    if len(content) > MAX_STATS_BYTES:
        raise InputError(f"{path} is larger than statistics are; is it another file?")
    # torch compares no checksums, and checks bounds only where it maps a file. What it maps is a
    # copy of ours, since nobody else can cut that short.
    with NamedTemporaryFile() as copy:
        copy.write(content)
        copy.flush()
        try:
            if not check_archive(Path(copy.name)):
                raise InputError(f"{path} is packed; torch.save it again")
            return torch.load(copy.name, weights_only=True, map_location="cpu", mmap=True)
        except UnpicklingError as error:  # torch's own message advises to run the code
            raise InputError(f"{path} holds more than tensors; code is never loaded") from error
        except InputError as error:
            raise InputError(str(error).replace(copy.name, str(path))) from error


def _check_statistic(value: object, key: str, channels: int, path: Path) -> Tensor:
    if (
        type(value) is not Tensor  # no subclass: it could change what the methods below do
        or value.layout is not torch.strided
        or value.is_meta
        or not value.is_floating_point()
        or value.numel() != channels
    ):
        kind = f"{type(value).__name__} {list(getattr(value, 'shape', []))}"
        raise InputError(
            f"{path}: {key} is {kind}, not one number for each of {channels} channels"
        )
    return value.reshape(channels).float().clone()
