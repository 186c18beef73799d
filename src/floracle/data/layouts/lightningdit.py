"""The latents of LightningDiT and VA-VAE: shards of several processes, and their statistics.

`latents_rank{r:02d}_shard{k:03d}.safetensors` hold `latents` [n, C, H, W], their mirrors
`latents_flip` and `labels`; `latents_stats.pt` holds mean and std, [1, C, 1, 1] each. They come
from some of the latents, drawn without a seed, so they differ between people and are read, never
computed again. The model is fed (z − mean) / std.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from itertools import groupby
from pathlib import Path
from pickle import UnpicklingError
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor

from floracle.data.normalize import Normalizer
from floracle.data.rows.file_rows import FileRows
from floracle.data.rows.source_files import open_source
from floracle.data.rows.tensorfile import TensorFile, read_header
from floracle.run.errors import InputError
from floracle.run.torch_archive import checked_records

from .containers import checked_members
from .content import LayoutContent, Rows, readable
from .labels import checked
from .read_options import ReadOptions

SHARD = re.compile(r"latents_rank(\d+)_shard(\d+)\.safetensors")
STATS = "latents_stats.pt"
MOST_STATS = 2**20


def is_lightningdit(path: Path) -> bool:
    """Whether a folder holds such shards, or a file is one."""
    if path.is_dir():
        return any(SHARD.fullmatch(file.name) for file in path.glob("latents_rank*"))
    return SHARD.fullmatch(path.name) is not None


def open_lightningdit(path: Path, asked: ReadOptions) -> LayoutContent:
    """All shards, by rank and number; mirrors follow as rows N ... 2N − 1 where they are asked."""
    folder = path if path.is_dir() else path.parent
    found = shards(path)
    files = [read_header(file) for file in found]
    for file in files:
        _check_alike(file, files[0])
    mirrored = "latents_flip" in files[0].entries
    flips = asked.mirrors(path, stored=mirrored)
    return LayoutContent(
        _rows(files, flips=flips),
        "lightningdit",
        torch.cat([_labels(file) for file in files]),
        normalizer=read_stats(folder, _channels(files[0])) if asked.stored else None,
        flips=flips,
        padded=len({SHARD.fullmatch(file.name)[1] for file in found}) > 1,  # pyright: ignore
    )


def shards(path: Path) -> list[Path]:
    """The shards of a folder in order of rank and number, none missing between them."""
    if path.is_file():
        return [path]
    numbered = {}
    for file in sorted(path.glob("latents_rank*")):
        if numbers := SHARD.fullmatch(file.name):
            place = int(numbers[1]), int(numbers[2])
            if place in numbered:
                raise InputError(f"{file} and {numbered[place].name} have one number; keep one")
            numbered[place] = file
    if not numbered:
        raise InputError(
            f"{path} holds no latents_rank..._shard....safetensors; name their folder"
        )
    _check_numbers(path, sorted(numbered))
    return [numbered[place] for place in sorted(numbered)]


def _check_numbers(path: Path, places: list[tuple[int, int]]) -> None:
    ranks = {rank: [shard for _, shard in some] for rank, some in groupby(places, lambda p: p[0])}
    for rank in range(max(ranks)):
        if rank not in ranks:
            raise InputError(f"{path} has no shards of rank {rank}; copy the missing files")
    for rank, numbers in ranks.items():
        if numbers != list(range(len(numbers))):
            missing = next(number for number in range(len(numbers)) if number not in numbers)
            raise InputError(
                f"{path} has no shard {missing} of rank {rank}; copy the missing file"
            )


def _check_alike(file: TensorFile, first: TensorFile) -> None:
    """Refuse a shard that does not hold what it says, or is unlike the first one."""
    entries, path = file.entries, file.path
    if not {"latents", "labels"} <= set(entries):
        raise InputError(
            f"{path} holds {', '.join(entries) or 'nothing'}; latents and labels belong"
        )
    if set(entries) != set(first.entries):
        raise InputError(f"{path} holds {', '.join(entries)}, unlike {first.path.name}")
    latents, own = entries["latents"], first.entries["latents"]
    if len(latents.shape) < 2 or 0 in latents.shape:
        raise InputError(f"{path} holds latents {list(latents.shape)}; [n, C, H, W] belongs there")
    if (latents.dtype, latents.shape[1:]) != (own.dtype, own.shape[1:]):
        raise InputError(
            f"{path} holds {latents.dtype} {list(latents.shape)}, but {first.path.name} holds"
            f" {own.dtype} {list(own.shape)}; keep the shards of one run"
        )
    mirrors = entries.get("latents_flip", latents)
    if (mirrors.dtype, mirrors.shape) != (latents.dtype, latents.shape):
        raise InputError(f"{path}: latents and latents_flip differ in shape or type")
    _check_size(file, latents.shape[0])


def _check_size(file: TensorFile, count: int) -> None:
    labels, total = file.entries["labels"].shape, file.metadata.get("total_size")
    if labels != (count,):
        raise InputError(f"{file.path} holds {count} latents, but labels {list(labels)}")
    if total is not None and total != str(count):
        raise InputError(f"{file.path} is damaged: {count} latents where it says {total!r}")


def _rows(files: list[TensorFile], *, flips: bool) -> Rows:
    names = ("latents", "latents_flip") if flips else ("latents",)
    pieces = tuple(file.piece(name) for name in names for file in files)
    (first,) = files[0].rows("latents")
    return FileRows(pieces, (sum(each.rows for each in pieces), *first.shape[1:]), first.dtype)


def _labels(file: TensorFile) -> Tensor:
    (labels,) = file.rows("labels")
    with readable(file.path, "labels"):
        return checked(labels[:], file.entries["labels"].shape[0], f"labels in {file.path}")


def _channels(file: TensorFile) -> int:
    return file.entries["latents"].shape[1]


def read_stats(folder: Path, channels: int) -> Normalizer:
    """Mean and std [C] as the project stored them."""
    path = folder / STATS
    if not os.path.lexists(path):
        raise InputError(
            f"{folder} holds no {STATS}, which its project divides by; fetch the file, or say"
            " normalize='raw' or a number such as 0.18215"
        )
    with readable(path, "statistics"):
        found = _loaded(path)
        if not isinstance(found, dict) or not {"mean", "std"} <= set(found):
            raise InputError(f"{path} is no dictionary of mean and std")
        return Normalizer(
            *(_statistic(found[key], key, channels, path) for key in ("mean", "std"))
        )


def _loaded(path: Path) -> object:
    """The content of the file; torch's own words of what is no tensor advise to run it."""
    content = _trusted(path)
    try:
        # torch minds bounds only where it maps, and a file of our own is never cut short
        with NamedTemporaryFile() as copy:
            copy.write(content)
            copy.flush()
            _check_records(Path(copy.name), path)
            return torch.load(copy.name, weights_only=True, map_location="cpu", mmap=True)
    except UnpicklingError as error:
        raise InputError(f"{path} holds more than tensors, and code is never loaded") from error


