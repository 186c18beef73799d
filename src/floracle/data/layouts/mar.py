"""The cache of MAR: `CACHE/<class>/<name>.npz`, one file a sample, a folder for each class.

Every file holds `moments` and `moments_flip` [2C, H, W] = [mean ‖ log variance] of a picture and
of its mirror. The model is fed draws times 0.2325.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from floracle.data.normalize import multiplied
from floracle.data.rows.joined import Filed, Joined, held
from floracle.data.rows.source_files import open_source
from floracle.run.errors import InputError

from .arrays import parsed
from .containers import Container, checked_members, open_container
from .content import LayoutContent, readable, shared
from .read_options import ReadOptions

SCALE = 0.2325
KEYS = ("moments", "moments_flip")
ROOM = 2**16
"""Bytes around the arrays of a file: headers, names, the list of members."""


@dataclass(frozen=True)
class Cached:
    """Where one array of one sample lies."""

    box: Container
    key: str
    most: int
    """No file is larger than this."""

    def array(self, name: str) -> np.ndarray:
        """It, from the file of that name."""
        where = f"{self.box.path}/{name}"
        with (
            readable(where, "an .npz archive"),
            zipfile.ZipFile(io.BytesIO(self.box.read(name, self.most))) as archive,
        ):
            if f"{self.key}.npy" not in checked_members(archive, Path(where), self.most):
                raise InputError(f"{where} holds no {self.key}; it is no cache of MAR")
            return parsed(archive.read(f"{self.key}.npy"), f"{where}: {self.key}")


def is_mar(folder: Path) -> bool:
    """Whether the first class folder holds .npz files with moments."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    first = next((entry for entry in entries if entry.is_dir() and _caches(entry)), None)
    if first is None:
        return False
    with (
        readable(first, "a cache"),
        open_source(_caches(first)[0]) as file,
        zipfile.ZipFile(file) as archive,
    ):
        return "moments.npy" in archive.namelist()


def _caches(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("*.npz"))


def open_mar(folder: Path, asked: ReadOptions) -> LayoutContent:
    """All samples; mirrors follow as rows N ... 2N − 1 where they are points."""
    box = open_container(folder, asked.room)
    names = [name for name in box.names if name.endswith(".npz")]
    if not names or any(name.count("/") != 1 for name in names):
        raise InputError(f"{folder} should hold CLASS/NAME.npz, one folder for each class")
    classes = sorted({name.split("/")[0] for name in names})
    ranks = {each: rank for rank, each in enumerate(classes)}
    flips = asked.mirrors(folder, stored=_has_mirrors(box, names[0], asked.room))
    rows = [_filed(box, key, names, asked.room) for key in KEYS[: 1 + flips]]
    return LayoutContent(
        held(rows[0] if len(rows) == 1 else Joined(tuple(rows)), asked.budget),
        "mar",
        torch.tensor([ranks[name.split("/")[0]] for name in names]),
        tuple(classes),
        normalizer=multiplied(SCALE) if asked.stored else None,
        moments="logvar",
        flips=flips,
    )


def _has_mirrors(box: Container, name: str, budget: int) -> bool:
    where = f"{box.path}/{name}"
    with (
        readable(where, "an .npz archive"),
        zipfile.ZipFile(io.BytesIO(box.read(name, budget))) as archive,
    ):
        return f"{KEYS[1]}.npy" in checked_members(archive, Path(where), budget)


def _filed(box: Container, key: str, names: Sequence[str], budget: int) -> Filed[str]:
    first = Cached(box, key, budget).array(names[0])
    if not first.size or not first.ndim:
        raise InputError(f"{box.path}/{names[0]}: {key} is empty: its shape is {first.shape}")
    cached = Cached(box, key, most=min(budget, 4 * first.nbytes + ROOM))

    def load(name: str) -> np.ndarray:
        array = cached.array(name)
        if (array.shape, array.dtype) != (first.shape, first.dtype):
            raise InputError(
                f"{box.path}/{name}: {key} is {array.dtype} {list(array.shape)}, but that of the"
                f" first file is {first.dtype} {list(first.shape)}; keep one kind"
            )
        return array

    return Filed(names, load, (len(names), *first.shape), shared(first[None]).dtype)
