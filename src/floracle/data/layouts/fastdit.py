"""The features of fast-DiT: `NAME_features/{i}.npy` [1, C, H, W] and `NAME_labels/{i}.npy` [1].

The latents are drawn and scaled already, and each was mirrored or not by chance when it was
written. Files are taken in the order of their numbers, which is not the order of their names.
"""

from __future__ import annotations

import re
from pathlib import Path

from floracle.data.normalize import RAW
from floracle.data.rows.rows import hold_if_fits, map_rows
from floracle.run.errors import InputError

from .containers import Container, open_container
from .content import LayoutContent, ReadOptions
from .edm import stack_npy_files
from .labels import check_labels
from .npy import parse_npy

NUMBERED = re.compile(r"(\d{1,18})\.npy")
MAX_LABEL_BYTES = 2**14
MIRRORED_BY_CHANCE = (
    "each latent is of a picture that was mirrored or not by chance when it was stored: the other"
    " half of the mirrors is not there, and flips cannot add it"
)


def is_fastdit(folder: Path) -> bool:
    """Whether a folder holds NAME_features and NAME_labels."""
    return bool(_pair_names(folder))


def _pair_names(folder: Path) -> list[str]:
    features = (entry for entry in folder.glob("*_features") if entry.is_dir())
    names = sorted(entry.name.removesuffix("_features") for entry in features)
    return [name for name in names if (folder / f"{name}_labels").is_dir()]


def open_fastdit(folder: Path, options: ReadOptions) -> LayoutContent:
    """All latents and their labels, by number."""
    options.check_flips(folder, stored=False)
    names = _pair_names(folder)
    if len(names) != 1:
        raise InputError(
            f"{folder} should hold one pair NAME_features, NAME_labels;"
            f" found {', '.join(names) or 'none'}"
        )
    features, labels = (
        open_container(folder / f"{names[0]}_{kind}", options.file_budget)
        for kind in ("features", "labels")
    )
    files = _sort_by_number(features)
    if unpaired := set(_sort_by_number(labels)) ^ set(files):
        raise InputError(f"{folder} has {min(unpaired)} only once; features need labels")
    rows = stack_npy_files(features, files, options.file_budget)
    if len(rows.shape) < 3 or rows.shape[1] != 1:
        raise InputError(f"{features.path}: {files[0]} is {[*rows.shape[1:]]}, not [1, C, H, W]")
    # fast-DiT stores a batch of one; the axis goes when rows are read
    latents = map_rows(rows, lambda block: block[:, 0], shape=(len(files), *rows.shape[2:]))
    classes = [_read_label(labels, name) for name in files]
    return LayoutContent(
        hold_if_fits(latents, options.budget),
        "fast-dit",
        check_labels(classes, len(files), f"labels in {folder}"),
        normalizer=RAW if options.stored else None,
        remarks=(MIRRORED_BY_CHANCE, *_describe_gaps(files)),
    )


def _sort_by_number(container: Container) -> list[str]:
    strange = [name for name in container.names if not NUMBERED.fullmatch(name)]
    if strange or not container.names:
        raise InputError(f"{container.path} should hold 0.npy, 1.npy, ...; it holds {strange[:1]}")
    return sorted(container.names, key=lambda name: (int(name.removesuffix(".npy")), name))


def _read_label(container: Container, name: str) -> int:
    file = f"{container.path}: {name}"
    label = parse_npy(container.read(name, MAX_LABEL_BYTES), file)
    if label.size != 1 or label.dtype.kind not in "iu":
        raise InputError(f"{file} is {label.dtype} {list(label.shape)}, not one label")
    return int(label.reshape(()))


def _describe_gaps(files: list[str]) -> tuple[str, ...]:
    last = int(files[-1].removesuffix(".npy"))
    missing = last + 1 - len(files)
    if not missing:
        return ()
    return (f"{missing} numbers below {last} have no file; was all of it copied?",)