def _trusted(path: Path) -> bytes:
    """The bytes of the file, once its checksums are right: torch compares none of them."""
    with open_source(path) as file:
        content = file.read(MOST_STATS + 1)
    if len(content) > MOST_STATS:
        raise InputError(f"{path} is larger than statistics are; is it another file?")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = checked_members(archive, path, MOST_STATS)
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise InputError(f"{path} is packed; torch.save it again")
        if damaged := archive.testzip():
            raise InputError(f"{path} is damaged: the checksum of {damaged} differs")
    return content


def _check_records(copy: Path, path: Path) -> None:
    """Refuse tensors that are longer than what is kept of them: a map would show other bytes."""
    try:
        checked_records(copy)
    except InputError as flaw:
        raise InputError(f"{path} is damaged ({str(flaw).replace(str(copy), 'it')})") from flaw


def _statistic(value: object, key: str, channels: int, path: Path) -> Tensor:
    plain = type(value) is Tensor and value.layout is torch.strided and not value.is_meta
    if not plain or not value.is_floating_point() or value.numel() != channels:  # pyright: ignore
        kind = f"{type(value).__name__} {list(getattr(value, 'shape', []))}"
        raise InputError(
            f"{path}: {key} is {kind}; one number for each of {channels} channels belongs"
        )
    return value.reshape(channels).float().clone()  # pyright: ignore
