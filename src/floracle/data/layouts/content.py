"""What every layout hands over: rows as they are stored, their labels, and a few words.

Rows are anything indexed by a slice or by int64 row numbers that gives a tensor [n, *shape] of the
stored dtype: a tensor itself, rows of files (file_rows.py), or one of the small classes here.
Pictures are [channels, height, width] from here on, whatever their container says.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from floracle.data.normalize import Normalizer
from floracle.run.errors import InputError, suggestion

if TYPE_CHECKING:
    from floracle.data.packed.reader import PackedStore

Key = slice | Tensor

READ = (
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that would move the cursor of whoever reads a name."""
COMPACT = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


class Rows(Protocol):
    """Points [N, *shape] as stored, read by slice or by row numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first, then the shape of one point."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What is stored."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> Tensor: ...


@dataclass(frozen=True)
class LayoutContent:
    """What a layout found."""

    rows: Rows
    layout: str
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    ignored: int = 0
    """Files passed over because they are no pictures."""
    normalizer: Normalizer | None = None
    """How its own project feeds it to its model, where that is known."""
    moments: str | None = None
    """Rows are Gaussians [mean ‖ "std"] or [mean ‖ "logvar"] along their channels."""
    flips: bool = False
    """The second half of the rows are the mirrors of the first."""
    padded: bool = False
    """Several processes wrote it, which repeat a few rows to have the same number each."""
    weights: Tensor | None = None
    """How much each row counts, float64 [N], mirrors left out."""
    remarks: tuple[str, ...] = ()
    packed: PackedStore | None = None
    """A packed store, which needs no look at its points to be opened as it is."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """An array in memory that torch cannot share: of another byte order, stride or alignment."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return self.array.shape

    @property
    def dtype(self) -> torch.dtype:
        """What a copied block holds."""
        return self[:0].dtype

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Key, /) -> Tensor:
        picked = self.array[key if isinstance(key, slice) else key.numpy()]
        return torch.from_numpy(np.array(picked, dtype=native(picked.dtype), order="C"))


@dataclass(frozen=True, eq=False)
class Channelled:
    """Pictures of a foreign array with the channels moved, or put, in front."""

    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, C, H, W]."""
        count, *rest = self.rows.shape
        return (count, 1, *rest) if len(rest) == 2 else (count, rest[2], rest[0], rest[1])

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""
        return self.rows.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key, /) -> Tensor:
        return channels_first(self.rows[key])


@dataclass(frozen=True, eq=False)
class Mirrored:
    """Pictures followed by their left-right mirrors: row N + i is the mirror of row i."""

    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """[2N, C, H, W]."""
        return (2 * len(self.rows), *self.rows.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""
        return self.rows.dtype

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def __getitem__(self, key: Key, /) -> Tensor:
        count = len(self.rows)
        if isinstance(key, slice):
            key = torch.arange(*key.indices(2 * count))
        points = self.rows[key % count].contiguous()
        mirrors = key >= count
        points[mirrors] = points[mirrors].flip(-1)
        return points


def channels_first(images: Tensor) -> Tensor:
    """Stored pictures [N, H, W] or [N, H, W, C] as [N, C, H, W], without a copy."""
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)


def native(kind: np.dtype) -> np.dtype:
    """The type that torch has for numbers of a file: in this byte order, of 64 bits at most."""
    return np.dtype(np.float64) if kind.char == "g" else kind.newbyteorder("=")


def shared(array: np.ndarray) -> Rows:
    """A numpy array as rows, without a copy where torch can share it."""
    ours = array.flags.aligned and native(array.dtype) == array.dtype
    if not ours or min(array.strides, default=0) < 0:
        return Foreign(array)
    with warnings.catch_warnings():  # torch warns of read-only arrays; nothing here is written to
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def as_points(rows: Rows, what: str) -> Rows:
    """Rows whose pictures have their channels in front; refuses what cannot be points."""
    if len(rows.shape) < 2:
        raise InputError(f"{what} has shape {tuple(rows.shape)}; points need [N, ...], rows first")
    if len(rows) == 0 or prod(rows.shape[1:]) == 0:
        raise InputError(f"{what} is empty: its shape is {tuple(rows.shape)}")
    if rows.dtype not in READ:
        raise InputError(f"{what} holds {rows.dtype}; points are real numbers")
    pictures = len(rows.shape) == 3 or (len(rows.shape) == 4 and rows.shape[3] in (1, 3))
    if rows.dtype != torch.uint8 or not pictures:
        return rows
    return channels_first(rows) if isinstance(rows, Tensor) else Channelled(rows)


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether a point [1 or 3, H, W] can be drawn."""
    return len(shape) == 3 and shape[0] in (1, 3)


def check_there(path: Path) -> None:
    """Refuse a path where nothing lies, and suggest the nearest name."""
    if os.path.lexists(path):
        return
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        path, folder = folder, folder.parent
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    hint = suggestion(path.name, names[:100]) if names else "that folder is empty"
    raise InputError(f"there is no {path.name} in {folder}; {hint}")


@contextmanager
def readable(path: Path | str, kind: str) -> Iterator[None]:
    """Turn whatever a foreign reader raises or warns of into a mistake that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        told = CONTROL.sub("?", reason[:200])
        raise InputError(f"{path} cannot be read as {kind}: {told}") from error
