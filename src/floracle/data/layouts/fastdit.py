"""The features of fast-DiT: `NAME_features/{i}.npy` [1, C, H, W] and `NAME_labels/{i}.npy` [1].

The latents are drawn and scaled already, and each was mirrored or not by chance when it was
written. Files are taken in the order of their numbers, which is not the order of their names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from floracle.data.normalize import RAW
from floracle.data.rows.joined import Filed, held
from floracle.run.errors import InputError

from .arrays import parsed
from .containers import Container, open_container
from .content import LayoutContent
from .edm import arrays_of
from .labels import checked
from .read_options import ReadOptions

NUMBERED = re.compile(r"(\d{1,18})\.npy")
MOST_LABEL = 2**14
BAKED = (
    "each latent is of a picture that was mirrored or not by chance when it was stored: the other"
    " half of the mirrors is not there, and flips cannot add it"
)


def is_fastdit(folder: Path) -> bool:
    """Whether a folder holds NAME_features and NAME_labels."""
    return any((folder / f"{name}_labels").is_dir() for name in _names(folder))


def _names(folder: Path) -> list[str]:
    return sorted(
        each.name.removesuffix("_features") for each in folder.glob("*_features") if each.is_dir()
    )


def open_fastdit(folder: Path, asked: ReadOptions) -> LayoutContent:
    """All latents and their labels, by number."""
    asked.mirrors(folder, stored=False)
    names = [name for name in _names(folder) if (folder / f"{name}_labels").is_dir()]
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise InputError(
            f"{folder} should hold one pair NAME_features, NAME_labels; found {found}"
        )
    features, labels = (
        open_container(folder / f"{names[0]}_{kind}", asked.room)
        for kind in ("features", "labels")
    )
    files = numbered(features)
    if numbered(labels) != files:
        unlike = min(set(numbered(labels)) ^ set(files))
        raise InputError(f"{folder} has {unlike} only once; features and labels belong together")
    return LayoutContent(
        held(_latents(features, files, asked.room), asked.budget),
        "fast-dit",
        checked([_label(labels, name) for name in files], len(files), f"labels in {folder}"),
        normalizer=RAW if asked.stored else None,
        remarks=(BAKED, *_gaps(files)),
    )


def numbered(box: Container) -> list[str]:
    """The files of a box by number."""
    strange = [name for name in box.names if not NUMBERED.fullmatch(name)]
    if strange or not box.names:
        raise InputError(f"{box.path} should hold 0.npy, 1.npy, ...; it holds {strange[:1]}")
    return sorted(box.names, key=lambda name: (int(name.removesuffix(".npy")), name))


def _latents(box: Container, files: Sequence[str], budget: int) -> Filed[str]:
    rows = arrays_of(box, files, budget)
    if len(rows.shape) < 3 or rows.shape[1] != 1:
        raise InputError(f"{box.path}: {files[0]} is {list(rows.shape[1:])}, not [1, C, H, W]")
    return Filed(files, partial(_alone, rows), (len(files), *rows.shape[2:]), rows.dtype)


def _alone(rows: Filed[str], name: str) -> np.ndarray:
    return rows.load(name)[0]


def _label(box: Container, name: str) -> int:
    label = parsed(box.read(name, MOST_LABEL), f"{box.path}: {name}")
    if label.size != 1 or label.dtype.kind not in "iu":
        raise InputError(f"{box.path}: {name} is {label.dtype} {list(label.shape)}, not one label")
    return int(label.reshape(()))


def _gaps(files: Sequence[str]) -> tuple[str, ...]:
    last = int(files[-1].removesuffix(".npy"))
    missing = last + 1 - len(files)
    return (
        (f"{missing} numbers below {last} have no file; was all of it copied?",) if missing else ()
    )
