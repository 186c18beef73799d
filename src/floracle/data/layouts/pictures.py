"""Folders and .zip archives of pictures: PNG, JPEG and WebP, one folder per class or all in one.

A class is the alphabetical rank of its folder; pictures below it may be nested. All have one size,
and are grey where every file is grey, RGB otherwise. Transparency is dropped, 16 bits turn 8, the
orientation noted by a camera is not applied, and of moving pictures the first is taken. A picture
whose data ends early is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from floracle.data.rows.rows import file_per_row, hold_if_fits
from floracle.data.rows.source_files import Changed, explain_read_errors, open_source
from floracle.run.errors import InputError

from .containers import Container, Member, check_plausible, open_container
from .content import LayoutContent, ReadOptions, list_some
from .encoded_pictures import check_complete, is_deep_png, read_deep_png

MAX_FILE_BYTES = 2**26
MIN_PICTURE_BYTES = 2**24  # for one picture, however small the budget
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}
FORMATS = ("PNG", "JPEG", "WEBP")
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # of Pillow
UNREAD_PICTURES = {
    *(".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".jfif", ".jpe", ".jp2", ".jxl"),
    *(".pbm", ".pgm", ".pnm", ".ppm", ".tga", ".ico"),
}
TABLES = (".npy", ".npz", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".mat", ".pkl", ".pt")
LABEL_TEXT = re.compile(r"(label|class|target|annotation)[^/]*\.txt$", re.IGNORECASE)
TRAINING_SPLITS = {"train", "training"}
HELD_OUT_SPLITS = {"val", "valid", "validation", "test", "testing"}
EDM_NUMBERED = re.compile(r"\d{5}/img\d{8}\.\w+")
NUMBERED_FOLDERS = (
    "the folders 00000, 00001, ... number the pictures as EDM does; they are no classes, and"
    " the pictures have no labels"
)

PictureFile = Path | Member


def open_pictures(path: Path, options: ReadOptions) -> LayoutContent:
    """The pictures of a folder or of an archive."""
    return read_pictures(open_container(path, options.file_budget), options)


def read_pictures(container: Container, options: ReadOptions) -> LayoutContent:
    """The pictures of class folders, or of a flat one; a folder and its archive give the same."""
    # by folder, then by file: of names as a whole, "cat-2/x" would come before "cat/x"
    names = sorted(filter(is_picture_file, container.names), key=lambda name: name.split("/"))
    ignored = [name for name in container.names if not is_picture_file(name)]
    if not any("/" in name for name in names):
        if not names:
            _refuse_no_pictures(container)
        labels, classes, remarks = None, (), ()
    elif all(map(EDM_NUMBERED.fullmatch, names)):
        labels, classes, remarks = None, (), (NUMBERED_FOLDERS,)
    else:
        _check_classes(container, names)
        # the class of a picture: the rank of its folder, as torchvision's ImageFolder has it
        folders = [name.split("/")[0] for name in names]
        classes = tuple(sorted(set(folders)))
        ranks = {name: rank for rank, name in enumerate(classes)}
        labels = torch.tensor([ranks[folder] for folder in folders])
        remarks = _describe_nesting(container, names)
    content = open_picture_files(container.files(names), labels, classes, options.budget)
    remarks += content.remarks + describe_unread([*ignored, *_label_files(container.path)])
    return replace(content, ignored=len(ignored), remarks=remarks)


def open_picture_files(
    files: Sequence[PictureFile], labels: Tensor | None, classes: tuple[str, ...], budget: int
) -> LayoutContent:
    """Pictures of one size: in memory where they fit, else decoded whenever they are read."""
    shape, remarks = _common_shape(files, max(budget, MIN_PICTURE_BYTES))
    complete = bytearray(len(files))  # which files were found to be so: once is enough

    def load(number: int) -> np.ndarray:
        pixels = _decode(shape, files[number], check=not complete[number])
        complete[number] = 1
        return pixels

    rows = file_per_row(range(len(files)), load, shape, torch.uint8)
    return LayoutContent(hold_if_fits(rows, budget), "pictures", labels, classes, remarks=remarks)


def _refuse_no_pictures(container: Container) -> NoReturn:
    path = container.path
    arrays = [name for name in container.names if name.endswith((".npy", ".npz", ".safetensors"))]
    if not arrays:
        raise InputError(f"{path} holds no pictures (PNG, JPEG, WebP) and no idx images")
    listed = ", ".join(arrays[:5])
    if container.archive is not None:
        raise InputError(f"{path} holds no pictures; unpack it, and name a file: {listed}")
    raise InputError(f"{path} holds no pictures; name a file: {listed}")


def _check_classes(container: Container, names: list[str]) -> None:
    """Refuse what is no set of class folders: the ranks would be no classes."""
    path, filled = container.path, {name.split("/")[0] for name in names if "/" in name}
    if loose := next((name for name in names if "/" not in name), None):
        raise InputError(
            f"{path} holds pictures both loose and in class folders, such as {loose} and"
            f" {min(filled)}; keep one or the other"
        )
    if empty := set(container.folders) - filled:
        raise InputError(
            f"{container.place(min(empty))} holds no pictures, so it is no class; move it"
            " elsewhere"
        )
    if are_splits(filled, alone=True):
        divided = f"{path} is divided into {', '.join(sorted(filled))}"
        raise InputError(f"{divided}; {container.advise_opening(min(filled))}")
    for folder, below in _folders_below(names).items():
        if are_splits(below, alone=len(filled) == 1):
            divided = f"{container.place(folder)} is divided into {', '.join(sorted(below))}"
            first = f"{folder}/{min(below)}"
            raise InputError(
                f"{divided}, and the classes of {path} would hold all of them;"
                f" {container.advise_opening(first)}"
            )


def are_splits(folders: Collection[str], *, alone: bool) -> bool:
    """Whether folders are named for training and held-out parts; `alone`: for either of them."""
    names = {folder.lower() for folder in folders}
    if alone and names and names <= TRAINING_SPLITS | HELD_OUT_SPLITS:
        return True
    plain = {name.rstrip("0123456789-_") for name in names}  # train2017 and val2017 of COCO
    return bool(plain & TRAINING_SPLITS and plain & HELD_OUT_SPLITS)


def _folders_below(names: Iterable[str]) -> dict[str, set[str]]:
    """By class folder, the folders right below it that pictures lie in."""
    below: dict[str, set[str]] = {}
    for folder, *rest in (name.split("/") for name in names):
        if len(rest) > 1:
            below.setdefault(folder, set()).add(rest[0])
    return below


def _describe_nesting(container: Container, names: list[str]) -> tuple[str, ...]:
    """A single class whose pictures all lie in folders of their own, which may be the classes."""
    (folder, *others), below = {name.split("/")[0] for name in names}, _folders_below(names)
    if others or len(below.get(folder, ())) < 2 or any(name.count("/") < 2 for name in names):
        return ()
    return (
        f"all pictures are of one class, {folder!r}, whose folders are"
        f" {list_some(sorted(below[folder]))}: if those are the classes,"
        f" {container.advise_opening(folder)}",
    )


def describe_unread(names: Sequence[str]) -> tuple[str, ...]:
    """Files beside pictures that may be meant to be read: other pictures, arrays, labels."""
    remarks = ()
    if pictures := [name for name in names if _ending(name) in UNREAD_PICTURES]:
        remarks += (
            f"{len(pictures)} files are passed over that may be pictures ({list_some(pictures)});"
            " PNG, JPEG and WebP are read",
        )
    if tables := [name for name in names if _ending(name) in TABLES or LABEL_TEXT.search(name)]:
        remarks += (
            f"{list_some(tables)} beside the pictures is not read; if it holds their labels, give"
            " them as a label file: an .npy with one whole number for each picture, by name",
        )
    return remarks


def _label_files(path: Path) -> list[str]:
    """Files beside a folder or an archive of pictures that are named as its labels."""
    names = (f"{path.stem}{sign}labels{ending}" for sign in "_." for ending in (*TABLES, ".txt"))
    return [name for name in names if os.path.lexists(path.with_name(name))]


def is_picture_file(name: str) -> bool:
    """Whether the name ends like a picture that is read."""
    return _ending(name) in ENDINGS


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _common_shape(
    files: Sequence[PictureFile], max_bytes: int
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """[C, H, W] from the headers of all files, and what is to be said of transparent ones.

    The first of another size is named.
    """
    size, grey, transparent = None, True, []
    for file in files:
        with _open_picture(file) as image:
            if size is not None and image.size != size:
                other, first = (f"{width} x {height}" for width, height in (image.size, size))
                raise InputError(
                    f"{file} is {other}, but {Path(files[0].name).name} is {first}; use one size"
                )
            size, grey = image.size, grey and image.mode in GREY_MODES
            width, height = size
            if 3 * width * height > max_bytes:
                raise InputError(
                    f"{file} is {width} x {height}, beyond {max_bytes >> 20} MiB of memory"
                )
            if image.has_transparency_data and _is_transparent(image):
                transparent.append(file)
    width, height = size or (0, 0)
    remarks = ()
    if transparent:
        remarks = (
            f"{len(transparent)} of {len(files)} pictures are transparent in places, such as"
            f" {Path(transparent[0].name).name}: transparency is dropped, so the colours stored"
            " under it count; if they should not, draw the pictures on a background first",
        )
    return (1 if grey else 3, height, width), remarks


def _is_transparent(image: Image.Image) -> bool:
    """Whether a pixel is not opaque."""
    low, _ = image.convert("RGBA").getchannel("A").getextrema()
    return isinstance(low, int) and low < 255


def _decode(shape: tuple[int, int, int], file: PictureFile, *, check: bool) -> np.ndarray:
    """The bytes [C, H, W] of one picture, which must have just that size.

    `check`: whether all of its data is there is looked at too.
    """
    channels, height, width = shape
    content = _read_file(file)
    with _open_picture(file, content) as image:
        if (image.height, image.width) != (height, width):
            raise Changed(f"{file} has changed: it is {image.width} x {image.height} now")
        if check:
            check_complete(content, np.asarray(image), f"{file}")
        if is_deep_png(content):
            levels = read_deep_png(content, f"{file}")
            pixels = _nearest_bytes(levels[:, :, : 1 if levels.shape[2] == 2 else 3])
        elif image.mode in GREY_MODES:
            pixels = _grey_levels(image, file)[:, :, None]  # a grey picture among colours is RGB
        else:  # transparency of a palette becomes a channel of its own, and is dropped
            pixels = image.convert("RGBA") if image.mode == "P" else image
            pixels = np.asarray(pixels.convert("RGB"))
        return np.broadcast_to(pixels, (height, width, channels)).transpose(2, 0, 1)


def _read_file(file: PictureFile) -> bytes:
    if isinstance(file, Member):
        return file.read(MAX_FILE_BYTES)
    with open_source(file) as stream:
        return stream.read()


@contextmanager
def _open_picture(file: PictureFile, content: bytes | None = None) -> Iterator[Image.Image]:
    """A picture as Pillow has it; of a file that was not read, only what is needed is read."""
    with (
        open_source(file)
        if content is None and isinstance(file, Path)
        else BytesIO(_read_file(file) if content is None else content) as data,
        explain_read_errors(f"{file}", "a picture"),
        Image.open(data, formats=FORMATS) as image,
    ):
        position = data.tell()  # where Pillow reads on
        max_pixels = Image.MAX_IMAGE_PIXELS  # Pillow itself refuses only twice as many
        if max_pixels and image.width * image.height > max_pixels:
            raise InputError(
                f"{file} claims {image.width} x {image.height}, beyond {max_pixels} pixels"
            )
        size = data.seek(0, os.SEEK_END)
        check_plausible(f"{file}", 3 * image.width * image.height, size)
        data.seek(position)
        yield image


def _grey_levels(image: Image.Image, file: PictureFile) -> np.ndarray:
    """Bytes [H, W]; of 16 bits the nearest of 256 levels, so that black and white stay so."""
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("L"))
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise InputError(f"{file} holds grey levels beyond 16 bits")
    return _nearest_bytes(levels)


def _nearest_bytes(levels: np.ndarray) -> np.ndarray:
    """The nearest of 256 levels for each of 65536: 65535 = 255 · 257."""
    return ((levels.astype(np.int64) + 128) // 257).astype(np.uint8)
