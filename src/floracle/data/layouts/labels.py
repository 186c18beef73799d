"""Labels: whole numbers from 0 on, −1 where there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.run.errors import InputError

MOST = 2**20


def checked(labels: Any, count: int, what: str) -> Tensor:
    """Labels as int64 [N], owned; any other number, type or value of them is a mistake."""
    values = _numbers(labels, what)
    if values.ndim != 1 or len(values) != count:
        raise InputError(f"{what} have shape {list(values.shape)}, but there are {count} points")
    low, high = int(values.min()), int(values.max())
    if low < -1 or high >= MOST:
        extreme = low if low < -1 else high
        raise InputError(f"{what} hold {extreme}; labels are 0 ... {MOST - 1}, or -1 for none")
    return torch.from_numpy(values.astype(np.int64))


def class_names(labels: Tensor, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names by label: those of the layout as far as they go, then the numbers themselves."""
    most = max(int(labels.max()) + 1, len(names))
    return names + tuple(str(label) for label in range(len(names), most))


def beside(path: Path) -> Path | None:
    """The labels file that belongs to an .npy file: its own, or the folder's labels.npy."""
    files = (file for file in label_files(path) if os.path.lexists(file))
    return next((file for file in files if file.name != path.name), None)


def label_files(path: Path) -> tuple[Path, ...]:
    """Where the labels of an .npy file may lie, the likeliest first."""
    own = (f"{path.stem}_labels.npy", f"{path.stem}.labels.npy", "labels.npy")
    return tuple(path.with_name(name) for name in own)


def _numbers(labels: Any, what: str) -> np.ndarray:
    values = labels.detach().cpu() if isinstance(labels, Tensor) else labels
    try:
        values = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} are no list of whole numbers") from error
    if values.dtype.kind not in "iu" and values.size:
        raise InputError(f"{what} are {values.dtype}; labels are whole numbers, such as int64")
    return values
