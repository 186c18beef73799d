"""Folders of pictures: PNG, JPEG and WebP, one folder per class or all in one.

A class is the alphabetical rank of its folder; pictures below it may be nested. All have one size,
and are grey where every file is grey, RGB otherwise. Transparency is dropped, 16 bits turn 8, the
orientation noted by a camera is not applied, and of moving pictures the first is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from floracle.data.rows.source_files import Changed, open_source
from floracle.run.errors import InputError

from .containers import Member
from .content import Key, LayoutContent, Rows, readable
from .folders import below, check_folder, is_hidden, leads_back

MOST_FILE = 2**26
LEAST = 2**24
"""Bytes for one picture that are always there."""
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}
FORMATS = ("PNG", "JPEG", "WEBP")
GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True, eq=False)
class Pictures:
    """Picture files as rows [N, C, H, W] of bytes, decoded whenever they are read."""

    files: tuple[Path | Member, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.uint8

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Key, /) -> Tensor:
        places = range(len(self))[key] if isinstance(key, slice) else key.tolist()
        images = np.empty((len(places), *self.shape[1:]), np.uint8)
        for image, place in zip(images, places, strict=True):
            image[:] = decoded(self.files[place], self.shape[1:])
        return torch.from_numpy(images)


@dataclass(frozen=True)
class PictureFiles:
    """The pictures of a folder with their classes, and how many files were passed over."""

    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]
    ignored: int


def open_pictures(folder: Path, budget: int) -> LayoutContent:
    """All pictures of a folder, in memory where they fit, else decoded block by block."""
    found = find(folder)
    labels = None if found.labels is None else torch.tensor(found.labels)
    content = open_members(found.files, labels, found.classes, budget)
    return replace(content, ignored=found.ignored)


def open_members(
    files: tuple[Path | Member, ...], labels: Tensor | None, classes: tuple[str, ...], budget: int
) -> LayoutContent:
    """Pictures whose files and labels are known."""
    rows: Rows = Pictures(files, _common_shape(files, max(budget, LEAST)))
    if torch.Size(rows.shape).numel() <= budget:
        rows = rows[:]
    return LayoutContent(rows, "pictures", labels, classes)


def find(folder: Path) -> PictureFiles:
    """The pictures of class folders, or of a flat one; hidden files do not count."""
    entries = sorted(Path(entry) for entry in os.scandir(folder) if not is_hidden(entry.name))
    folders = [entry for entry in entries if entry.is_dir()]
    for each in folders:
        check_folder(each)
    folders = [each for each in folders if not leads_back(each, folder)]
    loose = [entry for entry in entries if not entry.is_dir()]
    nested = [sorted(below(each)) for each in folders]
    flat = [file for file in loose if is_picture_file(file)]
    per_class = [[file for file in files if is_picture_file(file)] for files in nested]
    ignored = len(loose) - len(flat) + sum(map(len, nested)) - sum(map(len, per_class))

    if flat and not any(per_class):
        return PictureFiles(tuple(flat), None, (), ignored)
    _check_classes(folder, loose, flat, dict(zip(folders, per_class, strict=True)))
    labels = tuple(rank for rank, files in enumerate(per_class) for _ in files)
    files = tuple(file for files in per_class for file in files)
    return PictureFiles(files, labels, tuple(each.name for each in folders), ignored)


def _check_classes(
    folder: Path, loose: list[Path], flat: list[Path], classes: dict[Path, list[Path]]
) -> None:
    """Refuse what is no set of class folders: their ranks would not mean what they say."""
    holding = [each for each, files in classes.items() if files]
    empty = [each for each, files in classes.items() if not files]
    if not holding:
        raise InputError(_nothing(folder, loose))
    if flat:
        raise InputError(
            f"{folder} holds loose pictures such as {flat[0].name} and class folders such as"
            f" {holding[0].name}; keep one or the other"
        )
    if empty:
        raise InputError(
            f"{empty[0]} holds no pictures, so it is no class; move it out of {folder}"
        )
    if all(each.name.lower() in SPLITS for each in classes):
        names = ", ".join(each.name for each in classes)
        raise InputError(f"{folder} is divided into {names}; open one of them: {holding[0]}")


def is_picture_file(path: Path) -> bool:
    """Whether the name ends like a picture that is read."""
    return path.suffix.lower() in ENDINGS


def decoded(path: Path | Member, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes [C, H, W] of one picture, which must have just that size."""
    channels, height, width = shape
    with _opened(path) as image:
        if (image.height, image.width) != (height, width):
            raise Changed(f"{path} has changed: it is {image.width} x {image.height} now")
        pixels = _grey(image, path) if _is_grey(image) else np.asarray(_rgb(image))
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        return np.broadcast_to(pixels, (height, width, channels)).transpose(2, 0, 1)


def _common_shape(files: tuple[Path | Member, ...], most: int) -> tuple[int, ...]:
    """[N, C, H, W] from the headers of all files; the first of another size is named."""
    size, grey = None, True
    for file in files:
        with _opened(file) as image:
            if size is not None and image.size != size:
                ours, first = (f"{width} x {height}" for width, height in (image.size, size))
                raise InputError(
                    f"{file} is {ours}, but {Path(files[0].name).name} is {first}; use one size"
                )
            size, grey = image.size, grey and _is_grey(image)
    width, height = size or (0, 0)
    if 3 * width * height > most:
        raise InputError(
            f"{files[0]} is {width} x {height}, beyond the memory of {most >> 20} MiB"
        )
    return (len(files), 1 if grey else 3, height, width)


@contextmanager
def _opened(path: Path | Member) -> Iterator[Image.Image]:
    with (
        open_source(path) if isinstance(path, Path) else BytesIO(path.read(MOST_FILE)) as file,
        readable(f"{path}", "a picture"),
        Image.open(file, formats=FORMATS) as image,
    ):
        most = Image.MAX_IMAGE_PIXELS
        if most and image.width * image.height > most:
            raise InputError(f"{path} claims {image.width} x {image.height}, beyond {most} pixels")
        yield image


def _is_grey(image: Image.Image) -> bool:
    return image.mode in GREY


def _grey(image: Image.Image, path: Path | Member) -> np.ndarray:
    """Bytes [H, W]; of 16 bits the nearest of 256 levels, so that black and white stay so."""
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("L"))
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise InputError(f"{path} holds grey levels beyond 16 bits")
    return ((levels + 128) // 257).astype(np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")


def _nothing(folder: Path, loose: list[Path]) -> str:
    arrays = [file.name for file in loose if file.suffix in {".npy", ".npz", ".safetensors"}]
    if arrays:
        return f"{folder} holds no pictures; name the file to open: {', '.join(arrays[:5])}"
    return f"{folder} holds no pictures (PNG, JPEG, WebP) and no idx images"
