"""Folders of pictures: PNG, JPEG and WebP, one folder per class or all in one.

A class is the alphabetical rank of its folder; pictures below it may be nested. All have one size,
and are grey where every file is grey, RGB otherwise. Transparency is dropped, 16 bits turn 8, the
orientation noted by a camera is not applied, and of moving pictures the first is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from floracle.data.rows.rows import file_per_row, hold_if_fits
from floracle.data.rows.source_files import Changed, explain_read_errors, open_source
from floracle.run.errors import InputError

from .containers import Member, check_folder, files_below, is_hidden, leads_back
from .content import LayoutContent, ReadOptions

MAX_FILE_BYTES = 2**26
MIN_PICTURE_BYTES = 2**24  # for one picture, however small the budget
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}
FORMATS = ("PNG", "JPEG", "WEBP")
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # of Pillow
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}

PictureFile = Path | Member


def open_pictures(folder: Path, options: ReadOptions) -> LayoutContent:
    """The pictures of class folders, or of a flat one; hidden files do not count."""
    entries = sorted(Path(entry) for entry in os.scandir(folder) if not is_hidden(entry.name))
    folders = [entry for entry in entries if entry.is_dir()]
    for entry in folders:
        check_folder(entry)
    folders = [entry for entry in folders if not leads_back(entry, folder)]
    loose = [entry for entry in entries if not entry.is_dir()]
    nested = [sorted(files_below(entry)) for entry in folders]
    loose_pictures = [file for file in loose if is_picture_file(file)]
    by_class = [[file for file in files if is_picture_file(file)] for files in nested]
    pictures = [file for files in by_class for file in files]
    ignored = len(loose) - len(loose_pictures) + sum(map(len, nested)) - len(pictures)

    if loose_pictures and not pictures:
        content = open_picture_files(loose_pictures, None, (), options.budget)
        return replace(content, ignored=ignored)
    _check_classes(folder, loose, dict(zip(folders, by_class, strict=True)))
    # the class of every picture: the rank of its folder, as torchvision's ImageFolder has it
    ranks = torch.arange(len(folders)).repeat_interleave(torch.tensor([*map(len, by_class)]))
    classes = tuple(entry.name for entry in folders)
    content = open_picture_files(pictures, ranks, classes, options.budget)
    return replace(content, ignored=ignored)


def open_picture_files(
    files: Sequence[PictureFile], labels: Tensor | None, classes: tuple[str, ...], budget: int
) -> LayoutContent:
    """Pictures of one size: in memory where they fit, else decoded whenever they are read."""
    shape = _common_shape(files, max(budget, MIN_PICTURE_BYTES))
    rows = file_per_row(files, partial(_decode, shape), shape, torch.uint8)
    return LayoutContent(hold_if_fits(rows, budget), "pictures", labels, classes)


def _check_classes(folder: Path, loose: list[Path], classes: dict[Path, list[Path]]) -> None:
    """Refuse what is no set of class folders: the ranks would be no classes."""
    filled = [entry for entry, files in classes.items() if files]
    empty = [entry for entry, files in classes.items() if not files]
    if not filled:
        arrays = [file.name for file in loose if file.suffix in {".npy", ".npz", ".safetensors"}]
        if arrays:
            raise InputError(f"{folder} holds no pictures; name a file: {', '.join(arrays[:5])}")
        raise InputError(f"{folder} holds no pictures (PNG, JPEG, WebP) and no idx images")
    if picture := next(filter(is_picture_file, loose), None):
        raise InputError(
            f"{folder} holds loose pictures such as {picture.name} and class folders such as"
            f" {filled[0].name}; keep one or the other"
        )
    if empty:
        raise InputError(f"{empty[0]} holds no pictures, so it is no class; move it elsewhere")
    if all(entry.name.lower() in SPLITS for entry in classes):
        names = ", ".join(entry.name for entry in classes)
        raise InputError(f"{folder} is divided into {names}; open one of them: {filled[0]}")


def is_picture_file(path: Path) -> bool:
    """Whether the name ends like a picture that is read."""
    return path.suffix.lower() in ENDINGS


def _common_shape(files: Sequence[PictureFile], max_bytes: int) -> tuple[int, int, int]:
    """[C, H, W] from the headers of all files; the first of another size is named."""
    size, grey = None, True
    for file in files:
        with _open_picture(file) as image:
            if size is not None and image.size != size:
                other, first = (f"{width} x {height}" for width, height in (image.size, size))
                raise InputError(
                    f"{file} is {other}, but {Path(files[0].name).name} is {first}; use one size"
                )
            size, grey = image.size, grey and image.mode in GREY_MODES
    width, height = size or (0, 0)
    if 3 * width * height > max_bytes:
        raise InputError(
            f"{files[0]} is {width} x {height}, beyond {max_bytes >> 20} MiB of memory"
        )
    return (1 if grey else 3, height, width)


def _decode(shape: tuple[int, int, int], file: PictureFile) -> np.ndarray:
    """The bytes [C, H, W] of one picture, which must have just that size."""
    channels, height, width = shape
    with _open_picture(file) as image:
        if (image.height, image.width) != (height, width):
            raise Changed(f"{file} has changed: it is {image.width} x {image.height} now")
        if image.mode in GREY_MODES:
            pixels = _grey_levels(image, file)[:, :, None]  # a grey picture among colours is RGB
        else:  # transparency of a palette becomes a channel of its own, and is dropped
            pixels = image.convert("RGBA") if image.mode == "P" else image
            pixels = np.asarray(pixels.convert("RGB"))
        return np.broadcast_to(pixels, (height, width, channels)).transpose(2, 0, 1)


@contextmanager
def _open_picture(file: PictureFile) -> Iterator[Image.Image]:
    with (
        open_source(file)
        if isinstance(file, Path)
        else BytesIO(file.read(MAX_FILE_BYTES)) as data,
        explain_read_errors(f"{file}", "a picture"),
        Image.open(data, formats=FORMATS) as image,
    ):
        max_pixels = Image.MAX_IMAGE_PIXELS  # Pillow itself refuses only twice as many
        if max_pixels and image.width * image.height > max_pixels:
            raise InputError(
                f"{file} claims {image.width} x {image.height}, beyond {max_pixels} pixels"
            )
        yield image


def _grey_levels(image: Image.Image, file: PictureFile) -> np.ndarray:
    """Bytes [H, W]; of 16 bits the nearest of 256 levels, so that black and white stay so."""
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("L"))
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise InputError(f"{file} holds grey levels beyond 16 bits")
    return ((levels + 128) // 257).astype(np.uint8)  # 65535 = 255 · 257
